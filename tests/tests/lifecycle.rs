//! Rings stop and start, drivers change, memory is plugged in and out, connections end: frames pass whenever both rings
//! run, and nothing is left behind.

use std::collections::BTreeSet;

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use sv3::status::Link;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::split::Descriptor;
use sv3_tests::guest::wire::{SET_VRING_CALL, SET_VRING_KICK};
use sv3_tests::guest::{Config, Guest, NetHdr, Shape};
use sv3_tests::patience::until;
use sv3_tests::switch::{Switch, fds};

const RX: u16 = 0;
const TX: u16 = 1;

fn two() -> Result<(Switch, Guest, Guest)> {
    let switch = Switch::start()?;
    let [a, b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    Ok((switch, a, b))
}

/// Twenty frames pass each way.
#[track_caller]
fn assert_talk(a: &mut Guest, b: &mut Guest) {
    for n in 0..20 {
        let (there, back) = (noise(mac(2), mac(1), 60 + 97 * n, 1), noise(mac(1), mac(2), 60 + 89 * n, 2));
        a.send(&there);
        assert_eq!(b.receive_frame(), there);
        b.send(&back);
        assert_eq!(a.receive_frame(), back);
    }
    a.await_sent();
    b.await_sent();
}

#[test]
fn a_stopped_ring_goes_on_where_it_stood() -> Result<()> {
    let (switch, mut a, mut b) = two()?;
    let mut sent = 0u32;
    // The index wraps.
    for round in 0..260u32 {
        for n in 0..round {
            a.send(&noise(mac(2), mac(1), 60, n));
            assert_eq!(b.receive_frame().len(), 60);
        }
        sent = (sent + round) & 0xffff;
        a.await_sent();
        assert_eq!(a.stop_ring(TX), sent);
        assert_eq!(b.stop_ring(RX), sent);
        b.start_ring(RX, sent);
        a.start_ring(TX, sent);
    }
    assert_talk(&mut a, &mut b);
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn a_stopped_packed_ring_goes_on_where_it_stood() -> Result<()> {
    let switch = Switch::start()?;
    let config = Guest::config().features(LINUX | RING_PACKED).ring_size(64);
    let mut a = config.clone().connect(switch.socket());
    let mut b = config.connect(switch.socket());
    // The wrap counter flips between some stops and not between others.
    for round in 0..100 {
        for n in 0..round % 70 {
            a.send(&noise(mac(2), mac(1), 60, n));
            assert_eq!(b.receive_frame().len(), 60);
        }
        a.await_sent();
        let (sender, receiver) = (a.stop_ring(TX), b.stop_ring(RX));
        b.start_ring(RX, receiver);
        a.start_ring(TX, sender);
    }
    assert_talk(&mut a, &mut b);
    a.reset_device(LINUX);
    assert_talk(&mut a, &mut b);
    a.reset_device(LINUX | RING_PACKED);
    assert_talk(&mut a, &mut b);
    assert_eq!(switch.port("p0")?.rings[0].kind, "packed");
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn frames_wait_in_a_ring_that_is_stopped() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    let mut c = Guest::connect(_switch.socket());
    let base = a.stop_ring(TX);
    let letter = frame(BROADCAST, mac(1), b"while it is stopped");
    a.send(&letter);
    a.kick(TX);
    let other = frame(BROADCAST, mac(3), b"from another port");
    c.send(&other);
    assert_eq!(b.receive_frame(), other);
    assert_eq!(a.receive_frame(), other, "it still receives");
    assert_eq!(a.queue(TX).ring.in_flight(), 1, "it was not touched");
    a.start_ring(TX, base);
    assert_eq!(b.receive_frame(), letter);
    assert_eq!(c.receive_frame(), letter);
    Ok(())
}

#[test]
fn a_receiver_that_is_stopped_or_disabled_loses_frames_and_says_so() -> Result<()> {
    let (switch, mut a, mut b) = two()?;
    assert_talk(&mut a, &mut b);
    let letter = noise(mac(2), mac(1), 60, 1);
    b.enable_ring(RX, false);
    a.send(&letter);
    a.await_sent();
    switch.await_drops("p1", "rx_down", 1)?;
    assert_eq!(switch.port("p1")?.link, Link::Down);
    b.enable_ring(RX, true);
    assert_eq!(switch.port("p1")?.link, Link::Up);
    let base = b.stop_ring(RX);
    a.send(&letter);
    a.await_sent();
    switch.await_drops("p1", "rx_down", 2)?;
    b.start_ring(RX, base);
    assert_talk(&mut a, &mut b);
    Ok(())
}

#[test]
fn a_sender_that_is_disabled_waits() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    a.enable_ring(TX, false);
    let letter = noise(mac(2), mac(1), 60, 1);
    a.send(&letter);
    b.send(&frame(BROADCAST, mac(2), b"meanwhile"));
    a.receive_frame();
    assert_eq!(a.queue(TX).ring.in_flight(), 1);
    a.enable_ring(TX, true);
    assert_eq!(b.receive_frame(), letter);
    Ok(())
}

#[test]
fn rings_start_and_are_enabled_in_any_order() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    for order in permutations(&[0, 1, 2, 3]) {
        let bases = [a.stop_ring(RX), a.stop_ring(TX)];
        a.enable_ring(RX, false);
        a.enable_ring(TX, false);
        for step in order {
            match step {
                0 => a.start_ring(RX, bases[0]),
                1 => a.start_ring(TX, bases[1]),
                2 => a.enable_ring(RX, true),
                _ => a.enable_ring(TX, true),
            }
        }
        assert_talk(&mut a, &mut b);
    }
    Ok(())
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let with = |first: &usize| {
        let rest: Vec<usize> = items.iter().copied().filter(|item| item != first).collect();
        permutations(&rest).into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    };
    items.iter().flat_map(with).collect()
}

#[test]
fn drivers_come_one_after_the_other() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    let kinds =
        [VERSION_1, LINUX, VERSION_1 | EVENT_IDX, VERSION_1 | MRG_RXBUF, LINUX | IN_ORDER, VERSION_1 | INDIRECT_DESC];
    for features in kinds {
        // Buffers that a driver leaves in the ring belong to no driver any more.
        a.send(&frame(BROADCAST, mac(1), b"last words"));
        assert_eq!(b.receive_frame().len(), 24);
        a.reset_device(features);
        assert_talk(&mut a, &mut b);
        b.renegotiate(features);
        assert_talk(&mut a, &mut b);
    }
    Ok(())
}

#[test]
fn a_reset_amid_traffic() -> Result<()> {
    let (switch, mut a, mut b) = two()?;
    for round in 0..50 {
        for n in 0..100 {
            a.send(&noise(mac(2), mac(1), 1500, n));
        }
        match round % 2 {
            0 => a.reset_device(LINUX),
            _ => b.reset_device(LINUX),
        }
    }
    a.await_sent();
    while b.try_receive().is_some() {}
    assert_talk(&mut a, &mut b);
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn a_front_end_that_reconnects_goes_on() -> Result<()> {
    let (switch, mut a, mut b) = two()?;
    for round in 0..20 {
        assert_talk(&mut a, &mut b);
        if round % 2 == 0 {
            a.reconnect(switch.socket())
        } else {
            b.reconnect(switch.socket())
        }
        switch.await_ports(2)?;
    }
    // Frames that the driver made available meanwhile are sent.
    a.stop_ring(TX);
    let letter = noise(mac(2), mac(1), 1000, 1);
    a.send(&letter);
    a.reconnect(switch.socket());
    assert_eq!(b.receive_frame(), letter);
    assert_talk(&mut a, &mut b);
    Ok(())
}

#[test]
fn memory_comes_and_goes_amid_traffic() -> Result<()> {
    // With memory slots, as new QEMUs do, and by whole tables, as old ones do.
    for protocol_features in [u64::MAX, !PROTOCOL_MEM_SLOTS] {
        let switch = Switch::start()?;
        let mut a = Guest::config().protocol_features(protocol_features).connect(switch.socket());
        let mut b = Guest::config().protocol_features(protocol_features).connect(switch.socket());
        let frames: Vec<_> = (0..80).map(|n| noise(mac(2), mac(1), 1000, n)).collect();
        let [first, second, third, fourth] = [0, 20, 40, 60].map(|at| &frames[at..at + 20]);
        for _ in 0..50 {
            send_all(&mut a, first);
            let plugged = a.add_region(1 << 20);
            send_all(&mut a, second);
            let received = b.add_region(1 << 20);
            send_all(&mut a, third);
            a.unplug(plugged);
            send_all(&mut a, fourth);
            b.unplug(received);
            for frame in &frames {
                assert!(b.receive_frame() == *frame, "nothing is lost");
            }
        }
        assert_eq!(switch.status()?.worker.restarts, 0);
    }
    Ok(())
}

fn send_all(guest: &mut Guest, frames: &[Vec<u8>]) {
    for frame in frames {
        guest.send(frame);
    }
}

#[test]
fn plugged_memory_is_used_and_unplugged_memory_is_not() -> Result<()> {
    let (switch, mut a, mut b) = two()?;
    let head = a.take_descriptors(TX, 1)[0];
    let letter = noise(mac(2), mac(1), 500, 1);
    for round in 1..=20 {
        let at = a.add_region(1 << 20);
        let addr = a.memory().regions()[at].guest_addr;
        a.memory().write(addr, &[&[0; 12], letter.as_slice()].concat());
        a.describe(TX, head, Descriptor { addr, len: 512, flags: 0, next: 0 });
        a.offer(TX, head);
        assert_eq!(b.receive_frame(), letter);
        a.take_used(TX);
        a.unplug(at);
        a.offer(TX, head);
        a.take_used(TX);
        switch.await_drops("p0", "bad_chain", round)?;
    }
    assert_talk(&mut a, &mut b);
    Ok(())
}

#[test]
fn receive_buffers_go_with_their_memory_and_come_back() -> Result<()> {
    // CVE-2021-3748: during frames of several buffers.
    let switch = Switch::start()?;
    let mut a = Guest::connect(switch.socket());
    let mut b = Guest::config().regions(8).ring_size(32).rx_buffer(8192).connect(switch.socket());
    for round in 0..60 {
        let at = 1 + round % 7;
        let frames: Vec<_> = (0..4).map(|n| noise(mac(2), mac(1), 50_000, n)).collect();
        send_all(&mut a, &frames);
        b.unplug(at);
        send_all(&mut a, &frames);
        a.await_sent();
        b.plug(at);
        // Buffers that came back empty are no frames: the driver starts anew.
        b.reset_device(LINUX);
    }
    assert_talk(&mut a, &mut b);
    let status = switch.status()?;
    assert_eq!(status.worker.restarts, 0);
    Ok(())
}

#[test]
fn a_ring_without_memory_stops_and_goes_on_when_it_is_back() -> Result<()> {
    let switch = Switch::start()?;
    let mut a = Guest::connect(switch.socket());
    let mut b = Guest::config().rings_at_region_end().connect(switch.socket());
    assert_talk(&mut a, &mut b);
    b.unplug(0);
    switch.await_status("the rings' faults", |status| {
        let rings = status.ports.iter().flat_map(|port| &port.rings);
        rings.filter(|ring| ring.fault.is_some()).count() == 2
    })?;
    assert_eq!(switch.port("p1")?.link, Link::Down);
    b.plug(0);
    switch.await_status("no faults", |status| status.ports.iter().all(|port| port.link == Link::Up))?;
    assert_talk(&mut a, &mut b);
    Ok(())
}

#[test]
fn many_queue_pairs_talk() -> Result<()> {
    let switch = Switch::start()?;
    let mut a = Guest::config().pairs(8).connect(switch.socket());
    let mut b = Guest::config().pairs(8).connect(switch.socket());
    let mut single = Guest::connect(switch.socket());
    let mut pairs = BTreeSet::new();
    for pair in 0..8u16 {
        let letter = noise(BROADCAST, mac(1), 100, pair.into());
        a.send_on(pair, &NetHdr::default(), &letter, Shape::default());
        let received = b.receive();
        assert_eq!(received.frame, letter);
        pairs.insert(received.pair);
        assert_eq!(single.receive_frame(), letter);
    }
    assert_eq!(pairs.len(), 8, "each pair's frames have a ring of their own");
    // A driver that uses fewer pairs than it has.
    for pair in 2..8 {
        b.enable_ring(2 * pair, false);
        b.enable_ring(2 * pair + 1, false);
    }
    let mut pairs = BTreeSet::new();
    for pair in 0..8u16 {
        let letter = noise(BROADCAST, mac(1), 100, pair.into());
        a.send_on(pair, &NetHdr::default(), &letter, Shape::default());
        let received = b.receive();
        assert_eq!(received.frame, letter);
        pairs.insert(received.pair);
    }
    assert_eq!(pairs, BTreeSet::from([0, 1]));
    Ok(())
}

#[test]
fn frames_of_one_pair_stay_in_order() -> Result<()> {
    let switch = Switch::start()?;
    let mut a = Guest::config().pairs(4).connect(switch.socket());
    let mut b = Guest::config().pairs(4).connect(switch.socket());
    let mut next = [0u32; 4];
    for round in 0..100u32 {
        for n in 0..100u32 {
            let pair = (n * 7 + round) as u16 % 4;
            let payload = [u32::from(pair).to_ne_bytes(), (round * 100 + n).to_ne_bytes()].concat();
            a.send_on(pair, &NetHdr::default(), &frame(mac(2), mac(1), &payload), Shape::default());
        }
        for _ in 0..100 {
            let received = b.receive().frame;
            let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| received[at + i]));
            let (pair, number) = (word(14) as usize, word(18) + 1);
            assert!(number > next[pair], "frame {number} of pair {pair} after {}", next[pair]);
            next[pair] = number;
        }
    }
    Ok(())
}

#[test]
fn a_driver_that_polls_needs_no_calls() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    // Bit 8: there is no fd.
    b.raw().set(SET_VRING_CALL, &(0x100u64 | u64::from(RX)).to_ne_bytes(), &[])?;
    b.queue(RX).clear_calls();
    for n in 0..100 {
        let letter = noise(mac(2), mac(1), 100, n);
        a.send(&letter);
        assert_eq!(until("a frame", || Ok(b.try_receive()))?.frame, letter);
    }
    assert!(!b.queue(RX).clear_calls(), "it was called by an fd that it had taken back");
    Ok(())
}

/// QEMU exchanges the eventfd when a guest unmasks its interrupt: a call that the earlier one still got would be lost. A
/// guest that had just migrated stood still by that.
#[test]
fn a_new_call_eventfd_is_signalled_at_once() -> Result<()> {
    for packed in [0, RING_PACKED] {
        let switch = Switch::start()?;
        let mut a = Guest::connect(switch.socket());
        let mut b = Guest::config().features(LINUX | packed).connect(switch.socket());
        let letter = noise(mac(2), mac(1), 100, 0);
        a.send(&letter);
        assert_eq!(b.receive_frame(), letter);
        for ring in [RX, TX] {
            let new = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
            b.raw().set(SET_VRING_CALL, &u64::from(ring).to_ne_bytes(), &[new.as_fd()])?;
            until("a call by the new eventfd", || Ok(new.read().ok()))?;
        }
    }
    Ok(())
}

#[test]
fn kick_and_call_may_be_exchanged_while_a_ring_runs() -> Result<()> {
    let (_switch, mut a, mut b) = two()?;
    for n in 0..50 {
        let letter = noise(mac(2), mac(1), 100, n);
        a.send(&letter);
        // Fds that nothing will use, then those of the guest.
        let other = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
        b.raw().set(SET_VRING_CALL, &u64::from(RX).to_ne_bytes(), &[other.as_fd()])?;
        a.raw().set(SET_VRING_KICK, &u64::from(TX).to_ne_bytes(), &[other.as_fd()])?;
        let (call, kick) = (b.queue(RX).call_fd().try_clone_to_owned()?, a.queue(TX).kick_fd().try_clone_to_owned()?);
        b.raw().set(SET_VRING_CALL, &u64::from(RX).to_ne_bytes(), &[call.as_fd()])?;
        a.raw().set(SET_VRING_KICK, &u64::from(TX).to_ne_bytes(), &[kick.as_fd()])?;
        a.kick(TX);
        assert_eq!(until("the frame", || Ok(b.try_receive()))?.frame, letter);
    }
    assert_talk(&mut a, &mut b);
    Ok(())
}

#[test]
fn the_status_follows_a_client() -> Result<()> {
    let switch = Switch::start()?;
    let waiting = Guest::config().vanishing_after(7).try_connect(switch.socket());
    switch.await_ports(1)?;
    let port = switch.port("p0")?;
    assert_eq!((port.link, port.client_pid), (Link::Starting, std::process::id() as i32));
    assert_eq!(port.client_uid, nix::unistd::getuid().as_raw());
    drop(waiting);
    switch.await_ports(0)?;
    let guest =
        Guest::config().features(VERSION_1 | MRG_RXBUF).mtu(9000).regions(3).ring_size(64).connect(switch.socket());
    let port = switch.status()?.ports.remove(0);
    assert_eq!((port.link, port.mtu), (Link::Up, Some(9000)));
    let names = ["VIRTIO_NET_F_MRG_RXBUF", "VHOST_USER_F_PROTOCOL_FEATURES", "VIRTIO_F_VERSION_1"];
    assert_eq!(port.features, names);
    assert_eq!(port.memory.len(), 3);
    for (told, region) in guest.memory().regions().iter().zip(&port.memory) {
        let shown = (region.guest_addr, region.size, region.offset, region.file_size);
        assert_eq!(shown, (told.guest_addr, told.size, told.offset, told.offset + told.size));
    }
    assert!(port.rings.iter().all(|ring| ring.size == 64 && ring.started && ring.enabled && ring.kind == "split"));
    guest.disconnect();
    switch.await_ports(0)
}

#[test]
fn clients_that_go_leave_nothing_behind() -> Result<()> {
    let switch = Switch::start()?;
    let stays = Guest::connect(switch.socket());
    // While a standby starts, the supervisor has the other ends of what it gets.
    until("a standby", || Ok(switch.status()?.worker.standby_pid))?;
    let pids = [switch.supervisor_pid()?, switch.worker_pid()?];
    let count = || -> Result<Vec<usize>> {
        let maps = |pid: u32| Ok::<_, Failure>(std::fs::read_to_string(format!("/proc/{pid}/maps"))?);
        Ok(vec![fds(pids[0])?.len(), fds(pids[1])?.len(), maps(pids[1])?.matches("sv3-guest").count()])
    };
    let before = count()?;
    for round in 0..100 {
        let config = Config::default().regions(1 + round % 8).pairs(1 + round as u16 % 3).ring_size(64);
        let guest = config.connect(switch.socket());
        if round % 2 == 0 { guest.vanish() } else { guest.disconnect() }
    }
    switch.await_ports(1)?;
    // The last region's mapping goes between two bursts. Fewer is no leak: a caller of the control socket hears the end
    // of its connection before the supervisor has closed it, so the count before may have one that was about to go.
    let mut last = Vec::new();
    until("all fds and mappings back", || {
        last = count()?;
        Ok(last.iter().zip(&before).all(|(now, before)| now <= before).then_some(()))
    })
    .map_err(|failure| Failure::new(format!("{failure}: {before:?} before, {last:?} after")))?;
    drop(stays);
    Ok(())
}
