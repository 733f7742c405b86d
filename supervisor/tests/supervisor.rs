//! The real supervisor between the `vhost` crate's front-end and a worker that misbehaves when asked to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cards;
mod files;
mod fixture;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use fixture::{Fixture, Guest, until};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sv3::status::Link;
use vhost::VhostBackend;

/// What the fake worker does when told to announce an address that begins so.
const ABORT: u8 = 1;
const GARBAGE: u8 = 2;
const HANG: u8 = 3;
const FLOOD: u8 = 4;
const FAULT: u8 = 5;
const STOP_UNASKED: u8 = 6;
const DONE_UNASKED: u8 = 7;
const TALK: u8 = 8;
const FAIL_UNASKED: u8 = 9;
/// Size in octets of a region that a worker on standby does not map.
const UNMAPPABLE: u64 = 0x5000;
const SPIN: u8 = 10;
const PAUSE: u8 = 11;
const STALL: u8 = 12;

#[test]
fn a_guest_attaches_and_stops_where_the_worker_says() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);

    let port = fixture.port(0);
    assert_eq!((port.link, port.memory.len(), port.rings.len()), (Link::Up, 1, 2));
    assert_eq!((port.memory[0].file_size, port.client_pid as u32), (fixture::MEMORY, std::process::id()));
    assert!(port.features.contains(&"VIRTIO_F_VERSION_1".to_string()));
    assert!(port.protocol_features.contains(&"VHOST_USER_PROTOCOL_F_REPLY_ACK".to_string()));

    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
    assert_eq!(fixture.port(0).link, Link::Down);
}

#[test]
fn a_guest_outlives_every_kind_of_bad_worker() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    for (nth, how) in [ABORT, GARBAGE, FLOOD, STOP_UNASKED, DONE_UNASKED, FAIL_UNASKED, HANG].into_iter().enumerate() {
        fixture.misbehave(&guest, how);
        // This worker or the next one answers.
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        until(|| fixture.status().worker.restarts == nth as u64 + 1);
        guest.start(1);
        until(|| fixture.port(0).link == Link::Up);
    }
    let crashes = fixture.events("crash");
    assert_eq!(crashes.len(), 7);
    for (crash, words) in crashes.iter().zip([
        "killed by SIGABRT, at work on ring 0 of p0",
        "unknown kind",
        "floods",
        "not told to stop",
        "not the next one",
        "was not sent",
        "did not execute a command in time",
    ]) {
        assert!(crash.contains(words), "{crash} says nothing of {words}");
    }
    assert_eq!(fixture.events("restart").len(), 7);
    assert!(fixture.events("detach").is_empty());
}

#[test]
fn a_worker_that_runs_and_gets_nowhere_is_found_and_its_client_blamed() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    let start = Instant::now();
    fixture.misbehave(&guest, SPIN);
    until(|| fixture.status().worker.restarts == 1);
    assert!(start.elapsed() > Duration::from_millis(450), "after {:?}", start.elapsed());
    let crash = fixture.events("crash").pop().unwrap();
    assert!(crash.contains("it hangs") && crash.contains("ring 0 of p0"), "{crash}");
    assert_eq!(fixture.events("blame").len(), 1);
}

/// What the kernel says of a file counts before what a dying worker says.
#[test]
fn nobody_is_blamed_for_what_a_neighbour_s_memory_did() {
    let fixture = Fixture::start();
    let (guest, neighbour) = (Guest::attach(&fixture), Guest::attach(&fixture));
    neighbour.truncate();
    fixture.misbehave(&guest, SPIN);
    until(|| fixture.status().worker.restarts == 1);
    until(|| fixture.status().ports.len() == 1);
    let crash = fixture.events("crash").pop().unwrap();
    assert!(crash.contains("ring 0 of p0"), "{crash}");
    assert!(fixture.events("refuse").pop().unwrap().contains("p1: memory region"));
    let blames = fixture.events("blame");
    assert!(blames.len() == 1 && blames[0].contains("which has no port any more"), "{blames:?}");
}

#[test]
fn a_worker_that_does_not_run_is_left_alone_and_replaced_in_the_end() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    for _ in 0..3 {
        fixture.misbehave(&guest, PAUSE);
        // The answer comes when the pause is over.
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        guest.start(1);
    }
    assert_eq!((fixture.status().worker.restarts, fixture.events("blame").len()), (0, 0));

    let start = Instant::now();
    fixture.misbehave(&guest, STALL);
    until(|| fixture.status().worker.restarts == 1);
    assert!(start.elapsed() > Duration::from_secs(10), "after {:?}", start.elapsed());
    let crash = fixture.events("crash").pop().unwrap();
    assert!(crash.contains("it is stuck"), "{crash}");
    assert_eq!(fixture.events("blame").len(), 0);
}

/// The standby fails although the kernel sees no fault in the file.
#[test]
fn a_standby_that_fails_goes_on_without_the_port_which_is_served_as_before() {
    let fixture = Fixture::start();
    let other = Guest::attach(&fixture);
    let guest = Guest::negotiate(&fixture);
    until(|| fixture.status().worker.standby_pid.is_some());
    let standby = fixture.status().worker.standby_pid;
    guest.set_memory(UNMAPPABLE).unwrap();
    guest.start(0);
    guest.start(1);
    until(|| !fixture.events("standby_lacks").is_empty());
    for _ in 0..3 {
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        guest.start(1);
    }
    let [knows, lacks] = [0, 1].map(|slot| fixture.port(slot).standby_lacks);
    assert!(knows.is_none() && lacks.is_some_and(|why| why.contains("Out of memory")));
    assert_eq!((fixture.status().worker.standby_pid, fixture.events("standby_lacks").len()), (standby, 1));

    // Before the standby serves, it is told again; then the next standby fails as this one did.
    fixture.misbehave(&other, ABORT);
    until(|| fixture.status().worker.restarts == 1);
    assert_eq!(fixture.status().worker.pid, standby);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
    until(|| fixture.events("standby_lacks").len() == 2);

    // The standby is told of the slot's next client.
    drop(guest);
    until(|| fixture.status().ports.len() == 1);
    let mut next = Vec::new();
    // The slot is free when the worker has let go of it, which may be a moment later.
    while !fixture.status().ports.iter().any(|port| port.slot == 1) {
        next.push(Guest::attach(&fixture));
    }
    assert!(fixture.status().ports.iter().all(|port| port.standby_lacks.is_none()));
    assert!(next.iter().chain([&other]).all(|guest| guest.frontend.get_vring_base(1).unwrap() == 101));
    for event in ["command_failed", "standby_lost", "refuse"] {
        assert_eq!(fixture.events(event), [""; 0], "{event}");
    }
}

#[test]
fn a_row_of_crashes_is_slowed_down_and_ends() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    for nth in 0..30 {
        fixture.misbehave(&guest, ABORT);
        until(|| fixture.status().worker.restarts == nth + 1);
    }
    assert!(!fixture.events("backoff").is_empty());
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 100);
}

#[test]
fn a_fault_of_a_ring_is_shown_and_a_worker_s_words_are_made_harmless() {
    let fixture = Fixture::start();
    let guest = Guest::attach(&fixture);
    fixture.misbehave(&guest, FAULT);
    until(|| !fixture.events("ring_fault").is_empty());
    let port = fixture.port(0);
    assert_eq!(port.rings[1].fault.as_deref(), Some("the driver made more entries available than the ring has"));
    assert_eq!((port.rings[1].started, port.link), (false, Link::Down));

    fixture.misbehave(&guest, TALK);
    until(|| fixture.events("worker") == ["a line [31m of the worker"]);
}

#[test]
fn a_short_memory_file_is_refused_with_an_answer() {
    let fixture = Fixture::start();
    let guest = Guest::negotiate(&fixture);
    guest.set_memory(fixture::MEMORY + 4096).unwrap_err();
    let refusals = fixture.events("refuse");
    let wanted = "its file is 1048576 octets long and must be at least 1052672";
    assert!(refusals.iter().any(|refusal| refusal.contains(wanted)), "{refusals:?}");
    until(|| fixture.status().ports.is_empty());
}

/// CVE-2019-14818.
#[test]
fn more_fds_than_belong_to_a_message_are_closed() {
    let fixture = Fixture::start();
    let fds_before = fixture.fds();
    let eventfd = nix::sys::eventfd::EventFd::new().unwrap();
    for count in [1, 2, 8, 9, 16, 253] {
        for _ in 0..20 {
            let client = UnixStream::connect(&fixture.socket).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = vec![eventfd.as_fd(); count];
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            // GET_FEATURES
            let message = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
            sendmsg(&client, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty()).unwrap();
            assert_eq!((&client).read(&mut [0; 64]).unwrap_or(0), 0, "{count} fds were taken");
        }
    }
    until(|| fixture.status().ports.is_empty());
    until(|| fixture.fds() <= fds_before);
}

#[test]
fn clients_that_stop_midway_delay_no_other() {
    let fixture = Fixture::start();
    let message = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
    let mut idle: Vec<_> = (0..50).map(|_| UnixStream::connect(&fixture.socket).unwrap()).collect();
    for (count, client) in idle.iter_mut().enumerate() {
        client.write_all(&message[..count % message.len()]).unwrap();
    }
    let guest = Guest::attach(&fixture);
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 100);
    drop(idle);
    until(|| fixture.status().ports.len() == 1);
}

#[test]
fn a_client_that_reads_no_replies_is_sent_away() {
    let fixture = Fixture::start();
    let mut client = UnixStream::connect(&fixture.socket).unwrap();
    let message = [1u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(1000);
    while client.write_all(&message).is_ok() {}
    until(|| fixture.events("refuse").iter().any(|refusal| refusal.contains("does not read its replies")));
}

#[test]
fn ports_of_clients_that_are_gone_are_free_again() {
    let fixture = Fixture::start();
    for _ in 0..20 {
        let guest = Guest::attach(&fixture);
        // A slot is free when the worker has let go of it, which may be a moment later.
        until(|| fixture.status().ports.iter().map(|port| port.slot).any(|slot| slot < 2));
        drop(guest);
        until(|| fixture.status().ports.is_empty());
    }
}

#[test]
fn a_switch_ends_at_a_signal_and_leaves_nothing_behind() {
    let fixture = Fixture::start();
    let _guest = Guest::attach(&fixture);
    let (socket, control) = (fixture.socket.clone(), fixture.control.clone());
    let error = fixture.second_switch();
    assert!(error.contains("is in use by process"), "{error}");
    assert!(fixture.end().success());
    assert!(!socket.exists() && !control.exists());
}

#[test]
fn a_worker_that_cannot_be_started_ends_the_start() {
    let fixture = Fixture::empty();
    let not_a_program = fixture.path("not-a-program");
    std::fs::write(&not_a_program, "nonsense").unwrap();
    let missing = fixture.run_to_end(&fixture.path("missing"));
    assert!(missing.contains("cannot open the worker's binary"), "{missing}");
    let nonsense = fixture.run_to_end(&not_a_program);
    assert!(nonsense.contains("the first worker did not come up: "), "{nonsense}");
    assert!(!fixture.socket.exists());
}

#[test]
fn strangers_requests_are_answered_with_an_error() {
    let fixture = Fixture::start();
    assert!(fixture.ask("nonsense").contains("unknown request"));
    // A request that is too long is not answered.
    assert_eq!(fixture.ask(&"x".repeat(sv3::control::LINE_MAX + 1)), "");
    assert!(fixture.ask("status").contains("\"ports\":[]"));
}

#[test]
fn a_worker_has_no_fd_of_its_supervisor_but_those_it_is_given() {
    let fixture = Fixture::start();
    let _guest = Guest::attach(&fixture);
    let worker = fixture.status().worker.pid.unwrap();
    let fds = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let mut open: Vec<_> = fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect();
    // Its stdin, its copy of stdin, the null device, and the pipe for its stderr; the ledger is mapped.
    open.retain(|path| !path.to_str().unwrap().contains("ledger"));
    assert_eq!(open.len(), 4, "{open:?}");
}
