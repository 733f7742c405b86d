//! Offloads of the card against those in software: what comes out of the wire is equal to the octet.

use sv3::virtio::*;

use super::fixture::*;
use crate::forward::offload::{Segments, check, finish_checksum};
use crate::memory::checksum::{field, fold, sum};

/// A frame of TCP or UDP with a partial checksum, and its header. `tags`: VLAN tags.
struct Datagram {
    tcp: bool,
    v6: bool,
    tags: usize,
    payload: usize,
    flags: u8,
}

impl Datagram {
    fn frame(&self, to: u16, from: u16) -> (Vec<u8>, NetHdr) {
        let Datagram { tcp, v6, tags, payload, flags } = *self;
        let mut frame = [mac(to), mac(from)].concat();
        (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 5]));
        let protocol = if tcp { 6 } else { 17 };
        let l4_len = if tcp { 32 } else { 8 };
        let total = l4_len + payload;
        let l3 = frame.len() + 2;
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((total as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend((0..32).map(|at| at * 3));
        } else {
            frame.extend([0x08, 0, 0x45, 0]);
            frame.extend((20 + total as u16).to_be_bytes());
            frame.extend([0xff, 0xfe, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = !sum(&frame[l3..], 0);
            frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        let l4 = frame.len();
        let addresses = if v6 { l3 + 8..l3 + 40 } else { l3 + 12..l3 + 20 };
        let pseudo = fold(u64::from(sum(&frame[addresses], 0)) + u64::from(protocol) + total as u64).to_be_bytes();
        if tcp {
            frame
                .extend([0, 80, 0, 81, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 2, 0x80, flags, 1, 0, pseudo[0], pseudo[1], 0, 0]);
            frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        } else {
            frame.extend([0, 80, 0, 81, (total >> 8) as u8, total as u8, pseudo[0], pseudo[1]]);
        }
        let end = frame.len();
        frame.extend((0..payload).map(|at| (at * 7 / 8) as u8));
        let hdr = NetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            hdr_len: end as u16,
            csum_start: l4 as u16,
            csum_offset: if tcp { 16 } else { 6 },
            ..NetHdr::NONE
        };
        (frame, hdr)
    }
}

/// A TCP frame with a right checksum.
pub fn whole_tcp(to: u16, from: u16, payload: usize) -> Vec<u8> {
    let (mut frame, hdr) = Datagram { tcp: true, v6: false, tags: 0, payload, flags: 0x10 }.frame(to, from);
    complete(&mut frame, &hdr);
    frame
}

fn complete(frame: &mut [u8], hdr: &NetHdr) {
    let start = usize::from(hdr.csum_start);
    let at = start + usize::from(hdr.csum_offset);
    let checksum = field(sum(&frame[start..], 0));
    frame[at..at + 2].copy_from_slice(&checksum);
}

/// Frames with each kind of offload.
pub fn every_kind(to: u16, from: u16) -> Vec<(Vec<u8>, NetHdr)> {
    let mut all = Vec::new();
    for (tcp, v6, tags) in
        [(true, false, 0), (false, false, 0), (true, true, 1), (false, true, 2), (true, false, 2), (true, true, 0)]
    {
        for payload in [0, 99, 900, 1400, 8000] {
            let (frame, hdr) = Datagram { tcp, v6, tags, payload, flags: 0x18 }.frame(to, from);
            let mut whole = frame.clone();
            complete(&mut whole, &hdr);
            all.extend([(frame, hdr), (whole, NetHdr::NONE)]);
        }
        let gso_type = match (tcp, v6) {
            (true, false) => VIRTIO_NET_HDR_GSO_TCPV4,
            (true, true) => VIRTIO_NET_HDR_GSO_TCPV6,
            (false, _) => VIRTIO_NET_HDR_GSO_UDP_L4,
        };
        for (payload, gso_size) in [(5000, 1448), (60_000, 1448), (64_000, 8900), (2000, 100)] {
            let payload = if tags == 2 { payload.min(60_000) } else { payload };
            let (frame, hdr) = Datagram { tcp, v6, tags, payload, flags: 0x19 }.frame(to, from);
            all.push((frame, NetHdr { gso_type, gso_size, ..hdr }));
        }
    }
    all
}

/// What the wire gets from software alone.
fn reference(hdr: &NetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    let offload = check(hdr, &frame[..frame.len().min(256)], frame.len(), GUEST_ALL).unwrap();
    let mut frames = Vec::new();
    if !offload.segmented() {
        let mut copy = frame.to_vec();
        if hdr.flags != 0 {
            finish_checksum(&mut copy, &offload);
        }
        frames.push(copy);
    } else {
        let (mut at, mut room) = (0, vec![0; 70_000]);
        let mut fill = |into: &mut [u8]| {
            into.copy_from_slice(&frame[at..at + into.len()]);
            at += into.len();
        };
        let mut segments = Segments::new(offload, frame.len(), 0, &mut fill);
        while let Some((_, segment)) = segments.next(&mut room, &mut fill) {
            frames.push(segment.to_vec());
        }
    }
    frames.iter_mut().for_each(|frame| frame.resize(frame.len().max(60), 0));
    frames
}

/// Checks one frame on its way out.
fn goes_out(fixture: &mut Fixture, hdr: NetHdr, frame: &[u8], what: &str) {
    fixture.guest_sends_with(hdr, frame);
    fixture.serve();
    let (sent, wanted) = (fixture.model.sent(), reference(&hdr, frame));
    assert_eq!(sent.len(), wanted.len(), "{what}");
    for (at, (sent, wanted)) in sent.iter().zip(&wanted).enumerate() {
        let differs: Vec<_> = (0..sent.len().max(wanted.len())).filter(|at| sent.get(*at) != wanted.get(*at)).collect();
        assert!(differs.is_empty(), "{what}, segment {at}: differs at {differs:?}");
    }
}

#[test]
fn the_card_does_to_frames_what_software_does() {
    both().into_iter().for_each(as_software);
}

fn as_software(settings: sv3::card::CardSettings) {
    let mut fixture = Fixture::new(sv3::card::CardSettings { descriptors: 4096, ..settings }, GUEST_ALL);
    for (tcp, v6, tags) in [(true, false), (false, false), (true, true), (false, true)]
        .into_iter()
        .flat_map(|(tcp, v6)| [(tcp, v6, 0), (tcp, v6, 1), (tcp, v6, 2)])
    {
        for payload in [0, 1, 5, 99, 1400, 8000] {
            let (frame, hdr) = Datagram { tcp, v6, tags, payload, flags: 0x18 }.frame(OUTSIDE, GUEST);
            let what = format!("tcp {tcp} v6 {v6} tags {tags} payload {payload}");
            goes_out(&mut fixture, hdr, &frame, &what);
            let mut whole = frame.clone();
            complete(&mut whole, &hdr);
            goes_out(&mut fixture, NetHdr::NONE, &whole, &what);
        }
        for (payload, gso_size) in
            [(1, 100), (100, 100), (101, 100), (5000, 1448), (60_000, 1448), (64_000, 8900), (2000, 1)]
        {
            let payload = if tags == 2 && payload > 60_000 { 60_000 } else { payload };
            // PSH, FIN and CWR, of which segments have only some.
            for (flags, ecn) in [(0x10, false), (0x19, false), (0x90, true)] {
                let (frame, hdr) = Datagram { tcp, v6, tags, payload, flags }.frame(OUTSIDE, GUEST);
                let gso_type = match (tcp, v6) {
                    (true, false) => VIRTIO_NET_HDR_GSO_TCPV4,
                    (true, true) => VIRTIO_NET_HDR_GSO_TCPV6,
                    (false, _) => VIRTIO_NET_HDR_GSO_UDP_L4,
                };
                let gso_type = gso_type | if ecn && tcp { VIRTIO_NET_HDR_GSO_ECN } else { 0 };
                let what = format!("tcp {tcp} v6 {v6} tags {tags} payload {payload} by {gso_size}, flags {flags:#x}");
                goes_out(&mut fixture, NetHdr { gso_type, gso_size, ..hdr }, &frame, &what);
            }
        }
    }
    fixture.model.assert_content();
}

#[test]
fn checksums_that_no_card_knows_are_done_here() {
    let mut fixture = Fixture::new(settings(), GUEST_ALL);
    let (frame, hdr) = Datagram { tcp: true, v6: false, tags: 0, payload: 500, flags: 0x10 }.frame(OUTSIDE, GUEST);
    for (csum_start, csum_offset) in [(14, 16), (34, 0), (34, 6), (40, 100), (33, 16), (500, 2)] {
        let hdr = NetHdr { csum_start, csum_offset, ..hdr };
        goes_out(&mut fixture, hdr, &frame, &format!("{csum_start} {csum_offset}"));
    }
    fixture.model.assert_content();
}

#[test]
fn segments_that_the_wire_does_not_take_are_dropped() {
    let mut fixture = Fixture::new(sv3::card::CardSettings { mtu: 1500, ..settings() }, GUEST_ALL);
    let (frame, hdr) = Datagram { tcp: true, v6: false, tags: 0, payload: 9000, flags: 0x10 }.frame(OUTSIDE, GUEST);
    for (gso_size, sent) in [(1448, 7), (4000, 0), (1400, 7)] {
        fixture.guest_sends_with(NetHdr { gso_type: VIRTIO_NET_HDR_GSO_TCPV4, gso_size, ..hdr }, &frame);
        fixture.serve();
        assert_eq!(fixture.model.sent().len(), sent, "{gso_size}");
    }
    assert_eq!(fixture.drops(CARD, sv3::drop_reason::DropReason::RxTooSmall), 1);
}

/// The original frames of a flow, joined by the card, then cut again by software, are the original frames.
#[test]
fn joined_frames_are_what_was_sent() {
    for (features, joins) in [(GUEST_ALL, true), (VIRTIO_NET_F_GUEST_CSUM.mask(), false), (0, false)] {
        let mut fixture = Fixture::new(sv3::card::CardSettings { lro: true, mtu: 1500, ..settings() }, features);
        let (frame, hdr) = Datagram { tcp: true, v6: false, tags: 0, payload: 5000, flags: 0x10 }.frame(GUEST, OUTSIDE);
        let hdr = NetHdr { gso_type: VIRTIO_NET_HDR_GSO_TCPV4, gso_size: 1448, ..hdr };
        let originals = reference(&hdr, &frame);
        fixture.model.pass_time(1000);
        assert!(originals.iter().all(|frame| fixture.model.receive(frame)));
        fixture.model.pass_time(1000);
        fixture.serve();
        let got = fixture.guest_got();
        let mut frames = Vec::new();
        for (hdr, frame) in &got {
            frames.extend(reference(&NetHdr { num_buffers: 0, flags: hdr.flags & 1, ..*hdr }, frame));
        }
        // The identification of IPv4 and PSH belong to each frame alone.
        assert_eq!(frames.len(), originals.len());
        assert_eq!(got.len() == 1, joins, "{} frames", got.len());
        for (at, (got, wanted)) in frames.iter().zip(&originals).enumerate() {
            let differs: Vec<_> =
                (0..got.len().max(wanted.len())).filter(|at| got.get(*at) != wanted.get(*at)).collect();
            assert!(differs.is_empty(), "segment {at}: differs at {differs:?}");
        }
        fixture.model.assert_content();
    }
}
