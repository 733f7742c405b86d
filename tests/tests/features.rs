//! Every layout of rings, headers and buffers, and frames of every size: each frame arrives octet for octet as sent.

use sv3_tests::failure::Result;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::{Config, Guest, NetHdr, Shape};
use sv3_tests::switch::Switch;

/// The least Ethernet frame, the largest that fits in one buffer and one more octet, jumbo frames, the largest frame.
const SIZES: [usize; 14] = [14, 15, 60, 64, 65, 1514, 1518, 2035, 2036, 2037, 4084, 9018, 65535, 65550];

/// A frame's octets: net header of 12, Ethernet header of 14.
const CUTS: [&[u32]; 8] =
    [&[], &[12], &[10], &[12, 14], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[12, 6, 6, 2], &[26, 0, 1], &[5, 0, 0, 9, 3]];

/// Sends frames of all sizes from one to the other and compares.
#[track_caller]
fn assert_frames_pass(from: &mut Guest, to: &mut Guest, seed: u32) {
    let indirect = from.features() & INDIRECT_DESC != 0;
    for (size, seed) in SIZES.into_iter().zip(seed..) {
        let sent = noise(mac(2), mac(1), size, seed);
        let pieces = CUTS[seed as usize % CUTS.len()];
        from.send_with(&NetHdr::default(), &sent, Shape { pieces, indirect: indirect && seed % 2 == 0 });
        let received = to.receive_frame();
        assert!(received == sent, "{size} octets in pieces {pieces:?} arrive as {} other ones", received.len());
    }
    from.await_sent();
}

/// Frames pass between a guest of this kind and one like Linux, and between two of this kind.
fn assert_kind_works(config: Config, seed: u32) -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    let mut special = config.clone().guarded().connect(switch.socket());
    assert_frames_pass(&mut plain, &mut special, seed);
    assert_frames_pass(&mut special, &mut plain, seed);
    drop(plain);
    switch.await_ports(1)?;
    let mut twin = config.guarded().connect(switch.socket());
    assert_frames_pass(&mut special, &mut twin, seed);
    for port in switch.status()?.ports {
        assert!(port.drops.is_empty(), "{}: {:?}", port.name, port.drops);
    }
    Ok(())
}

#[test]
fn every_subset_of_ring_features() -> Result<()> {
    // CVE-2023-6693: a header of ten octets or twelve.
    let bits = [VERSION_1, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, IN_ORDER, RING_PACKED];
    for subset in 0..1u32 << bits.len() {
        let chosen = bits.iter().enumerate().filter(|(at, _)| subset & (1 << at) != 0);
        let features = chosen.fold(0, |all, (_, bit)| all | bit);
        assert_kind_works(Guest::config().features(features), subset)?;
    }
    Ok(())
}

#[test]
fn a_driver_from_before_protocol_features() -> Result<()> {
    for features in [0, MRG_RXBUF, VERSION_1 | MRG_RXBUF | EVENT_IDX] {
        let config = Guest::config().features(features).without_protocol_features();
        let switch = Switch::start()?;
        let mut plain = Guest::connect(switch.socket());
        let mut old = config.connect(switch.socket());
        // No request is acknowledged; the switch shows when it is ready.
        switch.await_status("both links up", |status| {
            status.ports.len() == 2 && status.ports.iter().all(|port| port.link == sv3::status::Link::Up)
        })?;
        // The supervisor says that it is up; the first frame shows that the worker has it too.
        let hello = noise(mac(1), mac(7), 100, 1);
        old.send(&hello);
        assert_eq!(plain.receive_frame(), hello);
        assert_frames_pass(&mut plain, &mut old, 0);
        assert_frames_pass(&mut old, &mut plain, 0);
    }
    Ok(())
}

#[test]
fn the_header_in_one_to_twelve_pieces() -> Result<()> {
    // CVE-2022-2132.
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    for features in [LINUX, LINUX & !(VERSION_1 | MRG_RXBUF)] {
        let mut cutter = Guest::config().features(features).connect(switch.socket());
        let header = cutter.header_len() as u32;
        for pieces in 1..=header {
            let mut shape = vec![1; pieces as usize - 1];
            shape.push(header - (pieces - 1));
            for indirect in [false, true] {
                let sent = noise(mac(2), mac(1), 200, pieces);
                cutter.send_with(&NetHdr::default(), &sent, Shape { pieces: &shape, indirect });
                assert_eq!(plain.receive_frame(), sent, "header in {pieces} pieces");
            }
        }
    }
    Ok(())
}

#[test]
fn receive_buffers_in_pieces() -> Result<()> {
    let cuts: [&[u32]; 5] = [&[12], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[10, 2, 14], &[700, 0, 700], &[0, 12, 1]];
    for (pieces, seed) in cuts.into_iter().zip(0..) {
        for features in [VERSION_1 | MRG_RXBUF, VERSION_1, 0] {
            let config =
                Guest::config().features(features | INDIRECT_DESC | EVENT_IDX).ring_size(1024).rx_pieces(pieces);
            assert_kind_works(config.clone(), seed)?;
            assert_kind_works(config.rx_indirect(), seed)?;
        }
    }
    Ok(())
}

#[test]
fn receive_buffers_of_many_sizes_are_merged() -> Result<()> {
    // No frame takes more than the 1,024 buffers that every back-end has for one.
    for octets in [13, 27, 65, 1526, 4096, 65562] {
        let ring_size = 2048;
        let switch = Switch::start()?;
        let mut plain = Guest::connect(switch.socket());
        let config = Guest::config().ring_size(ring_size).rx_buffer(octets);
        let mut merger = config.guarded().connect(switch.socket());
        let sizes: &[usize] = if octets < 64 { &[14, 60, 1514, 9018] } else { &SIZES };
        for size in sizes {
            let sent = noise(mac(2), mac(1), *size, octets);
            plain.send(&sent);
            let received = merger.receive();
            assert!(received.frame == sent, "{size} octets in buffers of {octets}");
            assert_eq!(received.buffers, (size + 12).div_ceil(octets as usize), "{size} octets in buffers of {octets}");
        }
    }
    Ok(())
}

#[test]
fn a_frame_that_does_not_fit_a_buffer_is_dropped_whole() -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    let mut small = Guest::config().features(VERSION_1).rx_buffer(1526).guarded().connect(switch.socket());
    let (fits, does_not) = (noise(mac(2), mac(1), 1514, 1), noise(mac(2), mac(1), 1515, 2));
    for frame in [&does_not, &fits, &does_not, &does_not, &fits] {
        plain.send(frame);
    }
    assert_eq!(small.receive_frame(), fits);
    assert_eq!(small.receive_frame(), fits);
    switch.await_drops("p1", "rx_too_small", 3)
}

#[test]
fn a_frame_that_finds_too_few_buffers_is_dropped_whole() -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    // Room for two frames of three buffers each and a small one or two.
    let mut small = Guest::config().ring_size(8).rx_buffer(2048).guarded().connect(switch.socket());
    let large: Vec<_> = (0..4).map(|seed| noise(mac(2), mac(1), 5000, seed)).collect();
    let last = noise(mac(2), mac(1), 2036, 9);
    for frame in large.iter().chain([&last, &last, &last]) {
        plain.send(frame);
    }
    plain.await_sent();
    for expected in [&large[0], &large[1], &last, &last] {
        assert_eq!(small.receive_frame(), *expected);
    }
    switch.await_drops("p1", "no_rx_buffers", 3)
}

#[test]
fn many_fragments_in_one_frame() -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    let mut cutter = Guest::connect(switch.socket());
    let pieces = [1000; 63];
    for (count, indirect) in [(32, false), (33, false), (63, false), (33, true), (63, true)] {
        let sent = noise(mac(2), mac(1), 63_500, count);
        cutter.send_with(&NetHdr::default(), &sent, Shape { pieces: &pieces[..count as usize], indirect });
        assert_eq!(plain.receive_frame(), sent, "{count} pieces");
    }
    Ok(())
}

#[test]
fn memory_in_pieces_and_rings_where_a_region_ends() -> Result<()> {
    // CVE-2018-1059: buffers lie across regions that are adjacent for the guest alone.
    assert_kind_works(Guest::config().regions(2), 1)?;
    assert_kind_works(Guest::config().regions(8), 2)?;
    assert_kind_works(Guest::config().regions(8).protocol_features(PROTOCOL_REPLY_ACK | PROTOCOL_MQ), 3)?;
    assert_kind_works(Guest::config().regions(40).ring_size(64), 4)?;
    assert_kind_works(Guest::config().rings_at_region_end(), 5)?;
    assert_kind_works(Guest::config().features(LINUX & !EVENT_IDX).rings_at_region_end().ring_size(128), 6)
}

#[test]
fn rings_of_every_size() -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    for log in 1..=15 {
        let config = Guest::config().features(LINUX & !INDIRECT_DESC).ring_size(1 << log).rx_buffer(2048);
        let mut other = config.connect(switch.socket());
        // More frames than the ring has entries; in small rings the indices wrap.
        for n in 0..100 {
            let (there, back) = (noise(mac(2), mac(1), 500, n), noise(mac(1), mac(2), 500, n));
            plain.send(&there);
            assert_eq!(other.receive_frame(), there);
            other.send(&back);
            assert_eq!(plain.receive_frame(), back);
        }
        // The next guest has its address.
        other.vanish();
        switch.await_ports(1)?;
    }
    Ok(())
}

#[test]
fn packed_rings_of_any_size() -> Result<()> {
    let switch = Switch::start()?;
    let mut plain = Guest::connect(switch.socket());
    for size in [1, 2, 3, 5, 8, 100, 255, 256, 1000, 4097, 32767, 32768] {
        // A frame is one descriptor, or three that are adjacent in the ring or stand in a table.
        for pieces in [&[][..], &[12, 20]] {
            let fits = size > pieces.len() as u16;
            let config = Guest::config().features(LINUX | RING_PACKED).ring_size(size).rx_buffer(2048);
            let config = if fits { config.rx_pieces(pieces) } else { config.rx_indirect().rx_pieces(pieces) };
            let mut other = config.connect(switch.socket());
            for n in 0..40 {
                let (there, back) = (noise(mac(2), mac(1), 500, n), noise(mac(1), mac(2), 500, n));
                plain.send(&there);
                assert_eq!(other.receive_frame(), there, "{size} {pieces:?}");
                let shape = Shape { pieces, indirect: !fits || n % 2 == 0 };
                other.send_with(&NetHdr::default(), &back, shape);
                assert_eq!(plain.receive_frame(), back);
            }
            other.vanish();
            switch.await_ports(1)?;
        }
    }
    Ok(())
}

#[test]
fn frames_of_many_buffers_in_packed_rings() -> Result<()> {
    assert_kind_works(Guest::config().features(LINUX | RING_PACKED), 1)?;
    assert_kind_works(Guest::config().features(LINUX & !MRG_RXBUF | RING_PACKED), 2)?;
    assert_kind_works(Guest::config().features(LINUX & !INDIRECT_DESC | RING_PACKED).rx_buffer(256).ring_size(500), 3)?;
    assert_kind_works(Guest::config().features(LINUX | RING_PACKED).regions(8), 4)
}

#[test]
fn indices_wrap() -> Result<()> {
    for features in [0, EVENT_IDX, IN_ORDER, EVENT_IDX | RING_PACKED, RING_PACKED, IN_ORDER | RING_PACKED] {
        let features = LINUX & !EVENT_IDX | features;
        let switch = Switch::start()?;
        let mut a = Guest::config().features(features).connect(switch.socket());
        let mut b = Guest::config().features(features).connect(switch.socket());
        // As many at a time as there are buffers.
        for burst in 0..350 {
            let frames: Vec<_> = (0..200).map(|n| noise(mac(2), mac(1), 60, burst * 200 + n)).collect();
            for frame in &frames {
                a.send(frame);
            }
            for frame in &frames {
                assert_eq!(b.receive_frame(), *frame);
            }
        }
        a.await_sent();
    }
    Ok(())
}
