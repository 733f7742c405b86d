//! What the card is to do to a frame that is sent: by its net header, which was checked ([`Request::prepare`]), and in
//! memory in front of the frame ([`Request::encode`]), so that the next worker can ask the same of the card.

use sv3::virtio::{NetHdr, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE};

use super::descriptor::{Context, Options};
use super::headers::{HEAD, Headers, TCP, UDP};
use crate::memory::checksum::{self, fold, sum};
use crate::memory::slice::GuestSlice;

/// Where a TCP and a UDP header have their checksum.
const TCP_CSUM: u16 = 16;
const UDP_CSUM: u16 = 6;

/// What the card is to do to a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Octets of the frame.
    pub len: u32,
    /// What to do.
    pub options: Options,
    /// Where its headers are, if there is something to do.
    pub context: Context,
    /// The sender's ring has the frame until the card is done with it, so the next worker takes it from there.
    pub again: bool,
}

impl Request {
    /// A frame that is complete.
    pub fn plain(len: u32) -> Request {
        Request { len, ..Request::default() }
    }

    /// Makes a frame ready for the card. `frame` is the copy that the card reads. What the card cannot do is done here.
    pub fn prepare(hdr: &NetHdr, frame: &GuestSlice<'_>) -> Request {
        let plain = Request::plain(frame.len() as u32);
        if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
            return plain;
        }
        let mut head = [0; HEAD];
        let known = frame.read(0, &mut head);
        let request = Request::of(hdr, frame.len(), head.get(..known).unwrap_or(&[]));
        let Some(request) = request else {
            finish_checksum(hdr, frame);
            return plain;
        };
        if request.options.segment {
            request.clear_lengths(frame);
        }
        request
    }

    /// The same for a frame of `len` octets of which only the first ones lie in `head`. `None`: it must be copied whole,
    /// since the card cannot do what is asked for, or headers are longer than `head`.
    pub fn prepare_head(hdr: &NetHdr, head: &GuestSlice<'_>, len: usize) -> Option<Request> {
        if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
            return Some(Request::plain(len as u32));
        }
        let mut room = [0; HEAD];
        let known = head.read(0, &mut room);
        let request = Request::of(hdr, len, room.get(..known)?)?;
        if request.options.segment {
            if request.header_len() as usize > head.len() {
                return None;
            }
            request.clear_lengths(head);
        }
        Some(request)
    }

    /// The request for a frame whose checksum the card can complete.
    fn of(hdr: &NetHdr, len: usize, head: &[u8]) -> Option<Request> {
        let headers = Headers::find(head)?;
        let Headers { l3, l4, protocol, v6 } = headers;
        let tcp = match (protocol, hdr.csum_offset) {
            (TCP, TCP_CSUM) => true,
            (UDP, UDP_CSUM) => false,
            _ => return None,
        };
        let ip_len = l4 - l3;
        if l4 != usize::from(hdr.csum_start) || l3 > Context::MAC_LEN_MAX || ip_len > Context::IP_LEN_MAX {
            return None;
        }
        let context = Context { mac_len: l3 as u8, ip_len: ip_len as u16, ipv4: !v6, tcp, ..Context::default() };
        let options = Options { checksum: true, ..Options::default() };
        let request = Request { len: len as u32, options, context, again: false };
        let end = usize::from(hdr.hdr_len);
        if hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE || end >= len {
            return Some(request);
        }
        let options = Options { segment: true, ip_checksum: !v6, ..options };
        let l4_len = u8::try_from(end.checked_sub(l4)?).ok()?;
        Some(Request { options, context: Context { l4_len, mss: hdr.gso_size, ..context }, ..request })
    }

    /// Octets of all headers of a segment.
    fn header_len(&self) -> u32 {
        let Context { mac_len, ip_len, l4_len, .. } = self.context;
        u32::from(mac_len) + u32::from(ip_len) + u32::from(l4_len)
    }

    /// PAYLEN.
    pub fn payload(&self) -> u32 {
        self.len.saturating_sub(if self.options.segment { self.header_len() } else { 0 })
    }

    /// Octets of the longest frame on the wire.
    pub fn longest(&self) -> u32 {
        match self.options.segment {
            true => self.header_len() + self.payload().min(self.context.mss.into()),
            false => self.len,
        }
    }

    /// The card sets the lengths of each segment. It wants them as zero before, in the IP header and in the sum of the
    /// pseudo header (82599, 7.2.4.5). The sum's addresses may not be those of the header, so the length is taken out of
    /// the sum.
    fn clear_lengths(&self, frame: &GuestSlice<'_>) {
        let (l3, l4) =
            (usize::from(self.context.mac_len), usize::from(self.context.mac_len) + usize::from(self.context.ip_len));
        match self.context.ipv4 {
            true => {
                frame.write(l3 + 2, &[0; 2]);
                frame.write(l3 + 10, &[0; 2]);
            }
            false => drop(frame.write(l3 + 4, &[0; 2])),
        }
        let (at, mut field) = (l4 + usize::from(TCP_CSUM), [0; 2]);
        frame.read(at, &mut field);
        let whole = u64::from(self.len).saturating_sub(l4 as u64);
        let without = fold(u64::from(u16::from_be_bytes(field)) + u64::from(!fold(whole)));
        frame.write(at, &without.to_be_bytes());
    }

    /// As numbers of eight and of four octets.
    #[inline]
    pub fn encode(&self) -> (u64, u32) {
        let Request { len, options, context, again } = self;
        let flags = [options.checksum, options.segment, options.ip_checksum, context.ipv4, context.tcp, *again];
        let flags = flags.into_iter().rev().fold(0, |flags, flag| flags << 1 | u32::from(flag));
        let lens = u64::from(context.mac_len) << 32 | u64::from(context.l4_len) << 40 | u64::from(context.ip_len) << 48;
        (u64::from(*len) | lens, u32::from(context.mss) | flags << 16)
    }

    /// Reads such numbers. The card may have changed them.
    pub fn decode((first, second): (u64, u32)) -> Request {
        let flag = |bit: u32| second >> (16 + bit) & 1 != 0;
        let options = Options { checksum: flag(0), segment: flag(1), ip_checksum: flag(2), context: false };
        let context = Context {
            mac_len: (first >> 32) as u8,
            l4_len: (first >> 40) as u8,
            ip_len: (first >> 48) as u16,
            ipv4: flag(3),
            tcp: flag(4),
            mss: second as u16,
        };
        Request { len: first as u32, options, context, again: flag(5) }
    }
}

/// Completes a partial checksum that the card cannot complete.
#[cold]
fn finish_checksum(hdr: &NetHdr, frame: &GuestSlice<'_>) {
    let (start, mut total, mut room) = (usize::from(hdr.csum_start), 0u64, [0; 1024]);
    let mut at = start;
    loop {
        // All but the last piece have an even length.
        let known = frame.read(at, &mut room);
        total += u64::from(sum(room.get(..known).unwrap_or(&[]), 0));
        at += known;
        if known < room.len() {
            break;
        }
    }
    frame.write(start + usize::from(hdr.csum_offset), &checksum::field(fold(total)));
}

#[cfg(test)]
mod tests;
