//! Target `offload`: a sender's header checked against its frame; checksums and segments checked by plain arithmetic.

use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::fuzz::Input;
use sv3::virtio::*;

use crate::forward::offload::{HEAD, Offload, Segments, check, finish_checksum};

const FEATURES: [Feature; 5] =
    [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_USO];
/// What receivers may have, in addition to checksums.
const GUEST: [Feature; 5] = [
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
];

/// Octets: missing features (1), net header (12), length of the tail (2), the frame's beginning. The tail counts up.
pub fn offload(octets: &[u8]) {
    let mut input = Input::new(octets);
    let missing = input.u8();
    let known = (0..).zip(FEATURES).filter(|(bit, _)| missing >> bit & 1 == 0);
    let features = known.map(|(_, feature)| feature.mask()).sum();
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
    for receiver in subsets(&GUEST) {
        assert_eq!(offload.fits(receiver), offload.hdr.flags == 0);
        let all = needed(&offload.hdr, &frame);
        assert_eq!(offload.fits(receiver | VIRTIO_NET_F_GUEST_CSUM.mask()), receiver & all == all);
    }
    if offload.segmented() {
        let whole = segments(&frame, offload, 0);
        let partial = segments(&frame, offload, VIRTIO_NET_F_GUEST_CSUM.mask());
        assert!(whole == partial, "what is left to the receiver gives another frame");
    } else if offload.hdr.flags != 0 {
        checksum(&frame, &offload);
    }
}

fn subsets(features: &[Feature]) -> impl Iterator<Item = u64> {
    (0..1u32 << features.len()).map(move |subset| {
        let chosen = (0..).zip(features).filter(|(bit, _)| subset >> bit & 1 != 0);
        chosen.map(|(_, feature)| feature.mask()).sum()
    })
}

/// What a receiver with checksums must have in addition to get the frame unsegmented.
fn needed(hdr: &NetHdr, frame: &[u8]) -> u64 {
    let v6 = frame.get(l3_of(frame)).is_some_and(|octet| octet >> 4 == 6);
    let kind = match hdr.gso_type & 0x7f {
        0 => return 0,
        1 => VIRTIO_NET_F_GUEST_TSO4,
        4 => VIRTIO_NET_F_GUEST_TSO6,
        5 if v6 => VIRTIO_NET_F_GUEST_USO6,
        5 => VIRTIO_NET_F_GUEST_USO4,
        other => panic!("gso_type {other} was let pass"),
    };
    kind.mask() | if hdr.gso_type & 0x80 != 0 { VIRTIO_NET_F_GUEST_ECN.mask() } else { 0 }
}

/// Checks what a receiver is told: only what was checked.
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
    assert_eq!(gso_size, if gso_type == 0 { 0 } else { hdr.gso_size });
    let host = match gso_type & 0x7f {
        0 => 0,
        1 => VIRTIO_NET_F_HOST_TSO4.mask(),
        4 => VIRTIO_NET_F_HOST_TSO6.mask(),
        _ => VIRTIO_NET_F_HOST_USO.mask(),
    };
    let ecn = if gso_type & 0x80 != 0 { VIRTIO_NET_F_HOST_ECN.mask() } else { 0 };
    assert_eq!(features & (host | ecn), host | ecn, "what was not negotiated was let pass");
}

fn checksum(frame: &[u8], offload: &Offload) {
    let start = usize::from(offload.hdr.csum_start);
    let field = start + usize::from(offload.hdr.csum_offset);
    let mut done = frame.to_vec();
    finish_checksum(&mut done, offload);
    assert_eq!(done[field..field + 2], inverted(plain_sum(&[&frame[start..]])));
    done[field..field + 2].copy_from_slice(&frame[field..field + 2]);
    assert_eq!(done, frame, "more than the checksum changed");
}

/// Checks the segments for a receiver and returns them with all remaining work done.
fn segments(frame: &[u8], offload: Offload, receiver: u64) -> Vec<Vec<u8>> {
    let hdr = offload.hdr;
    let udp = hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4;
    let (l4, head_len) = (usize::from(hdr.csum_start), usize::from(hdr.hdr_len));
    let field = l4 + usize::from(hdr.csum_offset);
    let l3 = l3_of(frame);
    let v4 = frame[l3] >> 4 == 4;
    let payload = &frame[head_len..];
    let (mut rest, mut sent) = (frame, 0);
    let mut fill = |room: &mut [u8]| {
        let (now, later) = rest.split_at(room.len());
        room.copy_from_slice(now);
        rest = later;
    };
    let (mut room, mut done) = (vec![0xee; MAX_FRAME], Vec::new());
    let mut all = Segments::new(offload, frame.len(), receiver, &mut fill);
    while let Some((said, segment)) = all.next(&mut room, &mut fill) {
        let mut segment = segment.to_vec();
        let (head, piece) = segment.split_at(head_len);
        assert!(piece.len() <= usize::from(hdr.gso_size) && (!piece.is_empty() || payload.is_empty()));
        assert_eq!(piece, &payload[sent..sent + piece.len()], "payload");

        // The frame's own head, with all fields that may differ.
        let mut expected = frame[..head_len].to_vec();
        let mut put = |at: usize, octets: &[u8]| expected[at..at + octets.len()].copy_from_slice(octets);
        let ip_len = head_len - l3 + piece.len();
        if v4 {
            put(l3 + 2, &(ip_len as u16).to_be_bytes());
            put(l3 + 4, &be16(frame, l3 + 4).wrapping_add(done.len() as u16).to_be_bytes());
            put(l3 + 10, &head[l3 + 10..l3 + 12]);
            assert_eq!(plain_sum(&[&head[l3..l4]]), 0xffff, "IPv4 header checksum");
        } else {
            put(l3 + 4, &((ip_len - 40) as u16).to_be_bytes());
        }
        if udp {
            put(l4 + 4, &((8 + piece.len()) as u16).to_be_bytes());
        } else {
            let sequence = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
            put(l4 + 4, &sequence.wrapping_add(sent as u32).to_be_bytes());
            let not_first = if sent == 0 { 0xff } else { !0x80 }; // CWR
            let not_last = if sent + piece.len() == payload.len() { 0xff } else { !0x09 }; // PSH, FIN
            put(l4 + 13, &[frame[l4 + 13] & not_first & not_last]);
        }
        put(field, &head[field..field + 2]);
        assert_eq!(head, expected);
        sent += piece.len();

        // The sender left the pseudo header's sum with the length of the whole frame.
        let (whole, part) = ((frame.len() - l4) as u32, (segment.len() - l4) as u32);
        let seed = plain_sum(&[&frame[field..field + 2], &(!whole).to_be_bytes(), &part.to_be_bytes()]);
        if said.flags != 0 {
            let NetHdr { flags, csum_start, csum_offset, .. } = hdr;
            assert_eq!(said, NetHdr { flags, csum_start, csum_offset, ..NetHdr::default() });
            assert!(VIRTIO_NET_F_GUEST_CSUM.of(receiver));
            assert_eq!(be16(&segment, field), seed, "pseudo header");
            let sum = inverted(plain_sum(&[&segment[l4..]]));
            segment[field..field + 2].copy_from_slice(&sum);
        } else {
            assert_eq!(said, NetHdr::default());
            let mut summed = segment.clone();
            summed[field..field + 2].copy_from_slice(&seed.to_be_bytes());
            assert_eq!(segment[field..field + 2], inverted(plain_sum(&[&summed[l4..]])), "checksum");
        }
        done.push(segment);
    }
    assert_eq!(sent, payload.len(), "octets were lost");
    done
}

/// The position after all VLAN tags.
fn l3_of(frame: &[u8]) -> usize {
    let tags =
        (0..).take_while(|tag| frame.len() > 18 + 4 * tag && matches!(be16(frame, 12 + 4 * tag), 0x8100 | 0x88a8));
    ETHERNET_LEN + 4 * tags.count()
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

/// The value as it is written. Zero would mean "no checksum" for UDP.
fn inverted(sum: u16) -> [u8; 2] {
    match !sum {
        0 => [0xff, 0xff],
        other => other.to_be_bytes(),
    }
}
