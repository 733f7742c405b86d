//! Exchanges of front-ends: correct ones and wrong ones.

mod client;
mod migration;
mod random;

use sv3::ipc::Command as C;
use sv3::virtio::*;

use super::*;
use client::*;

/// The order in which QEMU sends: features, protocol features, calls, enable, features again, memory, rings.
#[test]
fn a_guest_of_qemu_starts_its_rings() {
    let mut client = Client::new();
    assert_eq!(client.ask(Request::GetFeatures), Some(Reply::U64(Code::GET_FEATURES, OFFERED)));
    let offered = Reply::U64(Code::GET_PROTOCOL_FEATURES, OFFERED_PROTOCOL_FEATURES);
    assert_eq!(client.ask(Request::GetProtocolFeatures), Some(offered));
    client.ask(Request::SetProtocolFeatures(OFFERED_PROTOCOL_FEATURES));
    assert_eq!(client.ask(Request::GetQueueNum), Some(Reply::U64(Code::GET_QUEUE_NUM, 16)));
    assert_eq!(client.ask(Request::GetMaxMemSlots), Some(Reply::U64(Code::GET_MAX_MEM_SLOTS, 509)));
    client.ask(Request::SetOwner);
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetVringCall { ring: 1, fd: Some(fd()) });
    client.ask(Request::SetVringEnable { ring: 0, num: 1 });
    client.ask(Request::SetVringEnable { ring: 1, num: 1 });
    client.ask(Request::SetFeatures(ALL));
    client.commands.clear();

    let added = client.ask_with(Request::AddMemReg(region(0), fd()), true);
    client.start(0);

    assert_eq!(added, Ok(Some(Reply::ack(Code::ADD_MEM_REG, true))));
    assert_eq!(client.names(), ["RegionAdd", "Barrier", "RingEnable", "RingStart", "RingCall"]);
    assert!(client.session.device().known_ring(0).unwrap().started);
}

/// DPDK's virtio-user sends calls before features, and enables last.
#[test]
fn a_virtio_user_starts_its_rings() {
    let mut client = Client::new();
    client.ask(Request::SetOwner);
    client.ask(Request::SetProtocolFeatures(VHOST_USER_PROTOCOL_F_REPLY_ACK.mask()));
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetFeatures(OFFERED));
    client.commands.clear();

    let told = client.ask_with(table(), true);
    client.ask(Request::SetVringNum { ring: 0, num: 512 });
    client.ask(Request::SetVringBase { ring: 0, base: 0 });
    client.ask(addr(0, 0x1000));
    client.ask(Request::SetVringKick { ring: 0, fd: Some(fd()) });
    let enabled = client.ask_with(Request::SetVringEnable { ring: 0, num: 1 }, true);

    assert_eq!(told, Ok(Some(Reply::ack(Code::SET_MEM_TABLE, true))));
    assert_eq!(enabled, Ok(Some(Reply::ack(Code::SET_VRING_ENABLE, true))));
    let wanted = ["RegionStage", "MemoryCommit", "Barrier", "RingDisable", "RingStart", "RingEnable", "Barrier"];
    assert_eq!(client.names(), wanted);
}

#[test]
fn a_ring_starts_with_whatever_comes_last() {
    let rest = |client: &mut Client, skip: usize| {
        for step in (0..4).filter(|step| *step != skip).chain([skip]) {
            assert!(client.commands.iter().all(|command| name(command) != "RingStart"));
            match step {
                0 => client.ask(Request::SetVringNum { ring: 1, num: 256 }),
                1 => client.ask(addr(1, 0x1000)),
                2 => client.ask(Request::SetVringKick { ring: 1, fd: Some(fd()) }),
                _ => client.ask(table()),
            };
        }
    };
    for last in 0..4 {
        let mut client = Client::negotiated();
        rest(&mut client, last);
        assert_eq!(client.names().iter().filter(|name| **name == "RingStart").count(), 1, "{last} last");
    }
}

/// Both halves of a packed ring's base are the worker's position. Each new start is a new run; each replay is the same
/// run.
#[test]
fn a_packed_ring_has_a_base_of_two_halves_and_counts_its_runs() {
    let mut client = Client::negotiated();
    client.ask(Request::SetFeatures(ALL));
    client.ask(table());
    client.ask(Request::SetVringNum { ring: 1, num: 100 });
    let mut starts = Vec::new();
    for base in [0x8000_8000, 0x8000, 0x0029_0029] {
        client.commands.clear();
        client.ask(Request::SetVringBase { ring: 1, base });
        client.ask(addr(1, 0x1000));
        client.ask(Request::SetVringKick { ring: 1, fd: Some(fd()) });
        let replayed = client.session.replay().into_iter().map(|told| told.command);
        starts.extend(client.commands.iter().cloned().chain(replayed).filter_map(|command| match command {
            Command::RingStart { base, run, .. } => Some((base, run)),
            _ => None,
        }));
        let stopped = Reply::VringBase { ring: 1, base: 0x0029_0029 };
        assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(stopped));
    }
    assert_eq!(starts, [(0x8000, 1), (0x8000, 1), (0x8000, 2), (0x8000, 2), (0x29, 3), (0x29, 3)]);
    assert!(client.refused(Request::SetVringNum { ring: 1, num: 32769 }).contains("32768"));
}

/// "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
#[test]
fn without_protocol_features_rings_start_enabled() {
    let mut client = Client::new();
    client.ask(Request::SetFeatures(VIRTIO_F_VERSION_1.mask()));
    client.ask(table());
    client.commands.clear();
    client.start(0);
    assert_eq!(client.names(), ["RingEnable", "RingStart", "RingCall"]);
}

#[test]
fn get_vring_base_answers_where_the_worker_stopped() {
    let mut client = Client::running();
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
    assert_eq!(client.names(), ["RingStop", "Barrier"]);
    client.commands.clear();
    // The ring is stopped already: the same answer, and no command.
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
    assert!(client.commands.is_empty());
    // A stopped ring's setup is forgotten: it starts only when all of it is sent again.
    client.ask(Request::SetVringKick { ring: 1, fd: Some(fd()) });
    assert!(client.commands.is_empty());
    client.ask(addr(1, 0x1000));
    assert_eq!(client.names(), ["RingEnable", "RingStart"]);
}

#[test]
fn get_vring_base_of_a_ring_that_never_ran_answers_what_was_set() {
    let mut client = Client::negotiated();
    assert_eq!(client.ask(Request::GetVringBase { ring: 5 }), Some(Reply::VringBase { ring: 5, base: 0 }));
    client.ask(Request::SetVringBase { ring: 4, base: 9 });
    assert_eq!(client.ask(Request::GetVringBase { ring: 4 }), Some(Reply::VringBase { ring: 4, base: 9 }));
    assert!(client.commands.is_empty());
}

#[test]
fn a_ring_that_runs_keeps_its_size_addresses_and_base() {
    let mut client = Client::running();
    client.ask(Request::SetVringNum { ring: 0, num: 256 });
    client.ask(addr(0, 0x1000));
    client.ask(Request::SetVringBase { ring: 0, base: 0 });
    assert!(client.commands.is_empty());
    assert!(client.refused(Request::SetVringNum { ring: 0, num: 512 }).contains("ring 0 runs"));
    assert!(client.refused(addr(0, 0x8000)).contains("ring 0 runs"));
    assert!(client.refused(Request::SetVringBase { ring: 0, base: 1 }).contains("ring 0 runs"));
}

#[test]
fn features_may_be_repeated_while_rings_run_but_not_changed() {
    let mut client = Client::running();
    client.ask(Request::SetFeatures(SPLIT));
    assert!(client.commands.is_empty());
    assert!(client.refused(Request::SetFeatures(0)).contains("while rings run"));
}

#[test]
fn a_new_kick_starts_a_running_ring_anew_and_a_new_call_does_not() {
    let mut client = Client::running();
    client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
    client.ask(Request::SetVringCall { ring: 0, fd: None });
    assert_eq!(client.names(), ["RingCall", "RingCall"]);
    client.commands.clear();
    client.ask(Request::SetVringKick { ring: 0, fd: Some(fd()) });
    assert_eq!(client.names(), ["RingEnable", "RingStart"]);
}

/// QEMU resets the device after it has stopped the rings; other front-ends do not stop them. QEMU then relies on what
/// it sent before: memory, calls, protocol features.
#[test]
fn a_reset_stops_and_disables_the_rings_and_keeps_the_rest() {
    let mut client = Client::running();
    client.ask(Request::SetStatus(15));
    let reply = client.ask_with(Request::ResetDevice, true);
    assert_eq!(reply, Ok(Some(Reply::ack(Code::RESET_DEVICE, true))));
    assert_eq!(client.names(), ["RingStop", "RingDisable", "RingStop", "RingDisable", "Barrier"]);
    let device = client.session.device();
    assert!(!device.is_running() && device.memory.len() == 1);
    assert_eq!(client.session.protocol_features(), OFFERED_PROTOCOL_FEATURES);
    assert_eq!(client.ask(Request::GetStatus), Some(Reply::U64(Code::GET_STATUS, 0)));
    assert_eq!(client.ask(Request::GetVringBase { ring: 1 }), Some(Reply::VringBase { ring: 1, base: 41 }));
}

#[test]
fn regions_come_and_go() {
    let mut client = Client::running();
    client.ask(Request::AddMemReg(region(0x10_0000), fd()));
    assert!(client.refused(Request::AddMemReg(region(0x10_0000), fd())).contains("overlaps"));
    assert!(client.refused(Request::RemMemReg(region(0x20_0000))).contains("no region"));
    client.ask(Request::RemMemReg(MemoryRegion { offset: 77, ..region(0x10_0000) }));
    assert_eq!(client.names(), ["RegionAdd", "Barrier", "RegionRemove", "Barrier"]);
    assert_eq!(client.session.device().memory.len(), 1);
}

/// QEMU replaces a region by removing and adding it, while rings that lie in it run.
#[test]
fn a_ring_whose_memory_comes_back_runs_again() {
    let mut client = Client::running();
    client.ask(Request::RemMemReg(region(0)));
    assert!(client.session.ring_faulted(0, RingFault::Unmapped));
    assert!(!client.session.ring_faulted(0, RingFault::Unmapped));
    client.commands.clear();
    client.ask(Request::AddMemReg(region(0), fd()));
    assert_eq!(client.names(), ["RegionAdd", "RingEnable", "RingStart", "Barrier"]);
    assert_eq!(client.session.device().known_ring(0).unwrap().fault, None);
}

#[test]
fn the_table_is_full_at_509_regions() {
    let mut client = Client::negotiated();
    for slot in 0..509 {
        client.ask(Request::AddMemReg(region(slot * 0x10_0000), fd()));
    }
    assert!(client.refused(Request::AddMemReg(region(509 * 0x10_0000), fd())).contains("509 slots"));
}

#[test]
fn a_refused_memory_table_is_answered_and_changes_nothing() {
    let mut client = Client::running();
    client.kernel.file_size.set(4096);
    let refused = client.send(table(), true).unwrap_err();
    assert_eq!(refused.reply, Some(Reply::ack(Code::SET_MEM_TABLE, false)));
    assert!(refused.close && refused.reason.0.contains("4096 octets long and must be at least 1048576"));
    assert_eq!(client.session.device().memory[0].file_size, 1 << 30);
    assert!(!client.session.is_waiting());
}

#[test]
fn what_is_not_offered_is_answered_if_an_answer_is_wanted() {
    let mut client = Client::negotiated();
    let refused = client.send(Request::Unserved(Code::SET_INFLIGHT_FD), true).unwrap_err();
    assert_eq!((refused.reply, refused.close), (Some(Reply::ack(Code::SET_INFLIGHT_FD, false)), false));
    let refused = client.send(Request::Unserved(Code::SET_INFLIGHT_FD), false).unwrap_err();
    assert_eq!((refused.reply, refused.close), (None, true));
}

#[test]
fn nothing_is_acknowledged_before_reply_ack_is_negotiated() {
    let mut client = Client::new();
    assert_eq!(client.ask_with(Request::SetOwner, true), Ok(None));
    client.ask(Request::SetProtocolFeatures(VHOST_USER_PROTOCOL_F_REPLY_ACK.mask()));
    assert_eq!(client.ask_with(Request::SetOwner, true), Ok(Some(Reply::ack(Code::SET_OWNER, true))));
    assert_eq!(client.ask_with(Request::SetOwner, false), Ok(None));
}

#[test]
fn requests_need_their_protocol_feature() {
    for request in [
        Request::SendRarp { mac: [0; 6] },
        Request::NetSetMtu(1500),
        Request::GetMaxMemSlots,
        Request::AddMemReg(region(0), fd()),
        Request::RemMemReg(region(0)),
        Request::ResetDevice,
        Request::SetStatus(0),
        Request::GetStatus,
    ] {
        assert!(Client::new().refused(request).contains(" without VHOST_USER_PROTOCOL_F_"));
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let mut client = Client::negotiated();
    for num in [0, 3, 65536, 0x1_0000] {
        assert!(client.refused(Request::SetVringNum { ring: 0, num }).contains("power of two"));
    }
    client.refused(Request::SetFeatures(VIRTIO_NET_F_GUEST_UFO.mask()));
    client.refused(Request::SetProtocolFeatures(1 << 63));
    client.refused(Request::SetVringBase { ring: 0, base: 0x1_0000 });
    client.refused(Request::SetVringEnable { ring: 0, num: 2 });
    client.refused(Request::SetStatus(256));
    client.refused(Request::SetVringKick { ring: 0, fd: None });
    assert!(!client.send(Request::NetSetMtu(67), true).unwrap_err().close);
    client.kernel.eventfd.set(false);
    assert!(client.refused(Request::SetVringCall { ring: 0, fd: Some(fd()) }).contains("not an eventfd"));
}

#[test]
fn a_replay_says_all_that_was_said_live() {
    let mut client = Client::running();
    client.ask(Request::GetVringBase { ring: 0 });
    let names: Vec<_> = client.session.replay().iter().map(|told| name(&told.command)).collect();
    let wanted =
        ["PortAdd", "PortFeatures", "RegionStage", "MemoryCommit", "RingCall", "RingCall", "RingEnable", "RingStart"];
    assert_eq!(names, wanted);
}

#[test]
fn an_acknowledgement_is_due_when_the_worker_dies() {
    let mut client = Client::running();
    client.send(Request::RemMemReg(region(0)), true).unwrap();
    assert_eq!(client.session.worker_died(|_| 0), Some(Reply::ack(Code::REM_MEM_REG, true)));
    assert!(!client.session.is_waiting());
}

#[test]
fn a_base_is_asked_of_the_next_worker_and_in_the_end_of_the_ledger() {
    let mut client = Client::running();
    client.send(Request::GetVringBase { ring: 1 }, false).unwrap();
    assert_eq!(client.session.worker_died(|_| 77), None);
    let names: Vec<_> = client.session.replay().iter().map(|told| name(&told.command)).collect();
    assert_eq!(names[names.len() - 3..], ["RingStart", "RingStop", "Barrier"]);
    assert_eq!(client.session.worker_died(|_| 77), None);
    assert_eq!(client.session.worker_died(|_| 77), Some(Reply::VringBase { ring: 1, base: 77 }));
    assert!(!client.session.device().known_ring(1).unwrap().started);
}

#[test]
fn a_worker_that_reports_what_cannot_be_is_found_out() {
    let mut client = Client::running();
    client.session.barrier_reached().unwrap_err();
    client.session.ring_stopped(0, 1).unwrap_err();
    client.session.ring_stopped(9999, 1).unwrap_err();
    assert!(!client.session.ring_faulted(9999, RingFault::Unmapped));
    client.send(Request::GetVringBase { ring: 0 }, false).unwrap();
    client.session.barrier_reached().unwrap_err();
    client.session.ring_stopped(0, 0x1_0000).unwrap_err();
}

#[test]
fn a_command_that_fails_is_answered_with_a_refusal() {
    let mut client = Client::running();
    client.send(table(), true).unwrap();
    let refused = client.session.command_failed("mmap: ENOMEM".to_string()).unwrap();
    assert_eq!(refused.reply, Some(Reply::ack(Code::SET_MEM_TABLE, false)));
    assert!(client.session.command_failed(String::new()).is_none());
}

#[test]
fn a_client_that_never_waits_is_made_to_wait() {
    let mut client = Client::running();
    let waits = (0..200)
        .filter(|_| {
            client.ask(Request::SetVringCall { ring: 0, fd: Some(fd()) });
            client.commands.last() == Some(&C::Barrier)
        })
        .count();
    assert_eq!(waits, 3);
}
