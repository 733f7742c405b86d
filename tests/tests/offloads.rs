//! Checksums and segmentation that senders leave to others: a receiver that negotiated that gets the frame as it was
//! sent, and another gets what a wire would bring. No receiver gets a wrong frame or a part of one.

use sv3_tests::failure::Result;
use sv3_tests::frames::{ACK, CWR, ECE, FIN, PSH, Packet, mac};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::{
    DATA_VALID, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Guest, NEEDS_CSUM, NetHdr, Received, Shape,
};
use sv3_tests::switch::Switch;

/// Payload of a segment on a link with the usual MTU.
const MSS: u16 = 1448;

/// Sends a frame and a marker; returns what arrives before the marker.
#[track_caller]
fn exchange(from: &mut Guest, to: &mut Guest, (hdr, frame): &(NetHdr, Vec<u8>)) -> Vec<Received> {
    from.send_with(hdr, frame, Shape::default());
    let marker = sv3_tests::frames::frame(mac(2), mac(1), b"that was it");
    from.send(&marker);
    let mut received = Vec::new();
    loop {
        let next = to.receive();
        if next.frame == marker {
            return received;
        }
        received.push(next);
    }
}

/// Every subset of what a receiver can negotiate.
fn receivers() -> impl Iterator<Item = u64> {
    let bits = [GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, MRG_RXBUF];
    (0..1u32 << bits.len()).map(move |subset| {
        let chosen = bits.iter().enumerate().filter(|(at, _)| subset & (1 << at) != 0);
        chosen.fold(VERSION_1 | EVENT_IDX, |all, (_, bit)| all | bit)
    })
}

#[test]
fn every_receiver_gets_what_it_negotiated() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    for features in receivers() {
        let mut receiver = Guest::config().features(features).guarded().connect(switch.socket());
        for v6 in [false, true] {
            for flags in [ACK, ACK | PSH | FIN, ACK | CWR | PSH, ACK | ECE] {
                for (payload, mss) in [(1, 1), (MSS.into(), MSS), (2000, MSS), (30_000, 536), (64_000, MSS)] {
                    let packet = Packet::tcp(v6, payload).flags(flags);
                    let received = exchange(&mut sender, &mut receiver, &packet.unsegmented(mss));
                    packet.assert_arrived(mss, &received);
                }
            }
            for packet in [Packet::tcp(v6, 1000), Packet::udp(v6, 1001), Packet::udp(v6, 0), Packet::icmp(v6, 56)] {
                let received = exchange(&mut sender, &mut receiver, &packet.unfinished());
                let [received] = &received[..] else { panic!("{} frames of one", received.len()) };
                let finished = sv3_tests::frames::finish(&received.hdr, received.frame.clone());
                assert_eq!(finished, packet.on_the_wire(), "{features:#x}");
                assert_eq!(
                    received.hdr.flags == NEEDS_CSUM,
                    features & GUEST_CSUM != 0,
                    "the checksum is left to receivers that accept it"
                );
            }
        }
        receiver.vanish();
        switch.await_ports(1)?;
    }
    assert!(switch.port("p0")?.drops.is_empty());
    Ok(())
}

#[test]
fn what_both_negotiated_passes_as_it_is() -> Result<()> {
    let switch = Switch::start()?;
    let [mut sender, mut receiver] = [(); 2].map(|()| Guest::config().features(LINUX | USO).connect(switch.socket()));
    for v6 in [false, true] {
        for packet in [Packet::tcp(v6, 60_000), Packet::tcp(v6, 60_000).flags(ACK | CWR), Packet::udp(v6, 60_000)] {
            let sent = packet.unsegmented(MSS);
            let received = exchange(&mut sender, &mut receiver, &sent);
            let [Received { hdr, frame, .. }] = &received[..] else { panic!("{} frames of one", received.len()) };
            assert_eq!((NetHdr { num_buffers: 0, ..*hdr }, frame), (sent.0, &sent.1));
        }
    }
    Ok(())
}

#[test]
fn tagged_frames_are_segmented_too() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    let mut receiver = Guest::config().features(VERSION_1 | MRG_RXBUF).connect(switch.socket());
    for v6 in [false, true] {
        for tags in [1, 2] {
            let packet = Packet::tcp(v6, 10_000).tagged(tags);
            let received = exchange(&mut sender, &mut receiver, &packet.unsegmented(MSS));
            packet.assert_arrived(MSS, &received);
            assert_eq!(received.len(), 7);
        }
    }
    Ok(())
}

#[test]
fn a_flooded_frame_is_right_for_each_of_its_receivers() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::config().features(LINUX | USO).connect(switch.socket());
    let kinds = [LINUX, LINUX | USO, VERSION_1, VERSION_1 | GUEST_CSUM, 0, LINUX & !MRG_RXBUF];
    let mut receivers = kinds.map(|features| Guest::config().features(features).connect(switch.socket()));
    let packets = [false, true].map(|v6| [Packet::tcp(v6, 20_000).flags(ACK | PSH), Packet::udp(v6, 20_000)]);
    for packet in packets.into_iter().flatten() {
        let (hdr, frame) = packet.unsegmented(MSS);
        for _ in 0..3 {
            sender.send_with(&hdr, &frame, Shape::default());
        }
        for receiver in &mut receivers {
            for _ in 0..3 {
                let first = receiver.receive();
                let more = if first.hdr.gso_type == GSO_NONE { 20_000 / usize::from(MSS) } else { 0 };
                let received: Vec<_> = std::iter::once(first).chain((0..more).map(|_| receiver.receive())).collect();
                packet.assert_arrived(MSS, &received);
            }
        }
    }
    Ok(())
}

#[test]
fn a_segmented_frame_that_finds_no_room_is_a_loss_and_not_a_fragment() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    let mut receiver = Guest::config().features(VERSION_1).ring_size(16).connect(switch.socket());
    let packet = Packet::tcp(false, 40 * usize::from(MSS));
    let (hdr, frame) = packet.unsegmented(MSS);
    sender.send_with(&hdr, &frame, Shape::default());
    sender.await_sent();
    // Like a wire that is too slow: some of the segments, each of them right.
    let whole = Packet::tcp(false, 16 * usize::from(MSS)).flags(ACK).on_the_wire().len() - 15 * usize::from(MSS);
    for _ in 0..16 {
        assert_eq!(receiver.receive_frame().len(), whole);
    }
    switch.await_drops("p1", "no_rx_buffers", 1)
}

#[test]
fn a_header_that_contradicts_its_frame_is_dropped() -> Result<()> {
    // CVE-2024-11614.
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    let mut receiver = Guest::connect(switch.socket());
    let (good, frame) = Packet::tcp(false, 3000).unsegmented(MSS);
    let wrong = [
        NetHdr { gso_size: 0, ..good },
        NetHdr { flags: 0, ..good },
        NetHdr { gso_type: GSO_TCPV6, ..good },
        NetHdr { gso_type: GSO_ECN, ..good },
        NetHdr { gso_type: 3, ..good },
        NetHdr { gso_type: 5, ..good },
        NetHdr { gso_type: 0x7f, ..good },
        NetHdr { csum_start: 0, ..good },
        NetHdr { csum_start: u16::MAX, ..good },
        NetHdr { csum_start: good.csum_start + 1, ..good },
        NetHdr { csum_offset: u16::MAX, ..good },
        NetHdr { csum_offset: 6, ..good },
        NetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, gso_type: GSO_NONE, ..good },
        NetHdr { csum_start: frame.len() as u16 - 1, csum_offset: 0, gso_type: GSO_NONE, ..good },
    ];
    for hdr in wrong {
        let received = exchange(&mut sender, &mut receiver, &(hdr, frame.clone()));
        assert_eq!(received, [], "{hdr:?}");
    }
    switch.await_drops("p0", "bad_offload", wrong.len() as u64)?;
    // The header's length is a hint, and the sender's num_buffers is ignored.
    for hdr in [NetHdr { hdr_len: 0, ..good }, NetHdr { hdr_len: u16::MAX, num_buffers: 9, ..good }] {
        let received = exchange(&mut sender, &mut receiver, &(hdr, frame.clone()));
        Packet::tcp(false, 3000).assert_arrived(MSS, &received);
    }
    Ok(())
}

#[test]
fn a_datagram_whose_header_contradicts_it_is_dropped() -> Result<()> {
    let switch = Switch::start()?;
    let mut sender = Guest::config().features(LINUX | USO).connect(switch.socket());
    let mut receiver = Guest::config().features(LINUX | USO).connect(switch.socket());
    let mut wrong = 0;
    for v6 in [false, true] {
        let packet = Packet::udp(v6, 3000);
        let (good, frame) = packet.unsegmented(MSS);
        for hdr in [
            NetHdr { gso_size: 0, ..good },
            NetHdr { gso_size: 1, ..good },
            NetHdr { flags: 0, ..good },
            NetHdr { flags: DATA_VALID, ..good },
            NetHdr { csum_offset: 16, ..good },
            NetHdr { csum_start: good.csum_start + 8, ..good },
            // Windows are TCP's; UFO and tunnels are not offered.
            NetHdr { gso_type: GSO_UDP_L4 | GSO_ECN, ..good },
            NetHdr { gso_type: GSO_UDP_L4 | 0x20, ..good },
            NetHdr { gso_type: GSO_UDP_L4 | 0x40, ..good },
            NetHdr { gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, ..good },
            NetHdr { gso_type: 3, ..good },
        ] {
            assert_eq!(exchange(&mut sender, &mut receiver, &(hdr, frame.clone())), [], "{hdr:?}");
            wrong += 1;
        }
        packet.assert_arrived(MSS, &exchange(&mut sender, &mut receiver, &(good, frame)));
    }
    switch.await_drops("p0", "bad_offload", wrong)
}

#[test]
fn a_guest_cannot_vouch_for_a_checksum() -> Result<()> {
    // Virtio 1.3, 5.1.6.2: flags that a driver must not set are ignored, and a receiver has to check for itself.
    let switch = Switch::start()?;
    let mut sender = Guest::connect(switch.socket());
    let mut receiver = Guest::connect(switch.socket());
    let packet = Packet::udp(false, 100);
    for flags in [DATA_VALID, 4, 8, 0xfe] {
        let received =
            exchange(&mut sender, &mut receiver, &(NetHdr { flags, ..NetHdr::default() }, packet.on_the_wire()));
        let [received] = &received[..] else { panic!("{} frames of one", received.len()) };
        assert_eq!((received.hdr.flags, &received.frame), (0, &packet.on_the_wire()));
        let (hdr, frame) = packet.unfinished();
        let received =
            exchange(&mut sender, &mut receiver, &(NetHdr { flags: hdr.flags | flags, ..hdr }, frame.clone()));
        let [received] = &received[..] else { panic!("{} frames of one", received.len()) };
        assert_eq!((received.hdr.flags, &received.frame), (NEEDS_CSUM, &frame));
    }
    Ok(())
}

#[test]
fn what_was_not_negotiated_is_dropped() -> Result<()> {
    let switch = Switch::start()?;
    let mut receiver = Guest::connect(switch.socket());
    let all = HOST_OFFLOADS | HOST_USO | VERSION_1;
    let four = Packet::tcp(false, 3000);
    let cases = [
        (all & !CSUM, four.unfinished()),
        (all & !(CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN), four.unsegmented(MSS)),
        (all & !HOST_TSO4, four.unsegmented(MSS)),
        (all & !HOST_TSO6, Packet::tcp(true, 3000).unsegmented(MSS)),
        (all & !HOST_ECN, four.clone().flags(ACK | CWR).unsegmented(MSS)),
        (all & !HOST_USO, Packet::udp(false, 3000).unsegmented(MSS)),
        (all & !HOST_USO, Packet::udp(true, 3000).unsegmented(MSS)),
    ];
    for (features, sent) in cases {
        let mut sender = Guest::config().features(features).connect(switch.socket());
        assert_eq!(exchange(&mut sender, &mut receiver, &sent), [], "{features:#x}");
        let name = switch.status()?.ports.pop().map(|port| port.name).unwrap_or_default();
        switch.await_drops(&name, "bad_offload", 1)?;
        sender.vanish();
        switch.await_ports(1)?;
    }
    Ok(())
}

#[test]
fn any_header_does_no_harm() -> Result<()> {
    // CVE-2024-11614, swept: every field at its edges, before short frames and long ones.
    let switch = Switch::start()?;
    let mut sender = Guest::config().features(LINUX | USO).connect(switch.socket());
    let mut plain = Guest::config().features(VERSION_1 | MRG_RXBUF).connect(switch.socket());
    let edges = |len: usize| [0u16, 1, 13, 14, 34, 54, 255, 256, 257, len as u16 - 1, len as u16, 32768, 65535];
    let mut sent = 0u64;
    let [tcp, udp] = [Packet::tcp(true, 4000), Packet::udp(false, 4000)].map(|packet| packet.on_the_wire());
    for frame in [Packet::tcp(false, 0).on_the_wire(), tcp, udp, vec![2; 14]] {
        for gso_type in [GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_TCPV4 | GSO_ECN] {
            for csum_start in edges(frame.len()) {
                for csum_offset in [0, 6, 16, 65535] {
                    for gso_size in [0, 1, 100, 1448, 65535] {
                        let hdr = NetHdr {
                            flags: NEEDS_CSUM,
                            gso_type,
                            gso_size,
                            csum_start,
                            csum_offset,
                            ..NetHdr::default()
                        };
                        sender.send_with(&hdr, &frame, Shape::default());
                        sent += 1;
                        while plain.try_receive().is_some() {}
                    }
                }
            }
        }
    }
    sender.await_sent();
    while plain.try_receive().is_some() {}
    let status = switch.status()?;
    assert_eq!(status.worker.restarts, 0);
    let dropped: u64 = status.ports[0].drops.values().sum();
    assert_eq!(status.ports[0].from_guest.frames + dropped, sent, "each frame is forwarded or counted");
    let packet = Packet::tcp(false, 3000);
    let received = exchange(&mut sender, &mut plain, &packet.unsegmented(MSS));
    packet.assert_arrived(MSS, &received);
    Ok(())
}
