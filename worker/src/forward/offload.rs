//! Checksum and segmentation offloads (virtio 1.3, 5.1.6.2, 5.1.6.4).
//!
//! A sender may leave a checksum partial, or leave a TCP or UDP payload of up to 64 KiB unsegmented, if it negotiated
//! that. [`check`] compares the sender's header with the frame's headers once. Then a receiver that negotiated the
//! same gets the frame unchanged. For any other receiver the worker does the work on a copy: [`finish_checksum`] or
//! [`Segments`]. A frame costs one comparison to find out which case applies ([`Offload::fits`]).
//!
//! Only a device may set `VIRTIO_NET_HDR_F_DATA_VALID` (5.1.6.2.1). From a guest it is ignored like any unknown flag
//! (5.1.6.2.2), so no receiver trusts a checksum that another guest claims to have verified. Segmentation in tunnels
//! and UFO are not offered; a header that asks for them is refused like any other that was not negotiated.

mod segments;
#[cfg(test)]
mod tests;

use sv3::frame::ETHERNET_LEN;
use sv3::virtio::*;

use crate::memory::checksum;
pub use segments::Segments;

/// Octets of a frame's beginning that are checked. Longer headers are refused.
pub const HEAD: usize = 256;
/// Most segments of one frame. The smallest segments that any TCP sends (48 octets, Linux) make 1,366 of 64 KiB.
/// Without this bound one frame could cost as much as 65,000 frames.
const MAX_SEGMENTS: usize = 2048;

/// The header contradicts the frame, or what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOffload;

/// What is known of a frame whose offloads are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The header to pass on: checked fields only, all others zero.
    pub hdr: NetHdr,
    /// Where the IP header begins, in octets; 0 unless segmented.
    l3: u16,
    /// The features that a receiver needs to take the frame unchanged.
    needs: u64,
}

impl Offload {
    /// No offload.
    pub const NONE: &'static Offload = &Offload { hdr: NetHdr::NONE, l3: 0, needs: 0 };

    /// No offload, and the frame's checksum was verified by the device that it came from.
    pub const VERIFIED: &'static Offload = &Offload { hdr: NetHdr::VERIFIED, l3: 0, needs: 0 };

    /// A header as if it had been checked.
    #[cfg(test)]
    pub fn of(hdr: NetHdr) -> Offload {
        Offload { hdr, ..Offload::default() }
    }

    /// The header for a receiver that takes the frame unchanged. Only one that negotiated checksums may be told that one
    /// was verified (virtio 1.3, 5.1.6.4.1).
    #[inline]
    pub fn hdr_for(&self, features: u64) -> &NetHdr {
        match self.hdr.flags & VIRTIO_NET_HDR_F_DATA_VALID != 0 && !VIRTIO_NET_F_GUEST_CSUM.of(features) {
            true => &NetHdr::NONE,
            false => &self.hdr,
        }
    }

    /// The same for a frame whose headers begin so many octets later. A VLAN tag was put in, or taken off.
    pub fn moved(&self, by: i16) -> Offload {
        let at = |place: u16| if place == 0 { 0 } else { place.wrapping_add_signed(by) };
        let hdr = NetHdr { csum_start: at(self.hdr.csum_start), hdr_len: at(self.hdr.hdr_len), ..self.hdr };
        Offload { hdr, l3: at(self.l3), ..*self }
    }

    /// Whether the frame needs no offload.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.needs == 0
    }

    /// Whether a receiver that negotiated `features` takes the frame unchanged.
    #[inline]
    pub fn fits(&self, features: u64) -> bool {
        features & self.needs == self.needs
    }

    /// Whether the worker must segment the frame for receivers that it does not fit.
    pub fn segmented(&self) -> bool {
        self.hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE
    }
}

/// Checks a sender's header. `head`: the first octets of the frame, all or at least [`HEAD`]; `len`: octets of the
/// frame; `features`: the sender's.
pub fn check(hdr: &NetHdr, head: &[u8], len: usize, features: u64) -> Result<Offload, BadOffload> {
    if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
        // 5.1.6.2.1: segmentation requires a partial checksum.
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
    let partial = Offload { hdr: passed, l3: 0, needs: VIRTIO_NET_F_GUEST_CSUM.mask() };
    if hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE {
        Ok(partial)
    } else {
        check_gso(hdr, head, len, features, partial).ok_or(BadOffload)
    }
}

/// Checks a header that asks for segmentation; `partial`: what is known of the checksum.
fn check_gso(hdr: &NetHdr, head: &[u8], len: usize, features: u64, partial: Offload) -> Option<Offload> {
    let (l3, v6) = ip_begin(head)?;
    let kind = Kind::of(hdr.gso_type, v6).filter(|kind| features & kind.host == kind.host)?;
    let l4 = usize::from(hdr.csum_start);
    let leads = if v6 { ipv6_leads(head, l3, l4, kind.protocol)? } else { ipv4_leads(head, l3, l4, kind.protocol)? };
    let (end, csum_offset) = match kind.protocol {
        IPPROTO_TCP => (tcp_end(head, l4)?, TCP_CSUM),
        _ => (l4 + UDP_LEN, UDP_CSUM),
    };
    // Each segment repeats the headers, so all of them must be known.
    if !leads || hdr.csum_offset != csum_offset || end > head.len().min(HEAD).min(len) {
        return None;
    }
    let (size, payload) = (usize::from(hdr.gso_size), len - end);
    // The length field of the IP header must hold each segment. The field of IPv6 does not count the IPv6 header.
    let uncounted = if v6 { IPV6_LEN } else { 0 };
    let longest = end - l3 - uncounted + payload.min(size);
    if size == 0 || payload.div_ceil(size) > MAX_SEGMENTS || longest > usize::from(u16::MAX) {
        return None;
    }
    let hdr = NetHdr { gso_type: hdr.gso_type, gso_size: hdr.gso_size, hdr_len: end as u16, ..partial.hdr };
    Some(Offload { hdr, l3: l3 as u16, needs: partial.needs | kind.guest })
}

const TCP_CSUM: u16 = 16;
const UDP_CSUM: u16 = 6;
const UDP_LEN: usize = 8;
const IPV6_LEN: usize = 40;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// A kind of segmentation.
struct Kind {
    protocol: u8,
    /// Features that the sender must have negotiated.
    host: u64,
    /// Features that the receiver must have negotiated, beside `VIRTIO_NET_F_GUEST_CSUM`.
    guest: u64,
}

impl Kind {
    /// What `gso_type` means for a frame of IPv6 (`v6`) or of IPv4.
    fn of(gso_type: u8, v6: bool) -> Option<Kind> {
        let (protocol, host, guest) = match (gso_type & !VIRTIO_NET_HDR_GSO_ECN, v6) {
            (VIRTIO_NET_HDR_GSO_TCPV4, false) => (IPPROTO_TCP, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4),
            (VIRTIO_NET_HDR_GSO_TCPV6, true) => (IPPROTO_TCP, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6),
            (VIRTIO_NET_HDR_GSO_UDP_L4, false) => (IPPROTO_UDP, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4),
            (VIRTIO_NET_HDR_GSO_UDP_L4, true) => (IPPROTO_UDP, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO6),
            _ => return None,
        };
        let (host_ecn, guest_ecn) = match (gso_type & VIRTIO_NET_HDR_GSO_ECN, protocol) {
            (0, _) => (0, 0),
            // Only TCP has window reductions.
            (_, IPPROTO_TCP) => (VIRTIO_NET_F_HOST_ECN.mask(), VIRTIO_NET_F_GUEST_ECN.mask()),
            _ => return None,
        };
        Some(Kind { protocol, host: host.mask() | host_ecn, guest: guest.mask() | guest_ecn })
    }
}

/// Where the IP header begins, after the Ethernet header and up to two VLAN tags, and whether it is IPv6.
fn ip_begin(head: &[u8]) -> Option<(usize, bool)> {
    let mut at = ETHERNET_LEN;
    for _ in 0..3 {
        match be16(head, at - 2)? {
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return Some((at, false)),
            0x86dd => return Some((at, true)),
            _ => return None,
        }
    }
    None
}

/// Whether the IPv4 header at `l3` belongs to an unfragmented datagram and ends at `l4`, where `protocol` begins.
fn ipv4_leads(head: &[u8], l3: usize, l4: usize, protocol: u8) -> Option<bool> {
    let version = *head.get(l3)?;
    let fragment = be16(head, l3 + 6)? & 0x3fff;
    let ihl = usize::from(version & 0xf) * 4;
    Some(version >> 4 == 4 && ihl >= 20 && l3 + ihl == l4 && *head.get(l3 + 9)? == protocol && fragment == 0)
}

/// Whether the IPv6 header at `l3` with its extension headers (RFC 8200, 4) ends at `l4`, where `protocol` begins.
fn ipv6_leads(head: &[u8], l3: usize, l4: usize, protocol: u8) -> Option<bool> {
    let version = *head.get(l3)? >> 4;
    let mut next = *head.get(l3 + 6)?;
    let mut at = l3 + IPV6_LEN;
    // Hop-by-hop options, routing, destination options; their length is in units of eight octets.
    while at < l4 && matches!(next, 0 | 43 | 60) {
        next = *head.get(at)?;
        at += 8 + usize::from(*head.get(at + 1)?) * 8;
    }
    Some(version == 6 && at == l4 && next == protocol)
}

/// Where the TCP header at `l4` ends.
fn tcp_end(head: &[u8], l4: usize) -> Option<usize> {
    let words = usize::from(*head.get(l4 + 12)? >> 4);
    (words >= 5).then_some(l4 + words * 4)
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = octets.get_mut(at..at + value.len()) {
        field.copy_from_slice(value);
    }
}

/// Completes a partial checksum of a whole frame.
pub fn finish_checksum(frame: &mut [u8], offload: &Offload) {
    let start = usize::from(offload.hdr.csum_start);
    let sum = checksum::sum(frame.get(start..).unwrap_or(&[]), 0);
    put(frame, start + usize::from(offload.hdr.csum_offset), &checksum::field(sum));
}
