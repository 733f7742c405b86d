//! A connection that asks for nothing takes no port, and a process leaves ports for others.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::*;
use sv3_tests::honest::Honest;
use sv3_tests::newcomer::Newcomer;
use sv3_tests::patience::until;

const NEWCOMER: &str = env!("CARGO_BIN_EXE_newcomer");

/// The most connections without a port.
const CALLERS: usize = 128;

/// Asks for something that needs a port.
fn take_place(wire: &mut Wire) -> Result<()> {
    wire.set(SET_FEATURES, &0u64.to_ne_bytes(), &[])
}

/// A guest connects, sends a frame to the two, and disconnects.
fn visit(honest: &mut Honest) -> Result<()> {
    let mut guest = Guest::connect(honest.socket());
    let letter = frame(BROADCAST, mac(9), b"here I am");
    guest.send(&letter);
    assert_eq!(honest.guest(0).receive_frame(), letter);
    assert_eq!(honest.guest(1).receive_frame(), letter);
    guest.vanish();
    Ok(())
}

#[test]
fn silent_connections_take_no_port_and_give_way() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut connections = Vec::new();
    for _ in 0..1100 {
        connections.push(UnixStream::connect(honest.socket())?);
    }
    until("a full room", || Ok((honest.status()?.pending_clients == CALLERS).then_some(())))?;
    assert_eq!(honest.status()?.ports.len(), 2);
    visit(&mut honest)?;
    // Requests that need no port make no difference.
    for _ in 0..CALLERS {
        let mut guest = Guest::config().build(honest.socket())?;
        guest.raw().get(GET_FEATURES)?;
        visit(&mut honest)?;
    }
    drop(connections);
    until("an empty room", || Ok((honest.status()?.pending_clients == 0).then_some(())))?;
    let events = honest.events()?;
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(of("attach"), 3 + CALLERS, "no event is about clients that asked for nothing");
    honest.assert_undisturbed()
}

#[test]
fn clients_that_come_and_go_all_the_time_keep_no_one_out() -> Result<()> {
    let mut honest = Honest::new()?;
    let (over, count, path) = (AtomicBool::new(false), AtomicU32::new(0), honest.socket().to_path_buf());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    count.fetch_add(u32::from(UnixStream::connect(&path).is_ok()), Relaxed);
                }
            });
        }
        let visits = (0..27).try_for_each(|_| visit(&mut honest));
        over.store(true, Relaxed);
        visits
    })?;
    assert!(count.into_inner() > 1000, "too few came and went");
    honest.assert_unharmed()
}

#[test]
fn the_last_places_are_for_processes_that_have_none() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut connections = Vec::new();
    let mut refused = false;
    while !refused && connections.len() <= sv3::MAX_PORTS {
        let mut wire = Wire::connect(honest.socket())?;
        take_place(&mut wire)?;
        refused = wire.get(GET_FEATURES).is_err();
        connections.push(wire);
    }
    assert_eq!(connections.len(), sv3::MAX_PORTS - 16 - 2 + 1);
    // There are more processes than ports left: ports on which nothing ran give way.
    let mut newcomers = Vec::new();
    for _ in 0..20 {
        newcomers.push(Newcomer::start(&honest, NEWCOMER, "open")?);
        let letter = frame(BROADCAST, mac(9), b"open");
        assert_eq!(honest.guest(0).receive_frame(), letter);
        assert_eq!(honest.guest(1).receive_frame(), letter);
    }
    let ports = honest.status()?.ports;
    let ours = ports.iter().filter(|port| port.client_pid.cast_unsigned() == std::process::id()).count();
    assert!((980..sv3::MAX_PORTS - 16).contains(&ours), "{ours} of one process");
    drop((connections, newcomers));
    honest.await_ports(2)?;
    honest.talk();
    Ok(())
}
