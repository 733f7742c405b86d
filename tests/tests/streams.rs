//! Ports of sockets: streams of every form, and sockets on which a frame is a message.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::socket::SockType;
use sv3::attachment::{Attachment, FrameForm, Transport};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::flow::Flow;
use sv3_tests::frames::{BROADCAST, Packet, finish, frame, mac, noise};
use sv3_tests::guest::feature::{LINUX, USO, VERSION_1};
use sv3_tests::guest::{GSO_NONE, Guest, NEEDS_CSUM, NetHdr, Received, Shape};
use sv3_tests::honest::Honest;
use sv3_tests::network::ports::{attach_packets, attach_stream, attachment};
use sv3_tests::network::{PacketPeer, StreamPeer};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::Switch;

/// Most frames of a burst.
const BURST: u32 = 256;
/// Payload of a segment that fits an MTU of 1500 also over IPv6.
const MSS: u16 = 1400;
/// What the MTU leaves for the payload of a TCP segment, over IPv4 and IPv6, with 12 octets of options.
const IMPLIED_MSS: [u16; 2] = [1448, 1428];

fn stream(name: &str) -> Attachment {
    attachment(Transport::Stream, name)
}

/// Two stream ports, `left` and `right`, whose peers are stations 1 and 2 and know each other.
fn two_streams(switch: &Switch) -> Result<[StreamPeer; 2]> {
    let mut peers = [attach_stream(switch, &stream("left"))?, attach_stream(switch, &stream("right"))?];
    introduce(&mut peers)?;
    Ok(peers)
}

/// Both call until the other hears: a switch that gets its first port of files takes a moment to serve it.
fn introduce([left, right]: &mut [StreamPeer; 2]) -> Result<()> {
    call(left, right, 1)?;
    call(right, left, 2)
}

fn call(from: &mut StreamPeer, to: &mut StreamPeer, station: u8) -> Result<()> {
    let call = noise(BROADCAST, mac(station), 64, 0);
    from.send(&call)?;
    while to.receive()?.1 != call {}
    Ok(())
}

#[test]
fn two_streams_exchange_frames_of_all_lengths_in_any_pieces() -> Result<()> {
    let switch = Switch::start()?;
    let [mut left, mut right] = two_streams(&switch)?;
    for octets in [14, 15, 60, 64, 1000, 1513, 1514] {
        let (there, back) = (noise(mac(2), mac(1), octets, 1), noise(mac(1), mac(2), octets, 2));
        // Octet by octet, then three frames at once.
        for octet in left.encode(&NetHdr::default(), &there) {
            left.send_octets(&[octet])?;
        }
        assert_eq!(right.receive()?.1, there);
        right.send_octets(&right.encode(&NetHdr::default(), &back).repeat(3))?;
        for _ in 0..3 {
            assert_eq!(left.receive()?.1, back);
        }
    }
    let files = switch.port("left")?.files.ok_or_else(|| Failure::new("no files"))?;
    assert_eq!((files.transport.as_str(), files.form.as_str(), files.queues), ("stream", "plain", 1));
    Ok(())
}

#[test]
fn a_peer_that_reads_in_small_bites_gets_whole_frames() -> Result<()> {
    let switch = Switch::start()?;
    let (left, right) = (attach_stream(&switch, &stream("left"))?, attach_stream(&switch, &stream("right"))?);
    let mut peers = [left, right.biting(7)];
    introduce(&mut peers)?;
    let [left, right] = &mut peers;
    for seed in 0..200 {
        let frame = noise(mac(2), mac(1), 60 + 7 * seed as usize, seed);
        left.send(&frame)?;
        assert_eq!(right.receive()?.1, frame);
    }
    Ok(())
}

#[test]
fn a_plain_stream_gets_segments_with_checksums() -> Result<()> {
    let switch = Switch::start()?;
    let mut peers = two_streams(&switch)?;
    let mut guest = Guest::config().features(LINUX | USO).connect(switch.socket());
    // Station 1 is the guest now: `left` has said nothing since.
    let [left, right] = &mut peers;
    guest.send(&noise(BROADCAST, mac(1), 64, 1));
    while right.receive()?.1 != noise(BROADCAST, mac(1), 64, 1) {}
    while left.receive_within(Duration::from_millis(10))?.is_some() {}
    for v6 in [false, true] {
        for packet in [Packet::tcp(v6, 20_000), Packet::udp(v6, 20_000)] {
            let (hdr, octets) = packet.unsegmented(MSS);
            guest.send_with(&hdr, &octets, Shape::default());
            let segments = packet.parts(MSS).len();
            let received: Result<Vec<Received>> = (0..segments)
                .map(|_| Ok(Received { hdr: NetHdr::default(), frame: right.receive()?.1, pair: 0, buffers: 1 }))
                .collect();
            packet.assert_arrived(MSS, &received?);
        }
        let packet = Packet::udp(v6, 1000);
        let (hdr, octets) = packet.unfinished();
        guest.send_with(&hdr, &octets, Shape::default());
        assert_eq!(right.receive()?.1, packet.on_the_wire());
    }
    Ok(())
}

#[test]
fn a_stream_with_headers_gets_and_gives_large_segments_whole() -> Result<()> {
    let switch = Switch::start()?;
    let with_header = |name| Attachment { form: FrameForm::NetHeader, ..stream(name) };
    let mut peers = [attach_stream(&switch, &with_header("left"))?, attach_stream(&switch, &with_header("right"))?];
    introduce(&mut peers)?;
    let [left, right] = &mut peers;
    for packet in [Packet::tcp(false, 60_000), Packet::tcp(true, 60_000), Packet::udp(false, 60_000)] {
        let (hdr, octets) = packet.unsegmented(MSS);
        left.send_with(&hdr, &octets)?;
        let (came_hdr, came) = right.receive()?;
        assert_eq!(NetHdr { num_buffers: 0, ..came_hdr }, hdr);
        assert!(came == octets, "the segment was changed on its way");
    }
    Ok(())
}

#[test]
fn offloads_that_a_peer_implies_are_done_for_those_who_need_it() -> Result<()> {
    let switch = Switch::start()?;
    let implied = Attachment { form: FrameForm::Implied, ..stream("krun") };
    let mut krun = attach_stream(&switch, &implied)?;
    let mut able = Guest::config().features(LINUX | USO).connect(switch.socket());
    let mut plain = Guest::config().features(VERSION_1).connect(switch.socket());
    until("the guest to hear the stream", || {
        krun.send(&noise(BROADCAST, mac(1), 64, 0))?;
        Ok(plain.receive_within(Duration::from_millis(50)).map(drop))
    })?;
    for v6 in [false, true] {
        // The first packet is flooded: both get it.
        let (packet, mss) = (Packet::tcp(v6, 20_000), IMPLIED_MSS[usize::from(v6)]);
        let (_, octets) = packet.unsegmented(mss);
        krun.send(&octets)?;
        let segments = packet.parts(mss).len();
        let tcp = |received: &Received| received.frame.len() > 64;
        let receive = |guest: &mut Guest| loop {
            let received = guest.receive();
            if tcp(&received) {
                return received;
            }
        };
        let whole = receive(&mut able);
        assert_ne!(whole.hdr.gso_type, GSO_NONE);
        assert!(whole.frame == octets && whole.hdr.flags == NEEDS_CSUM);
        let received: Vec<Received> = (0..segments).map(|_| receive(&mut plain)).collect();
        packet.assert_arrived(mss, &received);
        let packet = Packet::udp(v6, 500);
        krun.send(&packet.unfinished().1)?;
        assert_eq!(receive(&mut plain).frame, packet.on_the_wire());
        let received = receive(&mut able);
        assert_eq!(finish(&received.hdr, received.frame), packet.on_the_wire());
    }
    Ok(())
}

#[test]
fn a_length_that_no_frame_has_ends_its_own_stream_with_a_reason() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut peers = two_streams(&honest)?;
    for (name, length) in [("long", 69_633), ("gigabytes", u32::MAX), ("more", 1 << 24)] {
        let mut bad = attach_stream(&honest, &stream(name))?;
        bad.send(&noise(BROADCAST, mac(40), 64, 0))?;
        bad.send_octets(&length.to_be_bytes())?;
        let _ = bad.send_octets(&noise(BROADCAST, mac(40), 1500, 0));
        honest.await_event(&["file_fault", name])?;
        let stopped = honest.port(name)?.files.and_then(|files| files.stopped);
        eprintln!("{name}: {stopped:?}");
        assert!(stopped.is_some_and(|why| !why.is_empty()));
        bad.await_closed()?;
        honest.detach(name)?;
        introduce(&mut peers)?;
    }
    // Frames of nothing are dropped; the stream goes on.
    let mut empty = attach_stream(&honest, &stream("empty"))?;
    empty.send_octets(&[0; 4])?;
    empty.send_octets(&[0, 0, 0, 1, 7])?;
    empty.send(&noise(BROADCAST, mac(40), 64, 0))?;
    let [left, _] = &mut peers;
    while left.receive()?.1 != noise(BROADCAST, mac(40), 64, 0) {}
    honest.await_drops("empty", "short_frame", 2)?;
    for name in ["empty", "left", "right"] {
        honest.detach(name)?;
    }
    assert_eq!(honest.status()?.worker.restarts, 0);
    honest.talk();
    Ok(())
}

#[test]
fn half_a_frame_for_ever_ends_its_own_stream() -> Result<()> {
    let switch = Switch::start()?;
    let mut peers = two_streams(&switch)?;
    let mut half = attach_stream(&switch, &stream("half"))?;
    half.send_octets(&[0, 0, 5, 0, 1, 2, 3])?;
    let begin = Instant::now();
    switch.await_event(&["file_fault", "half"])?;
    half.await_closed()?;
    assert!(begin.elapsed() > Duration::from_secs(3), "a peer may take some time for a frame");
    introduce(&mut peers)?;
    let processor = sv3_tests::switch::activity(switch.worker_pid()?)?;
    assert!(processor[2] < 200, "the worker was busy while half a frame waited: {processor:?}");
    Ok(())
}

#[test]
fn peers_that_do_not_read_cost_others_nothing() -> Result<()> {
    let honest = Honest::new()?;
    let mut peers = two_streams(&honest)?;
    let deaf: Result<Vec<StreamPeer>> =
        (0..200).map(|n| attach_stream(&honest, &stream(&format!("deaf{n}")))).collect();
    let mut deaf = deaf?;
    let station = |n: usize| [2, 0, 0, 0, 1, n as u8];
    for (n, peer) in deaf.iter_mut().enumerate() {
        peer.send(&noise(BROADCAST, station(n), 60, 0))?;
    }
    // All are sent to, and two so much that their sockets fill; one of these reads an octet now and then.
    let mut guest = Guest::connect(honest.socket());
    let [left, right] = &mut peers;
    let (mut number, mut longest) = (0, Duration::ZERO);
    let full = |name: &str| Ok::<bool, Failure>(honest.port(name)?.drops.values().sum::<u64>() > 0);
    let end = Instant::now() + 3 * PATIENCE;
    while !(full("deaf7")? && full("deaf8")?) {
        assert!(Instant::now() < end, "frames for peers that do not read are neither taken nor dropped");
        for to in [station(7), station(8), station(7), station(8), station(number as usize % 200)] {
            for _ in 0..20 {
                guest.send(&noise(to, mac(60), 1514, number));
            }
        }
        deaf[8].socket().set_nonblocking(true)?;
        let _ = deaf[8].socket().read(&mut [0]);
        number += 1;
        let (sent, frame) = (Instant::now(), noise(mac(2), mac(1), 200, number));
        left.send(&frame)?;
        while right.receive()?.1 != frame {}
        longest = longest.max(sent.elapsed());
    }
    eprintln!("{number} trips, the longest took {longest:?}");
    assert!(longest < Duration::from_secs(1), "a pair waited {longest:?} for peers of others");
    drop(guest);
    for n in 0..200 {
        honest.detach(&format!("deaf{n}"))?;
    }
    assert_eq!(honest.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn a_stream_stays_in_step_over_50_deaths() -> Result<()> {
    let switch = Switch::start()?;
    let [mut left, mut right] = two_streams(&switch)?;
    let (over, newest) = (&AtomicBool::new(false), &AtomicU32::new(0));
    let frame_of = |number: u32| {
        let mut octets = noise(mac(2), mac(1), 60 + (number as usize * 37) % 1400, number);
        octets[14..18].copy_from_slice(&number.to_be_bytes());
        octets
    };
    let (sent, seen) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<u32> {
            let mut number = 0;
            while !over.load(SeqCst) {
                let burst: Vec<u8> =
                    (number..number + 16).flat_map(|n| left.encode(&NetHdr::default(), &frame_of(n))).collect();
                left.send_octets(&burst)?;
                number += 16;
            }
            Ok(number)
        });
        let reader = scope.spawn(move || -> Result<BTreeMap<u32, u32>> {
            let mut seen = BTreeMap::new();
            while let Some((_, came)) = right.receive_within(Duration::from_secs(2))? {
                let number = u32::from_be_bytes(std::array::from_fn(|at| came[14 + at]));
                if came != frame_of(number) {
                    return Err(Failure::new(format!("frame {number} was changed")));
                }
                *seen.entry(number).or_insert(0) += 1;
                newest.fetch_max(number, SeqCst);
            }
            Ok(seen)
        });
        let killed = (0..50).try_for_each(|_| {
            switch.kill_worker("KILL")?;
            // More than a burst, so that none is under way at two deaths.
            let before = newest.load(SeqCst);
            until("frames after a death", || Ok((newest.load(SeqCst) > before + 2 * BURST).then_some(())))
        });
        over.store(true, SeqCst);
        let panicked = |_| Failure::new("a thread panicked");
        let sent = sender.join().map_err(panicked)??;
        let seen = reader.join().map_err(panicked)??;
        killed.map(|()| (sent, seen))
    })?;
    let (lost, twice) = (u64::from(sent) - seen.len() as u64, seen.values().filter(|times| **times > 1).count());
    eprintln!("{sent} frames over 50 deaths: {lost} lost, {twice} twice");
    assert!(seen.values().all(|times| *times <= 2), "a frame came more than twice");
    // A reader that the machine keeps from running for long is a slow receiver: its frames are dropped, and counted.
    let dropped = switch.drops("right", "no_rx_buffers")?;
    assert!(lost <= dropped, "{lost} frames were lost, and only {dropped} are counted as dropped");
    // At most the burst under way at each death.
    assert!(twice <= 50 * BURST as usize, "{twice} frames came twice");
    Ok(())
}

#[test]
fn frames_between_a_guest_and_a_stream_survive_deaths() -> Result<()> {
    let switch = Switch::start()?;
    let mut peer = attach_stream(&switch, &stream("left"))?;
    let mut guest = Guest::config().guarded().connect(switch.socket());
    until("the guest to hear the stream", || {
        peer.send(&noise(BROADCAST, mac(1), 64, 0))?;
        Ok(guest.receive_within(Duration::from_millis(50)).map(drop))
    })?;
    while guest.receive_within(Duration::from_millis(50)).is_some() {}
    guest.send(&frame(mac(1), mac(2), b"hello"));
    peer.receive()?;
    // Else it may come again after the first death.
    guest.await_sent();
    let (mut up, mut down) = (Flow::new(2, 1, 500), Flow::new(1, 2, 500));
    for _ in 0..20 {
        let shot = switch.shoot_worker("KILL")?;
        up.send(&mut guest, 20);
        for number in down.prepare(20) {
            peer.send(&number)?;
        }
        switch.await_restart(shot)?;
        let deadline = Instant::now() + PATIENCE;
        while !(up.is_complete() && down.is_complete()) && Instant::now() < deadline {
            if let Some((hdr, frame)) = peer.receive_within(Duration::from_millis(1))? {
                up.note(&Received { hdr, frame, pair: 0, buffers: 1 });
            }
            if let Some(received) = guest.receive_within(Duration::from_millis(1)) {
                down.note(&received);
            }
        }
        assert!(up.is_complete() && down.is_complete(), "frames were lost");
    }
    eprintln!("{} and {} frames came twice", up.duplicates(), down.duplicates());
    Ok(())
}

/// The next frame but for one that a death brought twice.
fn await_frame(peer: &mut PacketPeer, wanted: &[u8]) -> Result<()> {
    for _ in 0..4 {
        if peer.receive()? == wanted {
            return Ok(());
        }
    }
    Err(Failure::new("a frame was lost or changed"))
}

#[test]
fn sockets_on_which_a_frame_is_a_message_are_ports() -> Result<()> {
    for kind in [SockType::SeqPacket, SockType::Datagram] {
        let switch = Switch::start()?;
        let [mut left, mut right] = [
            attach_packets(&switch, &attachment(Transport::Packets, "left"), kind)?,
            attach_packets(&switch, &attachment(Transport::Packets, "right"), kind)?,
        ];
        left.send(&noise(BROADCAST, mac(1), 64, 0))?;
        right.receive()?;
        right.send(&noise(mac(1), mac(2), 64, 0))?;
        left.receive()?;
        for turn in 0..50 {
            for octets in [14, 60, 1514] {
                let (there, back) = (noise(mac(2), mac(1), octets, turn), noise(mac(1), mac(2), octets, turn + 100));
                left.send(&there)?;
                await_frame(&mut right, &there)?;
                right.send(&back)?;
                await_frame(&mut left, &back)?;
            }
            if turn % 5 == 0 {
                switch.kill_worker("KILL")?;
            }
        }
        // The end of a peer is the end of its port alone.
        drop(left);
        if kind == SockType::SeqPacket {
            switch.await_event(&["file_fault", "left"])?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_that_does_not_take_frames_gets_whole_ones_later() -> Result<()> {
    let switch = Switch::start()?;
    let [mut left, mut right] = two_streams(&switch)?;
    // Far more than a socket has room for.
    let mut socket = left.socket().try_clone()?;
    socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    let burst: Vec<u8> =
        (0..64).flat_map(|n| left.encode(&NetHdr::default(), &noise(mac(2), mac(1), 1514, n))).collect();
    let mut stalled = false;
    for _ in 0..200 {
        stalled = stalled || socket.write_all(&burst).is_err();
        if stalled {
            break;
        }
    }
    switch.kill_worker("KILL")?;
    // Whatever was dropped meanwhile, the stream is in step.
    let mut came = 0;
    while let Some((_, frame)) = right.receive_within(Duration::from_millis(500))? {
        let seed = (0..64).find(|seed| frame == noise(mac(2), mac(1), 1514, *seed));
        assert!(seed.is_some(), "a frame that was never sent");
        came += 1;
    }
    eprintln!("{came} frames came; the sender was held: {stalled}");
    assert!(came > 100);
    left.receive_within(Duration::ZERO)?;
    Ok(())
}
