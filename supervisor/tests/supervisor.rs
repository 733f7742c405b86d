//! The real supervisor between the `vhost` crate's front-end and a worker that misbehaves when asked to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod house;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use house::{Guest, House, until};
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
/// Octets of a region that a worker on standby does not map.
const UNMAPPABLE: u64 = 0x5000;
const SPIN: u8 = 10;
const PAUSE: u8 = 11;
const STALL: u8 = 12;

#[test]
fn a_guest_attaches_and_stops_where_the_worker_says() {
    let house = House::start();
    let guest = Guest::attach(&house);

    let port = house.port(0);
    assert_eq!((port.link, port.memory.len(), port.rings.len()), (Link::Up, 1, 2));
    assert_eq!((port.memory[0].file_size, port.client_pid as u32), (house::MEMORY, std::process::id()));
    assert!(port.features.contains(&"VIRTIO_F_VERSION_1".to_string()));
    assert!(port.protocol_features.contains(&"VHOST_USER_PROTOCOL_F_REPLY_ACK".to_string()));

    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
    assert_eq!(house.port(0).link, Link::Down);
}

#[test]
fn a_guest_outlives_every_kind_of_bad_worker() {
    let house = House::start();
    let guest = Guest::attach(&house);
    for (nth, how) in [ABORT, GARBAGE, FLOOD, STOP_UNASKED, DONE_UNASKED, FAIL_UNASKED, HANG].into_iter().enumerate() {
        house.misbehave(&guest, how);
        // Answered by this worker or the next.
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        until(|| house.status().worker.restarts == nth as u64 + 1);
        guest.start(1);
        until(|| house.port(0).link == Link::Up);
    }
    let crashes = house.events("crash");
    assert_eq!(crashes.len(), 7);
    for (crash, words) in crashes.iter().zip([
        "killed by SIGABRT, at work on ring 0 of p0",
        "unknown kind",
        "floods",
        "not told to stop",
        "not the next one",
        "not given",
        "did not obey in time",
    ]) {
        assert!(crash.contains(words), "{crash} says nothing of {words}");
    }
    assert_eq!(house.events("restart").len(), 7);
    assert!(house.events("detach").is_empty());
}

#[test]
fn a_worker_that_runs_and_gets_nowhere_is_found_and_its_client_blamed() {
    let house = House::start();
    let guest = Guest::attach(&house);
    let start = Instant::now();
    house.misbehave(&guest, SPIN);
    until(|| house.status().worker.restarts == 1);
    assert!(start.elapsed() > Duration::from_millis(450), "after {:?}", start.elapsed());
    let crash = house.events("crash").pop().unwrap();
    assert!(crash.contains("it hangs") && crash.contains("ring 0 of p0"), "{crash}");
    assert_eq!(house.events("blame").len(), 1);
}

/// What a file says comes before what a dying worker says.
#[test]
fn nobody_is_blamed_for_what_a_neighbour_s_memory_did() {
    let house = House::start();
    let (guest, neighbour) = (Guest::attach(&house), Guest::attach(&house));
    neighbour.truncate();
    house.misbehave(&guest, SPIN);
    until(|| house.status().worker.restarts == 1);
    until(|| house.status().ports.len() == 1);
    let crash = house.events("crash").pop().unwrap();
    assert!(crash.contains("ring 0 of p0"), "{crash}");
    assert!(house.events("refuse").pop().unwrap().contains("p1: memory region"));
    let blames = house.events("blame");
    assert!(blames.len() == 1 && blames[0].contains("which has no port any more"), "{blames:?}");
}

#[test]
fn a_worker_that_does_not_run_is_left_alone_and_replaced_in_the_end() {
    let house = House::start();
    let guest = Guest::attach(&house);
    for _ in 0..3 {
        house.misbehave(&guest, PAUSE);
        // Answered when it is over.
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        guest.start(1);
    }
    assert_eq!((house.status().worker.restarts, house.events("blame").len()), (0, 0));

    let start = Instant::now();
    house.misbehave(&guest, STALL);
    until(|| house.status().worker.restarts == 1);
    assert!(start.elapsed() > Duration::from_secs(10), "after {:?}", start.elapsed());
    let crash = house.events("crash").pop().unwrap();
    assert!(crash.contains("it is stuck"), "{crash}");
    assert_eq!(house.events("blame").len(), 0);
}

/// It says so for no reason that the kernel knows.
#[test]
fn a_standby_that_fails_goes_on_without_the_port_which_is_served_as_before() {
    let house = House::start();
    let other = Guest::attach(&house);
    let guest = Guest::negotiate(&house);
    until(|| house.status().worker.standby_pid.is_some());
    let standby = house.status().worker.standby_pid;
    guest.set_memory(UNMAPPABLE).unwrap();
    guest.start(0);
    guest.start(1);
    until(|| !house.events("standby_lacks").is_empty());
    for _ in 0..3 {
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
        guest.start(1);
    }
    let [knows, lacks] = [0, 1].map(|slot| house.port(slot).standby_lacks);
    assert!(knows.is_none() && lacks.is_some_and(|why| why.contains("Out of memory")));
    assert_eq!((house.status().worker.standby_pid, house.events("standby_lacks").len()), (standby, 1));

    // When it is to serve it is told once more, and the next one on standby fails as this one did.
    house.misbehave(&other, ABORT);
    until(|| house.status().worker.restarts == 1);
    assert_eq!(house.status().worker.pid, standby);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 101);
    until(|| house.events("standby_lacks").len() == 2);

    // Whoever has the slot next is known.
    drop(guest);
    until(|| house.status().ports.len() == 1);
    let mut next = Vec::new();
    // The slot is free when the worker has let go of it, which may be a moment after.
    while !house.status().ports.iter().any(|port| port.slot == 1) {
        next.push(Guest::attach(&house));
    }
    assert!(house.status().ports.iter().all(|port| port.standby_lacks.is_none()));
    assert!(next.iter().chain([&other]).all(|guest| guest.frontend.get_vring_base(1).unwrap() == 101));
    for event in ["command_failed", "standby_lost", "refuse"] {
        assert_eq!(house.events(event), [""; 0], "{event}");
    }
}

#[test]
fn a_row_of_crashes_is_slowed_down_and_ends() {
    let house = House::start();
    let guest = Guest::attach(&house);
    for nth in 0..30 {
        house.misbehave(&guest, ABORT);
        until(|| house.status().worker.restarts == nth + 1);
    }
    assert!(!house.events("backoff").is_empty());
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 100);
}

#[test]
fn a_fault_of_a_ring_is_shown_and_a_worker_s_words_are_made_harmless() {
    let house = House::start();
    let guest = Guest::attach(&house);
    house.misbehave(&guest, FAULT);
    until(|| !house.events("ring_fault").is_empty());
    let port = house.port(0);
    assert_eq!(port.rings[1].fault.as_deref(), Some("the driver made more entries available than the ring has"));
    assert_eq!((port.rings[1].started, port.link), (false, Link::Down));

    house.misbehave(&guest, TALK);
    until(|| house.events("worker") == ["a line [31m of the worker"]);
}

#[test]
fn a_short_memory_file_is_refused_with_an_answer() {
    let house = House::start();
    let guest = Guest::negotiate(&house);
    guest.set_memory(house::MEMORY + 4096).unwrap_err();
    let refusals = house.events("refuse");
    let wanted = "its file is 1048576 octets long and must be at least 1052672";
    assert!(refusals.iter().any(|refusal| refusal.contains(wanted)), "{refusals:?}");
    until(|| house.status().ports.is_empty());
}

/// CVE-2019-14818.
#[test]
fn more_fds_than_belong_to_a_message_are_closed() {
    let house = House::start();
    let fds_before = house.fds();
    let eventfd = nix::sys::eventfd::EventFd::new().unwrap();
    for count in [1, 2, 8, 9, 16, 253] {
        for _ in 0..20 {
            let client = UnixStream::connect(&house.socket).unwrap();
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
    until(|| house.status().ports.is_empty());
    until(|| house.fds() <= fds_before);
}

#[test]
fn clients_that_stop_midway_hold_nobody_up() {
    let house = House::start();
    let message = [1u32, 1, 0].map(u32::to_ne_bytes).concat();
    let mut idle: Vec<_> = (0..50).map(|_| UnixStream::connect(&house.socket).unwrap()).collect();
    for (count, client) in idle.iter_mut().enumerate() {
        client.write_all(&message[..count % message.len()]).unwrap();
    }
    let guest = Guest::attach(&house);
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 100);
    drop(idle);
    until(|| house.status().ports.len() == 1);
}

#[test]
fn a_client_that_reads_no_replies_is_sent_away() {
    let house = House::start();
    let mut client = UnixStream::connect(&house.socket).unwrap();
    let message = [1u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(1000);
    while client.write_all(&message).is_ok() {}
    until(|| house.events("refuse").iter().any(|refusal| refusal.contains("replies are not being read")));
}

#[test]
fn ports_of_clients_that_are_gone_are_free_again() {
    let house = House::start();
    for _ in 0..20 {
        let guest = Guest::attach(&house);
        // A place is free when the worker has let go of it too, which may be a moment after.
        until(|| house.status().ports.iter().map(|port| port.slot).any(|slot| slot < 2));
        drop(guest);
        until(|| house.status().ports.is_empty());
    }
}

#[test]
fn a_switch_ends_at_a_signal_and_leaves_nothing_behind() {
    let house = House::start();
    let _guest = Guest::attach(&house);
    let (socket, control) = (house.socket.clone(), house.control.clone());
    let error = house.second_switch();
    assert!(error.contains("is in use by process"), "{error}");
    assert!(house.end().success());
    assert!(!socket.exists() && !control.exists());
}

#[test]
fn a_worker_that_cannot_be_started_ends_the_start() {
    let house = House::empty();
    let not_a_program = house.path("not-a-program");
    std::fs::write(&not_a_program, "nonsense").unwrap();
    let missing = house.run_to_end(&house.path("missing"));
    assert!(missing.contains("cannot open the worker's binary"), "{missing}");
    let nonsense = house.run_to_end(&not_a_program);
    assert!(nonsense.contains("the first worker did not come up: "), "{nonsense}");
    assert!(!house.socket.exists());
}

#[test]
fn strangers_requests_are_answered_with_an_error() {
    let house = House::start();
    assert!(house.ask("nonsense").contains("unknown request"));
    // Too long a request is no request.
    assert_eq!(house.ask(&"x".repeat(1000)), "");
    assert!(house.ask("status").contains("\"ports\":[]"));
}

#[test]
fn a_worker_has_no_fd_of_its_supervisor_but_those_it_is_given() {
    let house = House::start();
    let _guest = Guest::attach(&house);
    let worker = house.status().worker.pid.unwrap();
    let fds = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let mut open: Vec<_> = fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect();
    // Its stdin, the copy that it makes of it, the null device, and the pipe for its words; the ledger is mapped.
    open.retain(|path| !path.to_str().unwrap().contains("ledger"));
    assert_eq!(open.len(), 4, "{open:?}");
}
