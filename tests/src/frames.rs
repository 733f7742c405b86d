//! Frames for scenarios: plain ones, and TCP, UDP and ICMP with everything that a checksum or a segmentation touches.
//!
//! What comes out of the switch is judged by [`Packet::assert_arrived`], which knows nothing of how the switch does it:
//! it reads what stands in the frames and compares with what was meant.

use crate::guest::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, NetHdr, Received};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// To all.
pub const BROADCAST: Mac = [0xff; 6];

/// The address of station `n`.
pub fn mac(n: u8) -> Mac {
    [0x52, 0x54, 0, 0, 1, n]
}

/// A frame of the ethertype for local experiments (IEEE 802, 9.2.3).
pub fn frame(dst: Mac, src: Mac, payload: &[u8]) -> Vec<u8> {
    [dst.as_slice(), &src, &[0x88, 0xb5], payload].concat()
}

/// A frame of exactly `octets`, at least 14, with a payload that is not the same at any two places or for any two
/// seeds.
pub fn noise(dst: Mac, src: Mac, octets: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut out = frame(dst, src, &[]);
    out.extend((14..octets).map(|_| {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    }));
    out
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these flags and this many octets of options, a multiple of 4.
    Tcp {
        /// Flags: [`FIN`], [`PSH`] ...
        flags: u8,
        /// Octets of options.
        options: usize,
    },
    /// UDP.
    Udp,
    /// An echo request.
    Icmp,
}

/// TCP flags.
pub const FIN: u8 = 0x01;
/// Push.
pub const PSH: u8 = 0x08;
/// Acknowledgement.
pub const ACK: u8 = 0x10;
/// Echo of congestion experienced.
pub const ECE: u8 = 0x40;
/// Congestion window reduced.
pub const CWR: u8 = 0x80;

const TCP: Transport = Transport::Tcp { flags: ACK | PSH, options: 12 };

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Of IPv6, else of IPv4.
    pub v6: bool,
    /// VLAN tags in front of the IP header.
    pub tags: usize,
    /// Octets of IPv4 options, at most 40, or of IPv6 extension headers; a multiple of 8.
    pub options: usize,
    /// What it carries.
    pub transport: Transport,
    /// The payload.
    pub payload: Vec<u8>,
}

const SEQUENCE: u32 = 0xffff_f000;
const ADDRESSES: [u8; 8] = [10, 0, 0, 1, 10, 0, 0, 2];

impl Packet {
    /// TCP from station 1 to station 2, with timestamps' worth of options and a payload of noise.
    pub fn tcp(v6: bool, payload: usize) -> Packet {
        Packet::new(v6, TCP, payload)
    }

    /// UDP from station 1 to station 2.
    pub fn udp(v6: bool, payload: usize) -> Packet {
        Packet::new(v6, Transport::Udp, payload)
    }

    /// An echo request from station 1 to station 2.
    pub fn icmp(v6: bool, payload: usize) -> Packet {
        Packet::new(v6, Transport::Icmp, payload)
    }

    fn new(v6: bool, transport: Transport, payload: usize) -> Packet {
        let payload = noise(mac(2), mac(1), 14 + payload, payload as u32).split_off(14);
        Packet { dst: mac(2), src: mac(1), v6, tags: 0, options: 0, transport, payload }
    }

    /// With VLAN tags.
    pub fn tagged(self, tags: usize) -> Packet {
        Packet { tags, ..self }
    }

    /// With options of IPv4, or extension headers of IPv6: hop-by-hop options, and destination options in all but the
    /// first 8 octets.
    pub fn optioned(self, options: usize) -> Packet {
        Packet { options, ..self }
    }

    /// With TCP flags.
    pub fn flags(self, flags: u8) -> Packet {
        Packet { transport: Transport::Tcp { flags, options: 12 }, ..self }
    }

    /// The frame as it is on a wire, if it could be one of this length.
    pub fn on_the_wire(&self) -> Vec<u8> {
        let (hdr, frame) = self.unfinished();
        finish(&hdr, frame)
    }

    /// The frame with its checksum left to others.
    pub fn unfinished(&self) -> (NetHdr, Vec<u8>) {
        let start = self.transport_at();
        let offset = match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
            Transport::Icmp => 2,
        };
        let mut frame = [self.link(), self.network(), self.segment()].concat();
        let seed = match self.transport {
            Transport::Icmp if !self.v6 => 0,
            _ => fold(self.pseudo(frame.len() - start)),
        };
        put(&mut frame, start + offset, &seed.to_be_bytes());
        let hdr =
            NetHdr { flags: NEEDS_CSUM, csum_start: start as u16, csum_offset: offset as u16, ..NetHdr::default() };
        (hdr, frame)
    }

    /// The frame with checksum and segmentation left to others.
    pub fn unsegmented(&self, gso_size: u16) -> (NetHdr, Vec<u8>) {
        let (hdr, frame) = self.unfinished();
        let reduced = matches!(self.transport, Transport::Tcp { flags, .. } if flags & CWR != 0);
        let gso_type = match (self.transport, self.v6) {
            (Transport::Udp, _) => GSO_UDP_L4,
            (_, true) => GSO_TCPV6,
            (_, false) => GSO_TCPV4,
        } | if reduced { GSO_ECN } else { 0 };
        let hdr_len = (frame.len() - self.payload.len()) as u16;
        (NetHdr { gso_type, gso_size, hdr_len, ..hdr }, frame)
    }

    /// Asserts that what was received is this packet: either whole, with the work left to the receiver, or in segments
    /// of `mss` that are right in every field.
    #[track_caller]
    pub fn assert_arrived(&self, mss: u16, received: &[Received]) {
        let whole = self.unsegmented(mss);
        if let [Received { hdr, frame, .. }] = received
            && hdr.gso_type != GSO_NONE
        {
            assert_eq!(NetHdr { num_buffers: 0, ..*hdr }, whole.0);
            assert!(*frame == whole.1, "the frame was changed on its way");
            return;
        }
        let parts = self.parts(mss);
        for (index, (part, expected)) in received.iter().zip(&parts).enumerate() {
            assert_eq!(part.hdr.gso_type, GSO_NONE, "number {index} of {} is not segmented", received.len());
            let octets = finish(&part.hdr, part.frame.clone());
            let expected = finish(&expected.0, expected.1.clone());
            assert_eq!(octets.len(), expected.len(), "octets of segment {index}");
            let differs = octets.iter().zip(&expected).position(|(got, wanted)| got != wanted);
            assert_eq!(differs, None, "segment {index}, where transport begins at {}", self.transport_at());
        }
        assert_eq!(received.len(), parts.len(), "segments");
    }

    /// The packet in segments of `mss`, each with its checksum left to others.
    pub fn parts(&self, mss: u16) -> Vec<(NetHdr, Vec<u8>)> {
        let mss = usize::from(mss);
        let count = self.payload.len().div_ceil(mss).max(1);
        (0..count).map(|index| self.part(index, index * mss, mss.min(self.payload.len() - index * mss))).collect()
    }

    /// One segment, from the definition of segmentation: the same headers, but for lengths, sequence number,
    /// identification, checksums, and the flags that belong to the first or the last.
    fn part(&self, index: usize, done: usize, len: usize) -> (NetHdr, Vec<u8>) {
        let transport = match self.transport {
            Transport::Tcp { flags, options } => {
                let not_first = if index > 0 { CWR } else { 0 };
                let not_last = if done + len < self.payload.len() { FIN | PSH } else { 0 };
                Transport::Tcp { flags: flags & !not_first & !not_last, options }
            }
            other => other,
        };
        let part = Packet { transport, payload: self.payload.iter().skip(done).take(len).copied().collect(), ..*self };
        let (hdr, mut frame) = part.unfinished();
        let (l3, l4) = (self.network_at(), self.transport_at());
        if matches!(transport, Transport::Tcp { .. }) {
            put(&mut frame, l4 + 4, &SEQUENCE.wrapping_add(done as u32).to_be_bytes());
        }
        if !self.v6 {
            put(&mut frame, l3 + 4, &(7 + index as u16).to_be_bytes());
            put(&mut frame, l3 + 10, &[0, 0]);
            let sum = !fold(sum(&frame, l3, l4));
            put(&mut frame, l3 + 10, &sum.to_be_bytes());
        }
        (hdr, frame)
    }

    fn network_at(&self) -> usize {
        14 + 4 * self.tags
    }

    fn transport_at(&self) -> usize {
        self.network_at() + self.options + if self.v6 { 40 } else { 20 }
    }

    fn link(&self) -> Vec<u8> {
        let tags = [0x81, 0x00, 0x00, 0x05].repeat(self.tags);
        let ethertype = if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        [self.dst.as_slice(), &self.src, &tags, &ethertype].concat()
    }

    fn network(&self) -> Vec<u8> {
        let (protocol, len) = (self.protocol(), self.options + self.segment().len());
        if self.v6 {
            let [source, destination] = self.addresses6();
            let [high, low] = (len as u16).to_be_bytes();
            let (next, extensions) = self.extensions();
            return [&[0x60, 0, 0, 0, high, low, next, 64], source.as_slice(), &destination, &extensions].concat();
        }
        let [high, low] = ((20 + len) as u16).to_be_bytes();
        let ihl = 0x45 + (self.options / 4) as u8;
        let fixed = [&[ihl, 0, high, low, 0, 7, 0, 0, 64, protocol, 0, 0], ADDRESSES.as_slice()].concat();
        // Options that do nothing.
        let mut header = [fixed, vec![1; self.options]].concat();
        let sum = !fold(sum(&header, 0, header.len()));
        put(&mut header, 10, &sum.to_be_bytes());
        header
    }

    /// The first header's type behind the fixed header of IPv6, and extension headers that do nothing.
    fn extensions(&self) -> (u8, Vec<u8>) {
        const PAD_4: [u8; 6] = [1, 4, 0, 0, 0, 0];
        let (hop_by_hop, destination, protocol) = (0, 60, self.protocol());
        match self.options {
            0 => (protocol, vec![]),
            8 => (hop_by_hop, [&[protocol, 0], PAD_4.as_slice()].concat()),
            octets => {
                let padding = vec![0; octets - 16];
                let units = (padding.len() / 8) as u8;
                let first = [&[destination, 0], PAD_4.as_slice()].concat();
                (hop_by_hop, [first, vec![protocol, units], PAD_4.to_vec(), padding].concat())
            }
        }
    }

    fn addresses6(&self) -> [Vec<u8>; 2] {
        [1, 2].map(|n| [vec![0xfd], vec![0; 14], vec![n]].concat())
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
            Transport::Icmp if self.v6 => 58,
            Transport::Icmp => 1,
        }
    }

    /// Transport header, with a checksum of zero, and payload.
    fn segment(&self) -> Vec<u8> {
        let header = match self.transport {
            Transport::Tcp { flags, options } => {
                let words = (5 + options / 4) as u8;
                let fixed = [&[0x1f, 0x90, 0x9c, 0x40], SEQUENCE.to_be_bytes().as_slice(), &[1, 2, 3, 4]].concat();
                // Window, checksum, urgent pointer, options that do nothing.
                [fixed, vec![words << 4, flags, 0x72, 0x10, 0, 0, 0, 0], vec![1; options]].concat()
            }
            Transport::Udp => {
                let [high, low] = ((8 + self.payload.len()) as u16).to_be_bytes();
                vec![0x1f, 0x90, 0x9c, 0x40, high, low, 0, 0]
            }
            Transport::Icmp => vec![if self.v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1],
        };
        [header, self.payload.clone()].concat()
    }

    /// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
    fn pseudo(&self, len: usize) -> u64 {
        let addresses = if self.v6 { self.addresses6().concat() } else { ADDRESSES.to_vec() };
        sum(&addresses, 0, addresses.len()) + u64::from(self.protocol()) + len as u64
    }
}

/// Does what a header leaves to the receiver, but for segmentation.
#[track_caller]
pub fn finish(hdr: &NetHdr, mut frame: Vec<u8>) -> Vec<u8> {
    if hdr.flags & NEEDS_CSUM != 0 {
        let start = usize::from(hdr.csum_start);
        assert!(start + usize::from(hdr.csum_offset) + 2 <= frame.len(), "{hdr:?} points behind the frame's end");
        let sum = match !fold(sum(&frame, start, frame.len())) {
            // RFC 768: zero means that there is none. For TCP both mean the same.
            0 => 0xffff,
            sum => sum,
        };
        put(&mut frame, start + usize::from(hdr.csum_offset), &sum.to_be_bytes());
    }
    frame
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    for (place, octet) in octets.iter_mut().skip(at).zip(value) {
        *place = *octet;
    }
}

/// RFC 1071: the sum of 16-bit words; an odd octet counts as the high half of one.
fn sum(octets: &[u8], from: usize, to: usize) -> u64 {
    let words = octets.get(from..to).unwrap_or_default().chunks(2);
    words.map(|word| word.iter().zip([256, 1]).map(|(octet, weight)| u64::from(*octet) * weight).sum::<u64>()).sum()
}

fn fold(sum: u64) -> u16 {
    match u16::try_from(sum) {
        Ok(sum) => sum,
        Err(_) => fold((sum >> 16) + (sum & 0xffff)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_rfc_1071() {
        // The example of its section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0, 8)), 0xddf2);
    }

    #[test]
    fn a_finished_packet_sums_to_all_ones() {
        for v6 in [false, true] {
            for payload in [0, 1, 1000, 1447] {
                for packet in [
                    Packet::tcp(v6, payload),
                    Packet::udp(v6, payload).tagged(1),
                    Packet::tcp(v6, payload).tagged(2),
                    Packet::tcp(v6, payload).optioned(8),
                    Packet::udp(v6, payload).optioned(40),
                ] {
                    let (frame, l4) = (packet.on_the_wire(), packet.transport_at());
                    assert_eq!(fold(packet.pseudo(frame.len() - l4) + sum(&frame, l4, frame.len())), 0xffff);
                    if !v6 {
                        assert_eq!(fold(sum(&frame, packet.network_at(), l4)), 0xffff);
                    }
                }
            }
        }
    }

    #[test]
    fn a_known_packet_is_made_octet_by_octet() {
        // An echo request as tcpdump printed one: type 8, id 1, sequence 1, no payload.
        let frame = Packet::icmp(false, 0).on_the_wire();
        assert_eq!(frame[34..], [8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
        assert_eq!(frame[14..34], [0x45, 0, 0, 28, 0, 7, 0, 0, 64, 1, 0x66, 0xd8, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
}
