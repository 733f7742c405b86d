//! Target `offload`: a sender's header checked against its frame, checksums and segments against plain arithmetic.

use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::fuzz::Input;
use sv3::virtio::*;

use crate::offload::{HEAD, Offload, Segments, check, finish_checksum};

const FEATURES: [u64; 4] = [
    VIRTIO_NET_F_CSUM.mask(),
    VIRTIO_NET_F_HOST_TSO4.mask(),
    VIRTIO_NET_F_HOST_TSO6.mask(),
    VIRTIO_NET_F_HOST_ECN.mask(),
];

/// Octets: features that are missing (1), net header (12), length of a tail (2), the frame's begin. The tail counts up.
pub fn offload(octets: &[u8]) {
    let mut input = Input::new(octets);
    let missing = input.u8();
    let known = (0..).zip(FEATURES).filter(|(bit, _)| missing >> bit & 1 == 0);
    let features = known.map(|(_, mask)| mask).sum();
    let hdr = NetHdr::from_bytes(input.array());
    let tail = input.u16();
    let mut frame = input.take(2 * HEAD).to_vec();
    frame.extend((0..tail).map(|n| n as u8));
    frame.truncate(MAX_FRAME);
    if frame.len() < ETHERNET_LEN {
        return;
    }
    let head = &frame[..frame.len().min(HEAD)];
    let Ok(offload) = check(&hdr, head, frame.len(), features) else {
        assert!(hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 || hdr.gso_type != 0, "an ordinary frame was refused");
        return;
    };
    passed_on(&hdr, &offload, features);
    if offload.segmented() {
        segments(&frame, offload);
    } else if offload.hdr.flags != 0 {
        checksum(&frame, &offload);
    }
}

/// What a receiver is told: nothing that was not checked.
fn passed_on(hdr: &NetHdr, offload: &Offload, features: u64) {
    let NetHdr { flags, gso_type, hdr_len: _, gso_size, csum_start, csum_offset, num_buffers } = offload.hdr;
    assert_eq!(num_buffers, 0);
    assert_eq!(flags, hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_eq!(gso_type, hdr.gso_type);
    if flags == 0 {
        assert_eq!(offload.hdr, NetHdr::default());
    } else {
        assert!(VIRTIO_NET_F_CSUM.of(features));
        assert_eq!((csum_start, csum_offset), (hdr.csum_start, hdr.csum_offset));
    }
    if gso_type == 0 {
        assert_eq!(gso_size, 0);
    } else {
        assert!(gso_size == hdr.gso_size && !offload.fits(0));
    }
    assert!(offload.fits(u64::MAX));
}

fn checksum(frame: &[u8], offload: &Offload) {
    let start = usize::from(offload.hdr.csum_start);
    let field = start + usize::from(offload.hdr.csum_offset);
    let mut done = frame.to_vec();
    finish_checksum(&mut done, offload);
    let expected = match !plain_sum(&[&frame[start..]]) {
        0 => 0xffff,
        value => value,
    };
    assert_eq!(done[field..field + 2], expected.to_be_bytes());
    done[field..field + 2].copy_from_slice(&frame[field..field + 2]);
    assert_eq!(done, frame, "more than the checksum changed");
}

fn segments(frame: &[u8], offload: Offload) {
    let hdr = offload.hdr;
    let v4 = hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_TCPV4;
    let (l4, head_len) = (usize::from(hdr.csum_start), usize::from(hdr.hdr_len));
    let l3 = l3_of(frame);
    let payload = &frame[head_len..];
    let (mut sent, mut count) = (0, 0u16);
    let mut all = Segments::new(offload);
    while let Some(segment) = all.next(frame) {
        assert_eq!(segment.head_len, head_len);
        assert_eq!(segment.payload.start, head_len + sent);
        let piece = &frame[segment.payload.clone()];
        assert!(piece.len() <= usize::from(hdr.gso_size) && (!piece.is_empty() || payload.is_empty()));
        let head = &segment.head[..head_len];
        let ip_len = head_len - l3 + piece.len();
        let addresses = if v4 {
            assert_eq!(usize::from(be16(head, l3 + 2)), ip_len, "IPv4 total length");
            assert_eq!(plain_sum(&[&head[l3..l4]]), 0xffff, "IPv4 header checksum");
            assert_eq!(be16(head, l3 + 4), be16(frame, l3 + 4).wrapping_add(count));
            &head[l3 + 12..l3 + 20]
        } else {
            assert_eq!(usize::from(be16(head, l3 + 4)), ip_len - 40, "IPv6 payload length");
            &head[l3 + 8..l3 + 40]
        };
        let tcp_len = (head_len - l4 + piece.len()) as u32;
        let pseudo = [&tcp_len.to_be_bytes()[..], &[0, 6]].concat();
        // TCP's header is a multiple of four octets, so that a sum over the pieces is a sum over the whole.
        assert_eq!(plain_sum(&[addresses, &pseudo, &head[l4..], piece]), 0xffff, "TCP checksum");
        let sequence = |head: &[u8]| u32::from_be_bytes(head[l4 + 4..l4 + 8].try_into().unwrap());
        assert_eq!(sequence(head), sequence(frame).wrapping_add(sent as u32));
        sent += piece.len();
        let mut allowed = head[l4 + 13] ^ frame[l4 + 13];
        if count > 0 {
            allowed &= !0x80; // CWR
        }
        if sent < payload.len() {
            allowed &= !0x09; // PSH, FIN
        }
        assert_eq!(allowed, 0, "TCP flags");
        count = count.wrapping_add(1);
    }
    assert_eq!(sent, payload.len(), "octets were lost");
}

/// Behind all VLAN tags.
fn l3_of(frame: &[u8]) -> usize {
    let tags = (0..).take_while(|tag| matches!(be16(frame, 12 + 4 * tag), 0x8100 | 0x88a8)).count();
    ETHERNET_LEN + 4 * tags
}

fn be16(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

/// The ones' complement sum of RFC 1071, word by word.
fn plain_sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
