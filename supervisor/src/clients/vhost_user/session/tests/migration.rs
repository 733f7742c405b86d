//! A guest that migrates: what QEMU 11.1 says, and what others might.

use sv3::ipc::{Command as C, LOG_GUEST_ADDR, RingAddr};
use sv3::virtio::*;

use super::client::*;
use super::*;

const PAGE: u64 = 4096;

fn log_base(size: u64, offset: u64) -> Request {
    Request::SetLogBase { size, offset, fd: fd() }
}

fn logged(ring: u16, log: u64) -> Request {
    match addr(ring, 0x1000) {
        Request::SetVringAddr { ring, addr, .. } => Request::SetVringAddr { ring, flags: 1, addr, log },
        other => other,
    }
}

fn log_all() -> Request {
    Request::SetFeatures(SPLIT | VHOST_F_LOG_ALL.mask())
}

/// A client whose pages are marked.
fn migrating() -> Client {
    let mut client = Client::running();
    assert_eq!(client.ask(log_base(2 * PAGE, 0)), Some(Reply::ack(Code::SET_LOG_BASE, true)));
    assert_eq!(client.names(), [""; 0], "nothing is marked yet");
    assert_eq!(client.ask_with(log_all(), true), Ok(Some(Reply::ack(Code::SET_FEATURES, true))));
    for ring in 0..2 {
        client.ask_with(logged(ring, 0x3000), true).unwrap();
    }
    assert_eq!(client.names(), ["LogOpen", "Barrier", "RingLog", "Barrier", "RingLog", "Barrier"]);
    assert!(client.session.device().is_migrating());
    client
}

#[test]
fn pages_are_marked_from_the_moment_at_which_the_client_says_so_while_rings_run() {
    let mut client = migrating();
    let Some(C::LogOpen { port: 7, region }) = client.commands.first() else { panic!("no log") };
    assert_eq!((region.guest_addr, region.size, region.offset), (LOG_GUEST_ADDR, 2 * PAGE, 0));
    assert!(client.commands.contains(&C::RingLog { port: 7, ring: 1, addr: Some(0x3000) }));
    let replay = client.session.replay();
    let names: Vec<_> = replay.iter().map(|told| name(&told.command)).collect();
    let wanted =
        ["LogOpen", "RingCall", "RingLog", "RingEnable", "RingStart", "RingCall", "RingLog", "RingEnable", "RingStart"];
    assert_eq!(names[4..], wanted);
    assert!(replay.iter().all(|told| match told.command {
        C::PortFeatures { features, .. } => !VHOST_F_LOG_ALL.of(features),
        _ => true,
    }));

    // Memory was plugged: the log grows. The old one is no longer used when the client has the answer.
    client.commands.clear();
    assert_eq!(client.ask(log_base(4 * PAGE, 0)), Some(Reply::ack(Code::SET_LOG_BASE, true)));
    assert_eq!(client.names(), ["LogOpen", "Barrier"]);
}

#[test]
fn a_migration_that_is_cancelled_leaves_nothing_and_another_one_can_follow() {
    let mut client = migrating();
    for _ in 0..3 {
        client.commands.clear();
        client.ask_with(Request::SetFeatures(SPLIT), true).unwrap();
        for ring in 0..2 {
            client.ask_with(addr(ring, 0x1000), true).unwrap();
        }
        assert_eq!(client.names(), ["LogClose", "Barrier", "RingLog", "Barrier", "RingLog", "Barrier"]);
        assert!(!client.session.device().is_migrating() && client.session.device().is_running());
        client.commands.clear();
        client.ask(log_base(2 * PAGE, PAGE));
        client.ask_with(log_all(), true).unwrap();
        assert_eq!(client.names(), ["LogOpen", "Barrier"]);
        for ring in 0..2 {
            client.ask_with(logged(ring, 0x3000), true).unwrap();
        }
    }
}

#[test]
fn the_log_ends_with_the_last_ring_and_the_guests_addresses_are_forgotten() {
    let mut client = migrating();
    client.commands.clear();
    client.ask(Request::GetVringBase { ring: 0 });
    assert_eq!(client.names(), ["RingStop", "Barrier"]);
    client.ask(Request::GetVringBase { ring: 1 });
    assert_eq!(client.names()[2..], ["RingStop", "LogClose", "AddressFlush", "Barrier"]);
    assert!(!client.session.device().is_migrating());

    // The guest reboots meanwhile, or runs on here after all: the device starts as QEMU starts it, the log last.
    client.commands.clear();
    for ring in 0..2 {
        client.ask(Request::SetVringBase { ring, base: 0 });
        client.ask(logged(ring, 0x3000));
        client.ask(Request::SetVringKick { ring, fd: Some(fd()) });
    }
    assert_eq!(client.names(), [""; 0], "no page is written before there is a log");
    assert!(client.session.device().lacks_log(), "status says why nothing runs");
    client.ask(log_base(2 * PAGE, 0));
    assert_eq!(client.names(), ["LogOpen", "RingEnable", "RingStart", "RingEnable", "RingStart", "Barrier"]);
    assert!(!client.session.device().lacks_log());
}

#[test]
fn a_worker_that_dies_while_the_last_ring_stops_leaves_the_log_to_the_next_one() {
    let mut client = migrating();
    client.ask(Request::GetVringBase { ring: 0 });
    let step = client.send(Request::GetVringBase { ring: 1 }, false).unwrap();
    assert!(step.reply.is_none() && client.session.worker_died(|_| 3).is_none());
    let names: Vec<_> = client.session.replay().iter().map(|told| name(&told.command)).collect();
    let at = |wanted: &str| names.iter().position(|name| *name == wanted).unwrap();
    assert!(at("LogOpen") < at("RingStart") && at("RingStop") < at("LogClose"), "{names:?}");
}

#[test]
fn a_log_that_is_no_file_of_its_size_is_refused() {
    // CVE-2020-10722.
    for (size, offset) in [
        (u64::MAX, u64::MAX),
        (u64::MAX - PAGE + 1, PAGE),
        (PAGE, u64::MAX - PAGE + 1),
        (PAGE, 1 << 30),
        (0, 0),
        (1 << 31, 0),
    ] {
        let mut client = Client::running();
        client.kernel.file_size.set(if size == 1 << 31 { 1 << 40 } else { 1 << 30 });
        let refused = client.send(log_base(size, offset), false).unwrap_err();
        assert_eq!(
            (refused.reply, refused.close),
            (Some(Reply::ack(Code::SET_LOG_BASE, false)), true),
            "{size} {offset}"
        );
        assert!(refused.reason.0.contains("log of dirty pages"), "{}", refused.reason.0);
    }
}

#[test]
fn without_a_file_for_the_log_nothing_is_logged() {
    let mut client = Client::new();
    client.ask(Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES & !VHOST_USER_PROTOCOL_F_LOG_SHMFD.mask()));
    client.ask(log_all());
    client.ask(table());
    client.start(0);
    assert!(client.names().contains(&"RingStart"), "a client that never gives a log is served");
    assert!(client.refused(log_base(PAGE, 0)).contains("without VHOST_USER_PROTOCOL_F_LOG_SHMFD"));
    assert!(client.refused(logged(1, 0)).contains("flags 0x1"));
}

#[test]
fn other_features_and_addresses_are_refused_while_rings_run() {
    let mut client = migrating();
    assert!(client.refused(Request::SetFeatures(SPLIT & !VIRTIO_RING_F_EVENT_IDX.mask())).contains("while rings run"));
    let mut client = migrating();
    let addr = RingAddr { desc: 0x1000, avail: 0x2000, used: 0x5000 };
    assert!(client.refused(Request::SetVringAddr { ring: 0, flags: 1, addr, log: 0x3000 }).contains("runs"));
    assert!(client.refused(Request::SetVringAddr { ring: 0, flags: 2, addr, log: 0 }).contains("flags 0x2"));
}
