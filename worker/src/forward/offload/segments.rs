//! Segmentation in software: the frames that a network card would make of one large frame (virtio 1.3, 5.1.6.2). Each
//! field is set as Linux sets it.
//!
//! Each segment repeats the frame's headers. What changes: lengths, IPv4's identification, TCP's sequence number,
//! checksums, and the flags that belong to the first or the last segment. The sender leaves the sum of the pseudo
//! header in the checksum field, for the whole frame. The sum for a segment differs only by the length. So the
//! addresses are not read: they may not be the ones that the checksum covers (a routing header, RFC 8200, 8.1).

use sv3::virtio::*;

use super::{HEAD, IPV6_LEN, Offload, be16, put};
use crate::memory::checksum::{self, fold};
use crate::port::traffic_rules::TAG_LEN;

const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// The segments of a checked frame, in order.
pub struct Segments {
    offload: Offload,
    /// The frame's headers, with one VLAN tag more than they had when they were checked. In a real burst they are the checked
    /// ones; the code here does not depend on that.
    head: [u8; HEAD + TAG_LEN],
    /// Octets of the frame's payload, and of the segments made so far.
    payload: usize,
    done: usize,
    /// Number of segments made so far.
    count: u16,
    /// The receiver completes the checksums.
    partial: bool,
}

impl Segments {
    /// The segments of a frame of `len` octets that `offload` was checked for, for a receiver that negotiated
    /// `features`. `head` fills its buffer with the frame's first octets.
    pub fn new(offload: Offload, len: usize, features: u64, head: impl FnOnce(&mut [u8])) -> Segments {
        let mut segments = Segments {
            offload,
            head: [0; HEAD + TAG_LEN],
            payload: len.saturating_sub(usize::from(offload.hdr.hdr_len)),
            done: 0,
            count: 0,
            partial: VIRTIO_NET_F_GUEST_CSUM.of(features),
        };
        head(segments.head.get_mut(..usize::from(offload.hdr.hdr_len)).unwrap_or(&mut []));
        segments
    }

    /// Makes the next segment in `room` and returns it with its header. `payload` fills its buffer with the frame's
    /// next octets.
    pub fn next<'a>(&mut self, room: &'a mut [u8], payload: impl FnOnce(&mut [u8])) -> Option<(NetHdr, &'a mut [u8])> {
        let first = self.count == 0;
        if self.done == self.payload && !first {
            return None;
        }
        let Offload { hdr, l3, .. } = self.offload;
        let (l3, l4, head_len) = (usize::from(l3), usize::from(hdr.csum_start), usize::from(hdr.hdr_len));
        let len = (self.payload - self.done).min(usize::from(hdr.gso_size));
        let segment = room.get_mut(..head_len + len)?;
        let (head, rest) = segment.split_at_mut_checked(head_len)?;
        head.copy_from_slice(self.head.get(..head_len)?);
        payload(rest);
        let last = self.done + len == self.payload;

        match hdr.gso_type & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_UDP_L4 => put(head, l4 + 4, &((head_len - l4 + len) as u16).to_be_bytes()),
            _ => self.finish_tcp(head.get_mut(l4..)?, first, last)?,
        }
        if self.v6() {
            put(head, l3 + 4, &((head_len - l3 - IPV6_LEN + len) as u16).to_be_bytes());
        } else {
            self.finish_ipv4(head.get_mut(l3..l4)?, head_len - l3 + len)?;
        }
        let hdr = self.finish_l4(segment)?;
        self.done += len;
        self.count = self.count.wrapping_add(1);
        Some((hdr, segment))
    }

    fn v6(&self) -> bool {
        let six = VIRTIO_NET_F_GUEST_TSO6.mask() | VIRTIO_NET_F_GUEST_USO6.mask();
        self.offload.needs & six != 0
    }

    fn finish_tcp(&self, tcp: &mut [u8], first: bool, last: bool) -> Option<()> {
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        put(tcp, 4, &sequence.wrapping_add(self.done as u32).to_be_bytes());
        let flags = tcp.get_mut(TCP_FLAGS)?;
        if !first {
            *flags &= !TCP_CWR; // RFC 3168, 6.1.2: the sender reduced its window once
        }
        if !last {
            *flags &= !(TCP_FIN | TCP_PSH);
        }
        Some(())
    }

    fn finish_ipv4(&self, ip: &mut [u8], total_len: usize) -> Option<()> {
        let id = be16(ip, 4)?.wrapping_add(self.count);
        put(ip, 2, &(total_len as u16).to_be_bytes());
        put(ip, 4, &id.to_be_bytes());
        put(ip, 10, &[0, 0]);
        let sum = checksum::sum(ip, 0);
        put(ip, 10, &(!sum).to_be_bytes());
        Some(())
    }

    /// Completes the checksum of TCP or UDP, or leaves it partial and sets the header accordingly.
    fn finish_l4(&self, segment: &mut [u8]) -> Option<NetHdr> {
        let hdr = self.offload.hdr;
        let l4 = usize::from(hdr.csum_start);
        let field = l4 + usize::from(hdr.csum_offset);
        let whole = usize::from(hdr.hdr_len) - l4 + self.payload;
        let len = segment.len() - l4;
        // In ones' complement, adding the inverted number subtracts it.
        let pseudo = fold(u64::from(be16(segment, field)?) + u64::from(!fold(whole as u64)) + len as u64);
        put(segment, field, &pseudo.to_be_bytes());
        if self.partial {
            let NetHdr { flags, csum_start, csum_offset, .. } = hdr;
            return Some(NetHdr { flags, csum_start, csum_offset, ..NetHdr::default() });
        }
        let sum = checksum::sum(segment.get(l4..)?, 0);
        put(segment, field, &checksum::field(sum));
        Some(NetHdr::default())
    }
}
