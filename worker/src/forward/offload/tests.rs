//! Headers that contradict the frame. `tests/tests/offload_matrix.rs` compares the delivered frames.

use super::*;

const ALL: u64 = VIRTIO_NET_F_CSUM.mask()
    | VIRTIO_NET_F_HOST_TSO4.mask()
    | VIRTIO_NET_F_HOST_TSO6.mask()
    | VIRTIO_NET_F_HOST_ECN.mask()
    | VIRTIO_NET_F_HOST_USO.mask();
const V4: u8 = VIRTIO_NET_HDR_GSO_TCPV4;
const V6: u8 = VIRTIO_NET_HDR_GSO_TCPV6;
const UDP: u8 = VIRTIO_NET_HDR_GSO_UDP_L4;
const ECN: u8 = VIRTIO_NET_HDR_GSO_ECN;

/// A frame of `payload` octets that count up, with the header that asks for segments of 1448. `options`: octets of IPv4
/// options or extension headers, none or eight.
fn frame(gso_type: u8, v6: bool, options: &[u8], payload: usize) -> (Vec<u8>, NetHdr) {
    let tcp = gso_type & !ECN != UDP;
    let protocol = if tcp { IPPROTO_TCP } else { IPPROTO_UDP };
    let l4_len = payload + if tcp { 20 } else { 8 };
    let mut f = vec![2; 12];
    if v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend(((l4_len + options.len()) as u16).to_be_bytes());
        f.extend([options.first().map_or(protocol, |_| 43), 64]);
        f.extend([0xfd; 32]);
        f.extend(options.first().map(|_| protocol));
        f.extend(options.iter().skip(1));
    } else {
        f.extend([0x08, 0x00, 0x45 + options.len() as u8 / 4, 0]);
        f.extend(((20 + options.len() + l4_len) as u16).to_be_bytes());
        f.extend([0xff, 0xff, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend(options);
    }
    let l4 = f.len();
    if tcp {
        f.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 0x50, 0x99, 1, 0, 0x12, 0x34, 0, 0]);
    } else {
        f.extend([0, 1, 0, 2]);
        f.extend((l4_len as u16).to_be_bytes());
        f.extend([0x12, 0x34]);
    }
    f.extend((0..payload).map(|n| n as u8));
    let csum_offset = if tcp { TCP_CSUM } else { UDP_CSUM };
    let flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    (f, NetHdr { flags, gso_type, gso_size: 1448, csum_start: l4 as u16, csum_offset, ..NetHdr::default() })
}

fn checked(hdr: NetHdr, frame: &[u8], features: u64) -> Option<Offload> {
    check(&hdr, &frame[..frame.len().min(HEAD)], frame.len(), features).ok()
}

#[test]
fn a_receiver_needs_what_the_frame_is() {
    let (tso4, tso6) = (VIRTIO_NET_F_GUEST_TSO4.mask(), VIRTIO_NET_F_GUEST_TSO6.mask());
    let (uso4, uso6) = (VIRTIO_NET_F_GUEST_USO4.mask(), VIRTIO_NET_F_GUEST_USO6.mask());
    let ecn = VIRTIO_NET_F_GUEST_ECN.mask();
    for (gso_type, v6, needs) in [
        (V4, false, tso4),
        (V6, true, tso6),
        (V4 | ECN, false, tso4 | ecn),
        (V6 | ECN, true, tso6 | ecn),
        (UDP, false, uso4),
        (UDP, true, uso6),
    ] {
        let (frame, hdr) = frame(gso_type, v6, &[], 3000);
        let offload = checked(hdr, &frame, ALL).unwrap();
        assert!(offload.segmented());
        assert_eq!(offload.needs, needs | VIRTIO_NET_F_GUEST_CSUM.mask());
        assert!(offload.fits(offload.needs) && offload.fits(u64::MAX) && !offload.fits(needs) && !offload.fits(0));
        assert_eq!(offload.hdr, NetHdr { hdr_len: offload.hdr.hdr_len, ..hdr });
    }
    let partial = checked(NetHdr { gso_type: 0, ..frame(V4, false, &[], 0).1 }, &[2; 60], ALL).unwrap();
    assert_eq!(partial.needs, VIRTIO_NET_F_GUEST_CSUM.mask());
    assert!(Offload::default().fits(0));
}

#[test]
fn a_guest_cannot_vouch_for_a_checksum() {
    let (frame, hdr) = frame(V4, false, &[], 100);
    for flags in (0..=u8::MAX).filter(|flags| flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0) {
        let said = checked(NetHdr { flags, gso_type: 0, ..hdr }, &frame, ALL).unwrap();
        assert_eq!(said, Offload::default(), "nothing is passed on");
        let both = NetHdr { flags: flags | VIRTIO_NET_HDR_F_NEEDS_CSUM, ..hdr };
        assert_eq!(checked(both, &frame, ALL).unwrap().hdr.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    }
}

#[test]
fn headers_that_lie_are_refused() {
    // CVE-2024-11614.
    for (gso_type, v6) in [(V4 | ECN, false), (V6, true), (UDP, false), (UDP, true)] {
        let (frame, good) = frame(gso_type, v6, &[], 3000);
        assert!(checked(good, &frame, ALL).is_some());
        assert!(checked(good, &frame, 0).is_none());
        let csum = good.csum_start;
        for bad in [
            NetHdr { flags: 0, ..good },
            NetHdr { gso_size: 0, ..good },
            NetHdr { gso_size: 1, ..good },
            NetHdr { csum_start: csum + 1, ..good },
            NetHdr { csum_start: csum - 1, ..good },
            NetHdr { csum_start: 0, ..good },
            NetHdr { csum_start: u16::MAX, ..good },
            NetHdr { csum_offset: good.csum_offset ^ (TCP_CSUM ^ UDP_CSUM), ..good },
            NetHdr { csum_offset: u16::MAX, csum_start: u16::MAX, gso_type: 0, ..good },
            NetHdr { csum_start: frame.len() as u16 - 1, csum_offset: 0, gso_type: 0, ..good },
        ] {
            assert!(checked(bad, &frame, ALL).is_none(), "{bad:?}");
        }
        // Other and unknown types: UFO (3), tunnels (0x20, 0x40, 0x60).
        for other in (1..=u8::MAX).filter(|other| *other != gso_type && *other != gso_type ^ ECN) {
            assert!(checked(NetHdr { gso_type: other, ..good }, &frame, ALL).is_none(), "{other:#x}");
        }
        let udp = gso_type == UDP;
        assert_eq!(checked(NetHdr { gso_type: gso_type ^ ECN, ..good }, &frame, ALL).is_some(), !udp);
    }
}

#[test]
fn what_was_not_negotiated_is_refused() {
    for (gso_type, v6, feature) in [
        (V4, false, VIRTIO_NET_F_CSUM),
        (V4, false, VIRTIO_NET_F_HOST_TSO4),
        (V6, true, VIRTIO_NET_F_HOST_TSO6),
        (V4 | ECN, false, VIRTIO_NET_F_HOST_ECN),
        (V4 | ECN, false, VIRTIO_NET_F_HOST_TSO4),
        (UDP, false, VIRTIO_NET_F_HOST_USO),
        (UDP, true, VIRTIO_NET_F_HOST_USO),
        (UDP, true, VIRTIO_NET_F_CSUM),
    ] {
        let (frame, hdr) = frame(gso_type, v6, &[], 3000);
        assert!(checked(hdr, &frame, ALL & !feature.mask()).is_none(), "{gso_type:#x} {feature:?}");
    }
}

#[test]
fn headers_of_ip_lead_to_the_transport() {
    let options = [0, 0, 0, 0, 1, 1, 1, 1];
    for (gso_type, v6) in [(V4, false), (V6, true), (UDP, false), (UDP, true)] {
        let (good, hdr) = frame(gso_type, v6, &options, 3000);
        assert!(checked(hdr, &good, ALL).is_some());
        let wrong = |at: usize, octet: u8| {
            let mut frame = good.clone();
            frame[at] = octet;
            assert!(checked(hdr, &frame, ALL).is_none(), "{gso_type} {v6} octet {at}");
        };
        wrong(12, 0x09);
        wrong(14, 0x55);
        if v6 {
            // Fragments, authentication, and unknown headers.
            [44, 51, 17 ^ 6, 255].into_iter().for_each(|next| wrong(20, next));
            wrong(54, 58);
            wrong(55, 1);
        } else {
            wrong(14, 0x45);
            wrong(20, 0x20);
            wrong(21, 1);
            wrong(23, 1);
        }
    }
}

#[test]
fn headers_that_reach_too_far_are_refused() {
    for words in [0u8, 0x10, 0x40, 0xf0] {
        let (mut frame, hdr) = frame(V4, false, &[], 10);
        frame[usize::from(hdr.csum_start) + 12] = words;
        assert!(checked(hdr, &frame, ALL).is_none());
    }
    for (gso_type, v6) in [(V4, false), (V6, true), (UDP, false), (UDP, true)] {
        let (frame, hdr) = frame(gso_type, v6, &[], 0);
        for len in ETHERNET_LEN..frame.len() {
            assert!(checked(hdr, &frame[..len], ALL).is_none());
        }
        assert!(checked(hdr, &frame, ALL).is_some());
    }
}

#[test]
fn one_frame_costs_no_more_than_its_octets() {
    let (frame, hdr) = frame(UDP, false, &[], 60_000);
    assert!(checked(NetHdr { gso_size: 29, ..hdr }, &frame, ALL).is_none());
    assert!(checked(NetHdr { gso_size: 30, ..hdr }, &frame, ALL).is_some());
}

#[test]
fn a_head_that_changed_since_it_was_checked_does_no_harm() {
    for (gso_type, v6) in [(V4, false), (V6, true), (UDP, false), (UDP, true)] {
        let (frame, hdr) = frame(gso_type, v6, &[], 3000);
        let offload = checked(hdr, &frame, ALL).unwrap();
        let mut segments = Segments::new(offload, frame.len(), 0, |head| head.fill(0xff));
        let (mut room, mut octets) = (vec![0; 2000], 0);
        while let Some((_, segment)) = segments.next(&mut room, |payload| payload.fill(0)) {
            octets += segment.len() - usize::from(offload.hdr.hdr_len);
        }
        assert_eq!(octets, 3000);
    }
}
