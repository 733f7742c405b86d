//! What the card computes in frames: checksums both ways, and segments (data sheet, 7.1.11 and 7.2.4 to 7.2.6).
//!
//! Nothing here is shared with sv3: it is what sv3's own offloads are compared with. So it adds octet by octet, without
//! tricks.

use crate::Complaints;
use crate::frame::{Headers, Network, Transport, word};

/// Status of a received frame: its transport checksum was checked (L4I), its IP header was (IPCS).
const L4I: u32 = 1 << 5;
const IPCS: u32 = 1 << 6;
const UDPCS: u32 = 1 << 4;
/// Its transport checksum is wrong (TCPE), its IP header's is (IPE).
pub const TCPE: u32 = 1 << 30;
pub const IPE: u32 = 1 << 31;

/// Where a UDP, a TCP and an SCTP header have their checksum.
const UDP_CHECK: usize = 6;
const TCP_CHECK: usize = 16;
const SCTP_CHECK: usize = 8;

/// Adds octets as big-endian words, with carries.
fn sum(octets: &[u8], begin: u64) -> u64 {
    let (pairs, rest) = octets.as_chunks::<2>();
    // In words of 32 bits, which no more than 32,768 pairs fill, this is several pairs at a time.
    let part = |pairs: &[[u8; 2]]| pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    let sum: u64 = pairs.chunks(32_768).map(|pairs| u64::from(part(pairs))).sum();
    begin + sum + rest.first().map_or(0, |octet| u64::from(*octet) << 8)
}

/// The complement of the sum's sixteen bits.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// A check sequence with the given polynomial, bits reversed: Ethernet's, or Castagnoli's for SCTP.
fn crc(octets: &[u8], polynomial: u32) -> u32 {
    let mut crc = u32::MAX;
    for octet in octets {
        crc ^= u32::from(*octet);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { polynomial } else { 0 };
        }
    }
    !crc
}

/// The check sequence of a frame, as it stands behind it.
pub fn frame_check(frame: &[u8]) -> [u8; 4] {
    crc(frame, 0xEDB8_8320).to_le_bytes()
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// What the card finds out about a received frame: status and errors of its descriptor.
pub fn check(frame: &[u8], headers: &Headers) -> u32 {
    let Some((network, at)) = headers.network else { return 0 };
    let mut status = 0;
    if let Network::V4 { .. } = network {
        let header = usize::from(frame.get(at).copied().unwrap_or(0) & 0xF) * 4;
        let good = frame.get(at..at + header).is_some_and(|header| fold(sum(header, 0)) == 0);
        status |= IPCS | if good { 0 } else { IPE };
    }
    let Some((transport, from)) = headers.transport.filter(|_| !headers.fragment) else { return status };
    let Some(segment) = frame.get(from..headers.end) else { return status };
    status | L4I | if transport_is_right(frame, (network, at), (transport, segment)) { 0 } else { TCPE }
}

/// The same by an 82576: errors are one bit lower, UDP has a bit of its own (UDPCS), and what has no checksum is right.
pub fn check_82576(frame: &[u8], headers: &Headers) -> u32 {
    let status = check(frame, headers);
    let udp = headers.transport.filter(|(kind, _)| *kind == Transport::Udp && status & L4I != 0);
    let moved = status & !(TCPE | IPE) | (status & (TCPE | IPE)) >> 1;
    match udp {
        Some((_, at)) if word(frame, at + UDP_CHECK) == Some(0) => moved & !(L4I | TCPE >> 1),
        Some(_) => moved | UDPCS,
        None => moved,
    }
}

fn transport_is_right(frame: &[u8], (network, at): (Network, usize), (kind, segment): (Transport, &[u8])) -> bool {
    let (protocol, addresses) = match (kind, network) {
        (Transport::Sctp, _) => return sctp_is_right(segment),
        // By an erratum, the 82599 takes UDP without a checksum for wrong.
        (Transport::Udp, _) if word(segment, UDP_CHECK) == Some(0) => return false,
        (Transport::Tcp, Network::V4 { .. }) => (6, at + 12..at + 20),
        (Transport::Udp, Network::V4 { .. }) => (17, at + 12..at + 20),
        (Transport::Tcp, Network::V6 { .. }) => (6, at + 8..at + 40),
        (Transport::Udp, Network::V6 { .. }) => (17, at + 8..at + 40),
    };
    let Some(addresses) = frame.get(addresses) else { return false };
    fold(sum(segment, sum(addresses, protocol + segment.len() as u64))) == 0
}

fn sctp_is_right(segment: &[u8]) -> bool {
    let mut copy = segment.to_vec();
    let Some(field) = copy.get_mut(SCTP_CHECK..SCTP_CHECK + 4) else { return false };
    let found = field.to_vec();
    field.fill(0);
    crc(&copy, 0x82F6_3B78).to_le_bytes() == found[..]
}

/// What a context descriptor says (data sheet, 7.2.3.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Octets of the Ethernet header, with its tag.
    pub mac: usize,
    /// Octets of the IP header, with options or extensions.
    pub ip: usize,
    /// Octets of the transport header.
    pub l4: usize,
    /// Octets of payload in a segment.
    pub mss: usize,
    /// It is IPv4.
    pub ipv4: bool,
    /// 0 UDP, 1 TCP, 2 SCTP.
    pub kind: u8,
}

impl Context {
    /// The two words of a context descriptor.
    pub fn of(low: u64, high: u64) -> Context {
        Context {
            ip: (low & 0x1FF) as usize,
            mac: (low >> 9 & 0x7F) as usize,
            l4: (high >> 40 & 0xFF) as usize,
            mss: (high >> 48) as usize,
            ipv4: high & 1 << 10 != 0,
            kind: (high >> 11 & 3) as u8,
        }
    }

    fn transport(&self) -> usize {
        self.mac + self.ip
    }

    /// Octets of all headers of a segment.
    pub fn header(&self) -> usize {
        self.mac + self.ip + self.l4
    }

    /// Where the transport header's checksum is.
    fn field(&self) -> usize {
        self.transport() + if self.kind == 1 { TCP_CHECK } else { UDP_CHECK }
    }

    /// Compares what the driver says of the frame with the frame. An error is told, and the card goes on. Which IP it is
    /// matters if the IP header changes.
    pub fn doubt(&self, frame: &[u8], ip: bool, complaints: &mut Complaints) {
        let version = frame.get(self.mac).map_or(0, |first| first >> 4);
        if ip && version != if self.ipv4 { 4 } else { 6 } {
            complaints
                .add(format!("a context says MACLEN {} and IPv4 {}; there is version {version}", self.mac, self.ipv4));
        }
        let protocol = frame.get(self.mac + if version == 4 { 9 } else { 6 }).copied();
        let said = [17, 6, 132].get(usize::from(self.kind)).copied();
        // Behind extension headers, the driver knows better.
        if (version == 4 || self.ip == 40) && protocol != said {
            complaints.add(format!("a context says L4T {}; the protocol is {protocol:?}", self.kind));
        }
    }
}

/// Inserts checksums into a frame that is not segmented: the IP header's and the transport's, as asked for.
pub fn insert(frame: &mut [u8], context: &Context, ip: bool, transport: bool, complaints: &mut Complaints) {
    context.doubt(frame, ip, complaints);
    if ip {
        insert_ip(frame, context);
    }
    let from = context.transport();
    if !transport || from >= frame.len() {
        return;
    }
    if context.kind == 2 {
        let crc = frame.get(from..).map_or(0, |packet| crc(packet, 0x82F6_3B78));
        if let Some(field) = frame.get_mut(from + SCTP_CHECK..from + SCTP_CHECK + 4) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        return;
    }
    // The driver has left the pseudo-header's sum in the field.
    let value = fold(frame.get(from..).map_or(0, |segment| sum(segment, 0)));
    put(frame, context.field(), if context.kind == 0 && value == 0 { 0xFFFF } else { value });
}

/// The checksum of an IPv4 header that has changed.
pub fn renew_ip(header: &mut [u8]) {
    put(header, 10, 0);
    let value = fold(sum(header, 0));
    put(header, 10, value);
}

fn insert_ip(frame: &mut [u8], context: &Context) {
    let header = frame.get(context.mac..context.transport()).map_or(0, |header| sum(header, 0));
    put(frame, context.mac + 10, fold(header));
}

/// Cuts a frame into segments (data sheet, 7.2.4).
pub struct Segments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    context: Context,
    /// Masks of TCP's flags in the first, in middle and in the last segments (DTXTCPFLGL, DTXTCPFLGH).
    masks: [u16; 3],
    next: usize,
}

impl<'a> Segments<'a> {
    /// The frame must be longer than its headers and be cut somewhere; none otherwise.
    pub fn of(frame: &'a [u8], context: Context, [low, high]: [u32; 2]) -> Option<Segments<'a>> {
        let (header, payload) = frame.split_at_checked(context.header())?;
        let least = if context.kind == 1 { 20 } else { 8 };
        let valid = context.mss > 0 && context.kind < 2 && context.l4 >= least && !payload.is_empty();
        let masks = [low as u16, (low >> 16) as u16, high as u16];
        valid.then_some(Segments { header, payload, context, masks, next: 0 })
    }

    /// Writes the next segment into an empty buffer. False: there is none.
    pub fn next(&mut self, segment: &mut Vec<u8>) -> bool {
        let from = self.next * self.context.mss;
        let Some(rest) = self.payload.get(from..).filter(|rest| !rest.is_empty()) else { return false };
        let piece = rest.get(..self.context.mss).unwrap_or(rest);
        segment.extend_from_slice(self.header);
        segment.extend_from_slice(piece);
        let last = piece.len() == rest.len();
        self.network(segment);
        self.transport(segment, last);
        self.next += 1;
        true
    }

    fn network(&self, segment: &mut [u8]) {
        let (mac, len) = (self.context.mac, segment.len() - self.context.mac);
        if !self.context.ipv4 {
            return put(segment, mac + 4, (len - 40) as u16);
        }
        put(segment, mac + 2, len as u16);
        let id = word(segment, mac + 4).unwrap_or(0);
        put(segment, mac + 4, id.wrapping_add(self.next as u16));
        insert_ip(segment, &self.context);
    }

    fn transport(&self, segment: &mut [u8], last: bool) {
        let from = self.context.transport();
        let len = segment.len() - from;
        if self.context.kind == 1 {
            let high = word(segment, from + 4).unwrap_or(0);
            let low = word(segment, from + 6).unwrap_or(0);
            let sequence = (u32::from(high) << 16 | u32::from(low)).wrapping_add((self.next * self.context.mss) as u32);
            put(segment, from + 4, (sequence >> 16) as u16);
            put(segment, from + 6, sequence as u16);
            let flags = word(segment, from + 12).unwrap_or(0);
            let mask = match (self.next, last) {
                (0, true) => self.masks[0] | self.masks[2],
                (_, true) => self.masks[2],
                (0, false) => self.masks[0],
                (_, false) => self.masks[1],
            };
            put(segment, from + 12, flags & (mask | 0xF000));
        } else {
            put(segment, from + 4, len as u16);
        }
        // The driver has left the pseudo-header's sum without a length in the field.
        let value = fold(segment.get(from..).map_or(0, |segment| sum(segment, len as u64)));
        put(segment, self.context.field(), if self.context.kind == 0 && value == 0 { 0xFFFF } else { value });
    }
}

#[cfg(test)]
mod tests;
