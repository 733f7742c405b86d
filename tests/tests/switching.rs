//! Which ports get a frame: learning, flooding, and frames that are never forwarded (802.1Q, 8.6 to 8.8).
//!
//! To show that a frame does not come, a test sends a marker after it: frames of one sender stay in order.

use sv3::fdb::Which;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, Mac, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::switch::Switch;

/// A switch with three guests at ports p0, p1, p2.
fn three() -> Result<(Switch, Guest, Guest, Guest)> {
    let switch = Switch::start()?;
    let [a, b, c] = [(), (), ()].map(|()| Guest::connect(switch.socket()));
    Ok((switch, a, b, c))
}

/// Station `n` broadcasts a frame, and all others receive it.
fn announce(guest: &mut Guest, n: u8, others: [&mut Guest; 2]) {
    let hello = frame(BROADCAST, mac(n), b"hello");
    guest.send(&hello);
    for other in others {
        assert_eq!(other.receive_frame(), hello);
    }
}

/// The next frame that a guest receives is one that `from` broadcasts now.
fn assert_nothing_came(from: &mut Guest, station: Mac, guests: [&mut Guest; 2]) {
    let marker = frame(BROADCAST, station, b"marker");
    from.send(&marker);
    for guest in guests {
        assert_eq!(guest.receive_frame(), marker, "nothing else came before");
    }
}

#[test]
fn unknown_unicast_goes_to_all_but_its_sender() -> Result<()> {
    let (_switch, mut a, mut b, mut c) = three()?;
    let question = frame(mac(9), mac(1), b"where is 9?");
    a.send(&question);
    assert_eq!(b.receive_frame(), question);
    assert_eq!(c.receive_frame(), question);
    assert_nothing_came(&mut b, mac(2), [&mut a, &mut c]);
    Ok(())
}

#[test]
fn learnt_unicast_goes_to_its_port_alone() -> Result<()> {
    let (switch, mut a, mut b, mut c) = three()?;
    announce(&mut b, 2, [&mut a, &mut c]);
    let letter = frame(mac(2), mac(1), b"for 2");
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    let answer = frame(mac(1), mac(2), b"for 1");
    b.send(&answer);
    assert_eq!(a.receive_frame(), answer);
    assert_nothing_came(&mut a, mac(1), [&mut b, &mut c]);

    switch.await_status("every frame counted", |status| {
        let frames: Vec<_> = status.ports.iter().map(|port| (port.from_guest.frames, port.to_guest.frames)).collect();
        frames == [(2, 2), (2, 2), (0, 2)]
    })?;
    for port in switch.status()?.ports {
        assert!(port.drops.is_empty(), "{}: {:?}", port.name, port.drops);
    }
    Ok(())
}

#[test]
fn broadcast_and_multicast_go_to_all_but_their_sender() -> Result<()> {
    let (_switch, mut a, mut b, mut c) = three()?;
    for group in [BROADCAST, [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [1, 0x80, 0xc2, 0, 0, 0x10]] {
        let call = frame(group, mac(1), b"all of you");
        a.send(&call);
        assert_eq!(b.receive_frame(), call);
        assert_eq!(c.receive_frame(), call);
    }
    assert_nothing_came(&mut b, mac(2), [&mut a, &mut c]);
    Ok(())
}

#[test]
fn a_frame_does_not_return_to_where_it_came_from() -> Result<()> {
    // CVE-2021-3416.
    let (switch, mut a, mut b, mut c) = three()?;
    announce(&mut a, 1, [&mut b, &mut c]);
    a.send(&frame(mac(1), mac(1), b"to myself"));
    a.send(&frame(mac(1), mac(7), b"to a neighbour behind the same port"));
    assert_nothing_came(&mut a, mac(1), [&mut b, &mut c]);
    assert_nothing_came(&mut b, mac(2), [&mut a, &mut c]);
    switch.await_drops("p0", "hairpin", 2)
}

#[test]
fn a_station_that_moves_is_followed() -> Result<()> {
    let (_switch, mut a, mut b, mut c) = three()?;
    announce(&mut b, 2, [&mut a, &mut c]);
    announce(&mut c, 2, [&mut a, &mut b]);
    let letter = frame(mac(2), mac(1), b"for 2, wherever it is");
    a.send(&letter);
    assert_eq!(c.receive_frame(), letter);
    assert_nothing_came(&mut a, mac(1), [&mut b, &mut c]);
    Ok(())
}

#[test]
fn a_port_that_goes_takes_its_addresses_with_it() -> Result<()> {
    let (switch, mut a, mut b, mut c) = three()?;
    announce(&mut b, 2, [&mut a, &mut c]);
    b.vanish();
    switch.await_ports(2)?;
    let letter = frame(mac(2), mac(1), b"for 2, wherever it is");
    a.send(&letter);
    assert_eq!(c.receive_frame(), letter, "unknown again, hence flooded");

    // The next client on that port has none of its addresses.
    let mut d = Guest::connect(switch.socket());
    a.send(&letter);
    assert_eq!(d.receive_frame(), letter);
    assert_eq!(c.receive_frame(), letter);
    Ok(())
}

#[test]
fn what_no_bridge_forwards_is_dropped_and_counted() -> Result<()> {
    let (switch, mut a, mut b, mut c) = three()?;
    for last in 0..16 {
        a.send(&frame([1, 0x80, 0xc2, 0, 0, last], mac(1), b"for the next bridge"));
    }
    a.send(&frame(mac(2), BROADCAST, b"from everybody"));
    a.send(&frame(mac(2), [1, 0, 0x5e, 0, 0, 1], b"from a group"));
    a.send(&frame(mac(2), [0; 6], b"from nobody"));
    a.send(&mac(2));
    a.send(&frame(mac(2), mac(1), b"")[..13]);
    assert_nothing_came(&mut a, mac(1), [&mut b, &mut c]);
    switch.await_drops("p0", "link_local", 16)?;
    switch.await_drops("p0", "bad_source", 3)?;
    switch.await_drops("p0", "short_frame", 2)?;
    // No drop is counted against the receivers.
    assert!(switch.port("p1")?.drops.is_empty());
    Ok(())
}

#[test]
fn a_frame_without_a_receiver_is_counted() -> Result<()> {
    let switch = Switch::start()?;
    let mut a = Guest::connect(switch.socket());
    a.send(&frame(BROADCAST, mac(1), b"is anybody here?"));
    a.await_sent();
    switch.await_drops("p0", "no_destination", 1)
}

#[test]
fn a_receiver_without_buffers_loses_frames_and_no_one_else_does() -> Result<()> {
    let switch = Switch::start()?;
    let mut a = Guest::connect(switch.socket());
    let mut small = Guest::config().ring_size(8).connect(switch.socket());
    let mut large = Guest::connect(switch.socket());
    let frames: Vec<_> = (0..20).map(|n| frame(BROADCAST, mac(1), &[n; 50])).collect();
    for frame in &frames {
        a.send(frame);
    }
    a.await_sent();
    for frame in &frames {
        assert_eq!(large.receive_frame(), *frame);
    }
    for frame in &frames[..8] {
        assert_eq!(small.receive_frame(), *frame);
    }
    switch.await_drops("p1", "no_rx_buffers", 12)?;
    // It has taken buffers back, so it is served again.
    a.send(&frames[19]);
    assert_eq!(small.receive_frame(), frames[19]);
    Ok(())
}

#[test]
fn a_flood_of_source_addresses_does_not_evict_a_neighbour() -> Result<()> {
    let (_switch, mut a, mut b, mut c) = three()?;
    announce(&mut b, 2, [&mut a, &mut c]);
    for n in 0..100_000u32 {
        let [x, y, z, w] = n.to_be_bytes();
        // To itself, so that the switch only learns.
        let station = [2, 0, x, y, z, w];
        c.send(&frame(station, station, b""));
    }
    let letter = frame(mac(2), mac(1), b"for 2");
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    assert_nothing_came(&mut a, mac(1), [&mut b, &mut c]);
    Ok(())
}

#[test]
fn a_guest_that_moved_is_announced() -> Result<()> {
    let (_switch, mut a, mut b, mut c) = three()?;
    announce(&mut b, 2, [&mut a, &mut c]);
    // Station 2 has been migrated to c, and its new host's QEMU says so.
    c.send_rarp(mac(2));
    let call = a.receive_frame();
    assert_eq!(b.receive_frame(), call);
    assert_eq!((&call[..12], &call[12..14]), ([BROADCAST, mac(2)].concat().as_slice(), [0x80, 0x35].as_slice()));
    let letter = frame(mac(2), mac(1), b"for 2, wherever it is");
    a.send(&letter);
    assert_eq!(c.receive_frame(), letter);
    Ok(())
}

#[test]
fn the_operator_sees_which_addresses_are_where_and_has_them_forgotten() -> Result<()> {
    let (switch, mut a, mut b, mut c) = three()?;
    assert!(switch.addresses()?.is_empty());
    announce(&mut b, 2, [&mut a, &mut c]);
    announce(&mut c, 1, [&mut a, &mut b]);
    announce(&mut b, 3, [&mut a, &mut c]);
    let known = |port: &str, n| (port.to_string(), sv3::frame::MacAddr::new(mac(n)).to_string());
    assert_eq!(switch.addresses()?, [known("p1", 2), known("p1", 3), known("p2", 1)]);
    let (of_port, of_nobody) = (Which::parse("port=p1").unwrap(), Which::parse("vlan=7").unwrap());
    assert!(switch.flush(&Which::parse("port=p9").unwrap()).is_err());
    assert_eq!((switch.flush(&of_nobody)?, switch.flush(&of_port)?), (0, 2));
    switch.await_status("forgotten", |_| switch.addresses().is_ok_and(|known| known.len() == 1))?;
    // Frames to it are flooded again.
    let letter = frame(mac(2), mac(1), b"for 2");
    c.send(&letter);
    assert_eq!((a.receive_frame(), b.receive_frame()), (letter.clone(), letter));
    Ok(())
}
