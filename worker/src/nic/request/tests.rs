//! What the card is asked for, by net headers.

use sv3::virtio::{VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6};

use super::*;

fn tcp(tags: usize, v6: bool, payload: usize) -> (Vec<u8>, NetHdr) {
    let mut frame = vec![2; 12];
    (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 5]));
    let l3 = frame.len() + 2;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x12, 0x34, 6, 64]);
        frame.extend([7; 32]);
    } else {
        frame.extend([0x08, 0, 0x45, 0, 0x12, 0x34, 0, 1, 0x40, 0, 64, 6, 0xab, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let l4 = frame.len();
    frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend([1; 12]);
    let end = frame.len();
    frame.extend((0..payload).map(|at| at as u8));
    let sum = fold(1000 + (frame.len() - l4) as u64);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    let gso_type = if v6 { VIRTIO_NET_HDR_GSO_TCPV6 } else { VIRTIO_NET_HDR_GSO_TCPV4 };
    assert_eq!(l3, 14 + 4 * tags);
    let hdr = NetHdr {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gso_type,
        hdr_len: end as u16,
        gso_size: 100,
        csum_start: l4 as u16,
        csum_offset: 16,
        num_buffers: 0,
    };
    (frame, hdr)
}

#[test]
fn segmentation_is_asked_for_with_lengths_of_zero() {
    for (tags, v6) in [(0, false), (1, false), (2, true), (0, true)] {
        let (mut frame, hdr) = tcp(tags, v6, 1000);
        let before = frame.clone();
        let request = Request::prepare(&hdr, &GuestSlice::of_host(&mut frame));
        let (l3, l4) = (14 + 4 * tags, usize::from(hdr.csum_start));
        let context =
            Context { mac_len: l3 as u8, ip_len: (l4 - l3) as u16, ipv4: !v6, tcp: true, l4_len: 32, mss: 100 };
        let options = Options { checksum: true, segment: true, ip_checksum: !v6, context: false };
        assert_eq!(request, Request { len: frame.len() as u32, options, context, again: false });
        assert_eq!((request.payload(), request.longest()), (1000, u32::from(hdr.hdr_len) + 100));
        assert_eq!(frame[l4 + 16..l4 + 18], 1000u16.to_be_bytes(), "the pseudo header's sum without the length");
        let changed: Vec<_> = (0..frame.len()).filter(|at| frame[*at] != before[*at]).collect();
        let fields = if v6 { vec![l3 + 4, l3 + 5] } else { vec![l3 + 2, l3 + 3, l3 + 10, l3 + 11] };
        assert!(changed.iter().all(|at| fields.contains(at) || [l4 + 16, l4 + 17].contains(at)), "{changed:?}");
        assert!(fields.iter().all(|at| frame[*at] == 0));
        assert_eq!(Request::decode(request.encode()), request);
    }
}

#[test]
fn a_checksum_is_asked_for_and_the_frame_stays() {
    let (mut frame, hdr) = tcp(1, false, 333);
    let (before, hdr) = (frame.clone(), NetHdr { gso_type: 0, gso_size: 0, ..hdr });
    let request = Request::prepare(&hdr, &GuestSlice::of_host(&mut frame));
    assert_eq!(request.options, Options { checksum: true, ..Options::default() });
    assert_eq!((request.payload(), &frame), (frame.len() as u32, &before));
    assert_eq!(Request::decode(request.encode()), request);
}

#[test]
fn a_checksum_that_the_card_does_not_know_is_completed_here() {
    for (start, offset) in [(14, 16), (35, 16), (34, 4), (60, 40), (34, 6)] {
        for len in [100, 1023, 1024, 5000] {
            let (mut frame, hdr) = tcp(0, false, len);
            let mut wanted = frame.clone();
            let hdr = NetHdr { gso_type: 0, csum_start: start, csum_offset: offset, ..hdr };
            let field = checksum::field(sum(&wanted[usize::from(start)..], 0));
            wanted[usize::from(start + offset)..][..2].copy_from_slice(&field);
            let request = Request::prepare(&hdr, &GuestSlice::of_host(&mut frame));
            assert_eq!((request, frame), (Request::plain(wanted.len() as u32), wanted), "{start} {offset} {len}");
        }
    }
}

#[test]
fn any_words_are_a_request() {
    for numbers in [(0, 0), (u64::MAX, u32::MAX), (1 << 63, 1)] {
        let request = Request::decode(numbers);
        let _ = (request.payload(), request.longest(), request.context.encode());
    }
}
