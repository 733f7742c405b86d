//! Ports that lead to a network with other switches: what comes from there is not a guest's, and the network is told
//! where guests are. And ports whose machines may not take each other's addresses.

use std::time::{Duration, Instant};

use sv3::attachment::{Attachment, Learning, Transport};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, Mac, frame, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::network::ports::{attach_stream, attachment, uplink};
use sv3_tests::network::{Form, StreamPeer};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::Switch;

/// A switch with an uplink `up`, whose peer stands for the network.
fn switch_with_uplink() -> Result<(Switch, StreamPeer)> {
    let switch = Switch::start()?;
    let mut network = attach_stream(&switch, &uplink(Transport::Stream, "up"))?;
    // A switch that gets its first port of files takes a moment to serve it.
    let mut probe = Guest::connect(switch.socket());
    network.send(&noise(BROADCAST, mac(90), 64, 0))?;
    while probe.receive().frame != noise(BROADCAST, mac(90), 64, 0) {}
    probe.vanish();
    switch.await_ports(1)?;
    Ok((switch, network))
}

/// The next frame that the network gets from this address, but for RARP.
fn next(network: &mut StreamPeer, from: Mac) -> Result<Vec<u8>> {
    loop {
        let (_, frame) = network.receive()?;
        if frame.get(6..12) == Some(&from[..]) && frame.get(12..14) != Some(&RARP[..]) {
            return Ok(frame);
        }
    }
}

const RARP: [u8; 2] = [0x80, 0x35];

/// Waits until the network is told of an address by RARP (RFC 903), 60 octets.
fn await_rarp(network: &mut StreamPeer, of: Mac) -> Result<()> {
    until("a RARP", || {
        let Some((_, frame)) = network.receive_within(PATIENCE)? else { return Ok(None) };
        if frame.get(6..14) != Some(&[&of[..], &RARP].concat()[..]) {
            return Ok(None);
        }
        assert_eq!((frame.len(), &frame[..6]), (60, &BROADCAST[..]));
        // Ethernet, IPv4, request reverse; both hardware addresses are the guest's.
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!((&frame[22..28], &frame[32..38]), (&of[..], &of[..]));
        Ok(Some(()))
    })
}

/// Asserts that nothing but RARP and the marker comes to the network.
fn assert_quiet(network: &mut StreamPeer, guest: &mut Guest, station: Mac) -> Result<()> {
    let marker = frame(BROADCAST, station, b"marker");
    guest.send(&marker);
    loop {
        let (_, came) = network.receive()?;
        if came == marker {
            return Ok(());
        }
        assert_eq!(came.get(12..14), Some(&RARP[..]), "{came:x?} came to the network");
    }
}

#[test]
fn a_frame_that_the_network_sends_back_does_not_move_a_guest() -> Result<()> {
    let (switch, mut network) = switch_with_uplink()?;
    let [mut a, mut b] = [(); 2].map(|()| Guest::connect(switch.socket()));
    let call = frame(BROADCAST, mac(1), b"who is there?");
    for turn in 1..=20 {
        a.send(&call);
        assert_eq!(next(&mut network, mac(1))?, call);
        while b.receive().frame != call {}
        // As gvproxy does.
        network.send(&call)?;
        switch.await_drops("up", "uplink_echo", turn)?;
        let letter = frame(mac(1), mac(2), b"for 1, who is here");
        b.send(&letter);
        assert_eq!(a.receive_frame(), letter);
    }
    assert_quiet(&mut network, &mut b, mac(2))
}

#[test]
fn an_address_moves_to_the_network_when_its_guest_is_gone_and_back_when_it_comes() -> Result<()> {
    let (switch, mut network) = switch_with_uplink()?;
    let [mut a, mut b] = [(); 2].map(|()| Guest::connect(switch.socket()));
    let call = frame(BROADCAST, mac(1), b"I am here");
    a.send(&call);
    while b.receive().frame != call {}
    await_rarp(&mut network, mac(1))?;
    a.vanish();
    switch.await_ports(2)?;
    // It runs on another host now, and says so.
    network.send(&noise(BROADCAST, mac(1), 60, 1))?;
    while b.receive().frame != noise(BROADCAST, mac(1), 60, 1) {}
    let letter = frame(mac(1), mac(2), b"for 1, who is elsewhere");
    b.send(&letter);
    assert_eq!(next(&mut network, mac(2))?, letter);
    // It comes back.
    let mut again = Guest::connect(switch.socket());
    again.send(&call);
    while b.receive().frame != call {}
    await_rarp(&mut network, mac(1))?;
    b.send(&letter);
    assert_eq!(again.receive_frame(), letter);
    assert_eq!(switch.drops("up", "uplink_echo")?, 0);
    Ok(())
}

#[test]
fn the_network_gets_nothing_that_is_for_guests_or_its_own() -> Result<()> {
    let (switch, mut network) = switch_with_uplink()?;
    let [mut a, mut b] = [(); 2].map(|()| Guest::connect(switch.socket()));
    for (guest, n) in [(&mut a, 1), (&mut b, 2)] {
        guest.send(&frame(BROADCAST, mac(n), b"hello"));
        next(&mut network, mac(n))?;
    }
    for n in 0..20 {
        a.send(&noise(mac(2), mac(1), 100, n));
        // To a station that is unknown, and to one behind the network.
        network.send(&noise(mac(77), mac(78), 100, n))?;
        network.send(&noise(BROADCAST, mac(78), 100, n))?;
        network.send(&noise(mac(78), mac(79), 100, n))?;
    }
    a.await_sent();
    while b.receive().frame != noise(BROADCAST, mac(78), 100, 19) {}
    assert_quiet(&mut network, &mut a, mac(1))
}

#[test]
fn the_network_is_told_of_guests_that_come_and_again_when_the_uplink_comes_back() -> Result<()> {
    let (switch, mut network) = switch_with_uplink()?;
    let [mut a, mut b] = [(); 2].map(|()| Guest::connect(switch.socket()));
    a.send(&frame(mac(2), mac(1), b"unicast alone"));
    await_rarp(&mut network, mac(1))?;
    b.send(&frame(mac(1), mac(2), b"an answer"));
    await_rarp(&mut network, mac(2))?;
    drop(network);
    switch.await_event(&["file_fault", "up"])?;
    let mut network = attach_stream(&switch, &uplink(Transport::Stream, "up"))?;
    let mut told = [false; 2];
    let deadline = Instant::now() + PATIENCE;
    while told.contains(&false) {
        assert!(Instant::now() < deadline, "the network is not told of guests again: {told:?}");
        let (_, frame) = network.receive()?;
        for (n, told) in [1, 2].into_iter().zip(&mut told) {
            *told |= frame.get(6..14) == Some(&[&mac(n)[..], &RARP].concat()[..]);
        }
    }
    // Stations behind the network are never announced to it.
    network.send(&noise(BROADCAST, mac(78), 100, 0))?;
    while a.receive().frame != noise(BROADCAST, mac(78), 100, 0) {}
    switch.kill_worker("KILL")?;
    a.send(&frame(BROADCAST, mac(1), b"marker"));
    loop {
        let (_, came) = network.receive()?;
        assert_ne!(came.get(6..12), Some(&mac(78)[..]), "an address of the network was announced to it");
        if came == frame(BROADCAST, mac(1), b"marker") {
            return Ok(());
        }
    }
}

#[test]
fn an_address_of_the_network_stays_there_while_its_uplinks_worker_dies() -> Result<()> {
    let (switch, mut network) = switch_with_uplink()?;
    let mut a = Guest::connect(switch.socket());
    let call = frame(BROADCAST, mac(1), b"who is there?");
    a.send(&call);
    next(&mut network, mac(1))?;
    for turn in 0..10 {
        switch.kill_worker("KILL")?;
        // The next worker knows no address yet: an echo that comes first is not believed for long.
        network.send(&call)?;
        a.send(&call);
        let letter = noise(mac(1), mac(78), 100, turn);
        until("a frame for the guest", || {
            network.send(&letter)?;
            Ok(a.receive_within(Duration::from_millis(50)).filter(|received| received.frame == letter).map(drop))
        })?;
    }
    Ok(())
}

#[test]
fn two_machines_with_one_address_are_told_and_the_first_keeps_it() -> Result<()> {
    let switch = Switch::start()?;
    let guarded = |name| Attachment { learning: Learning::Guarded, ..attachment(Transport::Stream, name) };
    let mut guest = Guest::connect(switch.socket());
    let [mut first, mut second] = ["first", "second"].map(|name| attach_stream(&switch, &guarded(name)));
    let (first, second) = (first.as_mut(), second.as_mut());
    let (Ok(first), Ok(second)) = (first, second) else { return Err(Failure::new("two streams")) };
    let shared = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee];
    first.send(&noise(BROADCAST, shared, 64, 1))?;
    while guest.receive().frame != noise(BROADCAST, shared, 64, 1) {}
    second.send(&noise(BROADCAST, shared, 64, 2))?;
    switch.await_event(&["address_conflict", "second", "first"])?;
    switch.await_drops("second", "address_conflict", 1)?;
    assert!(switch.port("second")?.files.is_some_and(|files| files.conflict.is_some()));
    let letter = noise(shared, mac(9), 100, 0);
    guest.send(&letter);
    while first.receive()?.1 != letter {}
    // The second one has it when the first one is gone.
    switch.detach("first")?;
    until("the second one to be heard", || {
        second.send(&noise(BROADCAST, shared, 64, 3))?;
        Ok(guest.receive_within(Duration::from_millis(50)).map(drop))
    })?;
    assert_eq!(switch.port("second")?.files.and_then(|files| files.conflict), None);
    Ok(())
}

#[test]
fn a_stream_that_comes_back_at_once_is_in_no_conflict_with_itself() -> Result<()> {
    let switch = Switch::start()?;
    let mut guest = Guest::connect(switch.socket());
    let call = noise(BROADCAST, mac(7), 64, 7);
    let mut speak = |peer: &mut StreamPeer| {
        until("the stream to be heard", || {
            peer.send(&call)?;
            Ok(guest.receive_within(Duration::from_millis(20)).filter(|came| came.frame == call))
        })
    };
    let mut peer = StreamPeer::connect(switch.socket(), Form::Plain)?;
    for _ in 0..30 {
        speak(&mut peer)?;
        drop(peer);
        peer = StreamPeer::connect(switch.socket(), Form::Plain)?;
    }
    speak(&mut peer)?;
    switch.await_ports(2)?;
    assert!(switch.status()?.ports.iter().filter_map(|port| port.files.as_ref()).all(|files| files.conflict.is_none()));
    assert!(switch.events()?.iter().all(|event| event["event"] != "address_conflict"));
    Ok(())
}
