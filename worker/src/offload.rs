//! Checksum and segmentation offloads (virtio 1.3, 5.1.6.2, 5.1.6.4).
//!
//! A sender may leave a checksum partial, or leave a TCP payload of up to 64 KiB whole, if it negotiated so. What it
//! says about its frame is checked against the frame's headers once ([`check`]); after that a receiver that negotiated
//! the same gets the frame as it is, and for any other the work is done here, on a copy: [`finish_checksum`] or
//! [`Segments`].

use std::ops::Range;

use sv3::frame::ETHERNET_LEN;
use sv3::virtio::*;

/// Octets of a frame's begin that are looked at; headers that reach further are refused.
pub const HEAD: usize = 256;

/// The header contradicts the frame or what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOffload;

/// What is known of a frame whose offloads were checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The header to pass on: only fields that were checked, everything else zero.
    pub hdr: NetHdr,
    /// Where the IP header begins, in octets; 0 unless segmented.
    l3: usize,
}

impl Offload {
    /// Whether a receiver that negotiated `features` takes the frame as it is.
    #[inline]
    pub fn fits(&self, features: u64) -> bool {
        let needed = match self.hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_GUEST_TSO4.mask(),
            VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_GUEST_TSO6.mask(),
            _ => 0,
        };
        let ecn = if self.hdr.gso_type & VIRTIO_NET_HDR_GSO_ECN != 0 { VIRTIO_NET_F_GUEST_ECN.mask() } else { 0 };
        let csum = if self.hdr.flags == 0 { 0 } else { VIRTIO_NET_F_GUEST_CSUM.mask() };
        let all = needed | ecn | csum;
        features & all == all
    }

    /// Whether the frame is to be segmented for receivers that it does not fit.
    pub fn segmented(&self) -> bool {
        self.hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE
    }
}

/// Checks a sender's header. `head`: the first octets of the frame, all or at least [`HEAD`]; `len`: octets of the
/// frame; `features`: the sender's.
pub fn check(hdr: &NetHdr, head: &[u8], len: usize, features: u64) -> Result<Offload, BadOffload> {
    let partial = hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    let gso = hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN;
    if !partial {
        // 5.1.6.2.1: segmentation goes only with a partial checksum.
        return if hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE { Ok(Offload::default()) } else { Err(BadOffload) };
    }
    let l4 = usize::from(hdr.csum_start);
    let field = l4 + usize::from(hdr.csum_offset);
    if !VIRTIO_NET_F_CSUM.of(features) || l4 < ETHERNET_LEN || field + 2 > len {
        return Err(BadOffload);
    }
    let passed = NetHdr {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        csum_start: hdr.csum_start,
        csum_offset: hdr.csum_offset,
        ..NetHdr::default()
    };
    let needed = match gso {
        VIRTIO_NET_HDR_GSO_NONE if hdr.gso_type == 0 => return Ok(Offload { hdr: passed, l3: 0 }),
        VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4.mask(),
        VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6.mask(),
        _ => return Err(BadOffload),
    };
    let ecn = if gso == hdr.gso_type { 0 } else { VIRTIO_NET_F_HOST_ECN.mask() };
    if features & needed == 0 || features & ecn != ecn || hdr.gso_size == 0 || hdr.csum_offset != TCP_CSUM as u16 {
        return Err(BadOffload);
    }
    let l3 = ip_begin(head, gso).ok_or(BadOffload)?;
    let tcp = tcp_end(head, l3, l4, gso).filter(|end| *end <= len).ok_or(BadOffload)?;
    // Each segment must be one that its IP header's length field can tell.
    let longest = tcp - l3 + (len - tcp).min(usize::from(hdr.gso_size));
    if longest - if gso == VIRTIO_NET_HDR_GSO_TCPV6 { IPV6_LEN } else { 0 } > usize::from(u16::MAX) {
        return Err(BadOffload);
    }
    let hdr = NetHdr { gso_type: hdr.gso_type, gso_size: hdr.gso_size, hdr_len: tcp as u16, ..passed };
    Ok(Offload { hdr, l3 })
}

const TCP_CSUM: usize = 16;
const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const IPPROTO_TCP: u8 = 6;
const IPV6_LEN: usize = 40;

/// Where the IP header begins: behind the Ethernet header and up to two VLAN tags, if the type is `gso`'s.
fn ip_begin(head: &[u8], gso: u8) -> Option<usize> {
    let mut at = ETHERNET_LEN;
    for _ in 0..3 {
        match (be16(head, at - 2)?, gso) {
            (0x8100 | 0x88a8, _) => at += 4,
            (0x0800, VIRTIO_NET_HDR_GSO_TCPV4) | (0x86dd, VIRTIO_NET_HDR_GSO_TCPV6) => return Some(at),
            _ => return None,
        }
    }
    None
}

/// Where the TCP header at `l4` ends, if the IP header at `l3` leads there.
fn tcp_end(head: &[u8], l3: usize, l4: usize, gso: u8) -> Option<usize> {
    let version = *head.get(l3)?;
    let leads = if gso == VIRTIO_NET_HDR_GSO_TCPV4 {
        let fragment = be16(head, l3 + 6)? & 0x3fff;
        let ihl = usize::from(version & 0xf) * 4;
        version >> 4 == 4 && ihl >= 20 && l3 + ihl == l4 && *head.get(l3 + 9)? == IPPROTO_TCP && fragment == 0
    } else {
        version >> 4 == 6 && leads_to_tcp(head, l3, l4)?
    };
    let words = usize::from(head.get(l4 + 12)? >> 4);
    let end = l4 + words * 4;
    // The head that a segment repeats must be known wholly.
    (leads && words >= 5 && end <= head.len().min(HEAD)).then_some(end)
}

/// Whether the IPv6 header at `l3` and its extension headers (RFC 8200, 4) end in TCP at `l4`.
fn leads_to_tcp(head: &[u8], l3: usize, l4: usize) -> Option<bool> {
    let mut next = *head.get(l3 + 6)?;
    let mut at = l3 + IPV6_LEN;
    // Hop-by-hop and destination options; their length is in units of eight octets. A routing header would change the
    // address that the checksum is about.
    while at < l4 && matches!(next, 0 | 60) {
        next = *head.get(at)?;
        at += 8 + usize::from(*head.get(at + 1)?) * 8;
    }
    Some(at == l4 && next == IPPROTO_TCP)
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = octets.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// Folded ones' complement sum (RFC 1071), not inverted, of octets that begin at an even place.
fn sum(octets: &[u8], start: u64) -> u64 {
    let mut total = start;
    let mut chunks = octets.chunks_exact(4);
    for chunk in &mut chunks {
        if let [a, b, c, d] = chunk {
            total += u64::from(u32::from_be_bytes([*a, *b, *c, *d]));
        }
    }
    let rest = chunks.remainder();
    let byte = |at: usize| rest.get(at).copied().unwrap_or(0);
    total += u64::from(u32::from_be_bytes([byte(0), byte(1), byte(2), 0]));
    fold(total)
}

fn fold(mut total: u64) -> u64 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total
}

/// What goes into a checksum field: the inverted sum, never zero, which for UDP means "none".
fn checksum(total: u64) -> [u8; 2] {
    match !(fold(total) as u16) {
        0 => [0xff, 0xff],
        value => value.to_be_bytes(),
    }
}

/// Completes a partial checksum of a whole frame.
pub fn finish_checksum(frame: &mut [u8], offload: &Offload) {
    let start = usize::from(offload.hdr.csum_start);
    let total = sum(frame.get(start..).unwrap_or(&[]), 0);
    put(frame, start + usize::from(offload.hdr.csum_offset), &checksum(total));
}

/// The segments of a checked frame: each a head that is made here and a range of the frame.
pub struct Segments {
    offload: Offload,
    done: usize,
}

/// One segment.
pub struct Segment {
    /// Ethernet, IP and TCP headers.
    pub head: [u8; HEAD],
    /// Octets used of `head`.
    pub head_len: usize,
    /// Where its payload lies in the whole frame.
    pub payload: Range<usize>,
}

impl Segments {
    /// Segments of a frame that `offload` was checked for.
    pub fn new(offload: Offload) -> Segments {
        Segments { offload, done: 0 }
    }

    /// The next segment of `frame`, which is whole and the same each time.
    pub fn next(&mut self, frame: &[u8]) -> Option<Segment> {
        let Offload { hdr, l3 } = self.offload;
        let head_len = usize::from(hdr.hdr_len);
        let payload = frame.get(head_len..)?;
        if self.done > 0 && self.done >= payload.len() {
            return None;
        }
        let size = usize::from(hdr.gso_size);
        let index = self.done / size;
        let first = self.done == 0;
        let piece = payload.get(self.done..payload.len().min(self.done + size))?;
        let last = self.done + piece.len() == payload.len();
        let begin = head_len + self.done;
        let mut segment = Segment { head: [0; HEAD], head_len, payload: begin..begin + piece.len() };
        put(&mut segment.head, 0, frame.get(..head_len)?);
        let head = segment.head.get_mut(..head_len)?;
        let l4 = usize::from(hdr.csum_start);

        let sequence = u32::from_be_bytes(*head.get(l4 + 4..)?.first_chunk::<4>()?);
        put(head, l4 + 4, &sequence.wrapping_add(self.done as u32).to_be_bytes());
        let flags = head.get_mut(l4 + TCP_FLAGS)?;
        if !first {
            *flags &= !TCP_CWR; // RFC 3168, 6.1.2: the window was reduced once
        }
        if !last {
            *flags &= !(TCP_FIN | TCP_PSH);
        }
        let l4_len = head_len - l4 + piece.len();
        let pseudo = if hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_TCPV4 {
            finish_ipv4(head, l3, l4 - l3 + l4_len, index as u16)?
        } else {
            put(head, l3 + 4, &((l4 - l3 - IPV6_LEN + l4_len) as u16).to_be_bytes());
            sum(head.get(l3 + 8..l3 + 40)?, 0)
        };
        put(head, l4 + TCP_CSUM, &[0, 0]);
        let total = pseudo + u64::from(IPPROTO_TCP) + l4_len as u64;
        let total = sum(piece, sum(head.get(l4..)?, total));
        put(head, l4 + TCP_CSUM, &checksum(total));
        self.done += piece.len().max(1);
        Some(segment)
    }
}

/// Completes a segment's IPv4 header; returns the sum of its addresses.
fn finish_ipv4(head: &mut [u8], l3: usize, total_len: usize, index: u16) -> Option<u64> {
    let ihl = usize::from(head.get(l3)? & 0xf) * 4;
    let id = be16(head, l3 + 4)?.wrapping_add(index);
    put(head, l3 + 2, &(total_len as u16).to_be_bytes());
    put(head, l3 + 4, &id.to_be_bytes());
    put(head, l3 + 10, &[0, 0]);
    let total = sum(head.get(l3..l3 + ihl)?, 0);
    put(head, l3 + 10, &(!(fold(total) as u16)).to_be_bytes());
    Some(sum(head.get(l3 + 12..l3 + 20)?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = VIRTIO_NET_F_CSUM.mask()
        | VIRTIO_NET_F_HOST_TSO4.mask()
        | VIRTIO_NET_F_HOST_TSO6.mask()
        | VIRTIO_NET_F_HOST_ECN.mask();

    /// A TCP frame with `tags` VLAN tags whose payload counts up; flags FIN, PSH, CWR, ACK. With the header that asks
    /// for segments of `mss`.
    fn tcp(v6: bool, tags: usize, payload: usize, mss: u16) -> (Vec<u8>, NetHdr) {
        let mut f = vec![2; 12];
        for tag in 0..tags {
            f.extend([0x81, 0x00, 0, tag as u8]);
        }
        f.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        if v6 {
            let len = (20 + payload) as u16;
            f.extend([0x60, 0, 0, 0]);
            f.extend(len.to_be_bytes());
            f.extend([6, 64]);
            f.extend([0xfd; 32]);
        } else {
            let len = (40 + payload) as u16;
            f.extend([0x45, 0]);
            f.extend(len.to_be_bytes());
            f.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let l4 = f.len();
        f.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        f.extend((0..payload).map(|n| n as u8));
        let gso_type = VIRTIO_NET_HDR_GSO_ECN | if v6 { VIRTIO_NET_HDR_GSO_TCPV6 } else { VIRTIO_NET_HDR_GSO_TCPV4 };
        let hdr = NetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type,
            gso_size: mss,
            csum_start: l4 as u16,
            csum_offset: 16,
            ..NetHdr::default()
        };
        (f, hdr)
    }

    /// The sum of a segment's TCP header, payload and pseudo header: 0xffff when the checksum is right.
    fn verify_tcp(segment: &[u8], l3: usize, l4: usize, v6: bool) -> u64 {
        let addresses = if v6 { &segment[l3 + 8..l3 + 40] } else { &segment[l3 + 12..l3 + 20] };
        let l4_len = (segment.len() - l4) as u64;
        let plain: u64 = [addresses, &segment[l4..]]
            .into_iter()
            .flat_map(|part| part.chunks(2))
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        let mut total = plain + l4_len + 6;
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total
    }

    #[test]
    fn segments_carry_the_payload_with_right_headers() {
        for (v6, tags, payload, mss) in [
            (false, 0, 65_000, 1448),
            (true, 0, 65_000, 1428),
            (false, 2, 2896, 1448),
            (true, 1, 1429, 1428),
            (false, 0, 9, 1),
        ] {
            let (frame, hdr) = tcp(v6, tags, payload, mss);
            let offload = check(&hdr, &frame[..frame.len().min(HEAD)], frame.len(), ALL).unwrap();
            assert!(offload.segmented() && !offload.fits(0));
            let l4 = usize::from(hdr.csum_start);
            let l3 = 14 + 4 * tags;
            let mut segments = Segments::new(offload);
            let (mut sent, mut count) = (Vec::new(), 0u16);
            while let Some(segment) = segments.next(&frame) {
                let wire = [&segment.head[..segment.head_len], &frame[segment.payload.clone()]].concat();
                assert_eq!(verify_tcp(&wire, l3, l4, v6), 0xffff);
                if v6 {
                    assert_eq!(usize::from(be16(&wire, l3 + 4).unwrap()), wire.len() - l3 - 40);
                } else {
                    assert_eq!(usize::from(be16(&wire, l3 + 2).unwrap()), wire.len() - l3);
                    assert_eq!(be16(&wire, l3 + 4).unwrap(), 0xffffu16.wrapping_add(count));
                    assert_eq!(sum(&wire[l3..l3 + 20], 0), 0xffff);
                }
                let sequence = u32::from_be_bytes(wire[l4 + 4..l4 + 8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(sent.len() as u32));
                let (first, last) = (count == 0, sent.len() + segment.payload.len() == payload);
                let flags = wire[l4 + TCP_FLAGS];
                assert_eq!(flags & TCP_CWR != 0, first);
                assert_eq!(flags & (TCP_FIN | TCP_PSH) != 0, last);
                assert!(segment.payload.len() <= usize::from(mss));
                sent.extend_from_slice(&frame[segment.payload]);
                count += 1;
            }
            assert_eq!(sent, frame[l4 + 20..]);
            assert_eq!(usize::from(count), payload.div_ceil(usize::from(mss)));
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        // The field holds the pseudo header's sum, as a driver leaves it (5.1.6.2).
        let (mut frame, hdr) = tcp(false, 0, 333, 0);
        let l4 = usize::from(hdr.csum_start);
        let pseudo = sum(&frame[26..34], 6 + (frame.len() - l4) as u64) as u16;
        put(&mut frame, l4 + 16, &pseudo.to_be_bytes());
        let hdr = NetHdr { gso_type: 0, ..hdr };
        let offload = check(&hdr, &frame[..HEAD], frame.len(), ALL).unwrap();
        finish_checksum(&mut frame, &offload);
        assert_eq!(verify_tcp(&frame, 14, l4, false), 0xffff);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        // CVE-2024-11614.
        let (frame, good) = tcp(false, 0, 3000, 1448);
        let check = |hdr: NetHdr, features: u64| check(&hdr, &frame[..HEAD], frame.len(), features).is_ok();
        assert!(check(good, ALL));
        assert!(!check(good, 0));
        assert!(!check(good, ALL & !VIRTIO_NET_F_HOST_ECN.mask()));
        let (csum, v4) = (good.csum_start, VIRTIO_NET_HDR_GSO_TCPV4);
        for bad in [
            NetHdr { flags: 0, ..good },
            NetHdr { gso_size: 0, ..good },
            NetHdr { gso_type: VIRTIO_NET_HDR_GSO_TCPV6, ..good },
            NetHdr { gso_type: VIRTIO_NET_HDR_GSO_ECN, ..good },
            NetHdr { gso_type: 3, ..good },
            NetHdr { gso_type: v4 | 0x40, ..good },
            NetHdr { csum_start: csum + 1, ..good },
            NetHdr { csum_start: 0, ..good },
            NetHdr { csum_start: u16::MAX, ..good },
            NetHdr { csum_offset: 6, ..good },
            NetHdr { csum_offset: u16::MAX, csum_start: u16::MAX, gso_type: 0, ..good },
            NetHdr { csum_start: frame.len() as u16 - 1, csum_offset: 0, gso_type: 0, ..good },
        ] {
            assert!(!check(bad, ALL), "{bad:?}");
        }
        for words in [0u8, 0x10, 0x40, 0xf0] {
            let mut frame = frame.clone();
            frame[usize::from(csum) + 12] = words;
            let len = usize::from(csum) + 30;
            assert_eq!(super::check(&good, &frame[..len], len, ALL), Err(BadOffload));
        }
    }
}
