//! Clients that take all that they can: none gets so much that too little is left for the others (CVE-2020-10717).

use std::os::fd::AsFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::*;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, fds};

/// A client that gives an eventfd for everything that a ring takes, until it is disconnected. True: it was.
fn hoard(switch: &Switch, fd: &EventFd) -> Result<(Guest, bool)> {
    let mut guest = Guest::config().build(switch.socket())?;
    guest.raw().get(GET_FEATURES)?;
    let ways = [SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK];
    let all = (0..32u64).flat_map(|ring| ways.map(|request| (request, ring)));
    for (request, ring) in all {
        // A client that was disconnected sees it at its next message.
        let _ = guest.raw().set(request, &ring.to_ne_bytes(), &[fd.as_fd()]);
    }
    let thrown_out = guest.raw().get(GET_FEATURES).is_err();
    Ok((guest, thrown_out))
}

fn talk(a: &mut Guest, b: &mut Guest) {
    let hello = frame(BROADCAST, mac(1), &[7; 60]);
    a.send(&hello);
    assert_eq!(b.receive_frame(), hello);
}

#[test]
fn fds_are_not_for_one_client_alone() -> Result<()> {
    let switch = Home::new()?.start_limited(&[], 400)?;
    let [mut a, mut b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    talk(&mut a, &mut b);
    let before = fds(switch.supervisor_pid()?)?.len();
    let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let mut guests = Vec::new();
    let mut thrown_out = 0;
    for _ in 0..20 {
        let (guest, out) = hoard(&switch, &fd)?;
        thrown_out += u32::from(out);
        guests.push(guest);
    }
    assert!(thrown_out > 10, "{thrown_out} of 20 were thrown out");
    switch.await_event(&["refuse", "its share is"])?;
    // Clients that are connected are served, and so is a new one.
    talk(&mut a, &mut b);
    let mut late = Guest::connect(switch.socket());
    talk(&mut a, &mut late);
    b.receive();
    // A client that has rings may change them.
    let base = a.stop_ring(1);
    a.start_ring(1, base);
    talk(&mut a, &mut b);
    late.receive();
    late.disconnect();
    drop(guests);
    until("the fds back", || Ok((fds(switch.supervisor_pid()?)?.len() <= before).then_some(())))
}
