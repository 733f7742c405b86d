//! What goes over the rings: frames with addresses and a number in the head, and with the sender's buffer in the rest.
//!
//! A buffer is looked at in words of eight octets. Words 0 to 3 are the net header, the addresses and the begin of what
//! follows; one more is the frame's number; the others were written once and tell which buffer and place they are of.

use std::sync::atomic::Ordering::Relaxed;

use sv3_tests::guest::feature::{CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4};
use sv3_tests::guest::{GSO_TCPV4, NEEDS_CSUM};

use crate::memory::Memory;

/// Octets of the net header in front of a frame.
pub const HEADER: usize = 12;
/// Octets of Ethernet, IPv4 and TCP headers in front of a segment's payload.
const TCP_HEADERS: u64 = 54;
/// What a large segment is to be cut into.
const MSS: u64 = 1448;

/// The kind of frames of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Octets of the Ethernet frame.
    pub octets: usize,
    /// One TCP segment, for the receiver's side to cut up where needed.
    pub tso: bool,
    /// IPv4 and UDP from 10.0.0.1 or 10.0.0.2 to the other one, by the last octet of the source.
    pub udp: Option<u8>,
}

impl Shape {
    /// Plain frames.
    pub fn plain(octets: usize) -> Shape {
        Shape { octets, tso: false, udp: None }
    }

    /// UDP over IPv4 from a host, 1 or 2.
    pub fn udp(octets: usize, host: u8) -> Shape {
        Shape { udp: Some(host), ..Shape::plain(octets) }
    }

    /// Those of most interest.
    pub fn usual() -> Vec<Shape> {
        let plain = [64, 256, 512, 1518, 9000].map(Shape::plain);
        plain.into_iter().chain([Shape::large_segment()]).collect()
    }

    /// A TCP segment of nearly 64 KiB.
    pub fn large_segment() -> Shape {
        Shape { octets: 65_536 - 14, tso: true, udp: None }
    }

    /// For a table.
    pub fn words(self) -> String {
        if self.tso { "TSO segments of 64 KiB".to_string() } else { format!("{} B", self.octets) }
    }

    /// Features that sender and receiver need for it.
    pub fn features(self) -> u64 {
        if self.tso { CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4 } else { 0 }
    }

    /// How many buffers a sender has for so many entries: fewer large ones, so that the caches' size is not what is
    /// measured.
    pub fn buffers(self, entries: u16) -> usize {
        if self.tso { 32 } else { usize::from(entries) }
    }

    /// Octets with the net header.
    pub fn total(self) -> usize {
        self.octets + HEADER
    }

    /// Where the frame's number is.
    pub fn number_at(self) -> usize {
        match (self.tso, self.udp) {
            (true, _) => 72,
            (false, Some(_)) => 56,
            (false, None) => 32,
        }
    }

    /// The words 0 to 3, but for the addresses, which are in 1 and 2.
    fn head(self) -> [u64; 4] {
        // 0x88b5, the ethertype for local experiments.
        let plain = [0, 0, 0, 0xb588];
        // Ethertype, version, length.
        let length = ((self.octets - 14) as u16).swap_bytes();
        let behind = 0x0008 | 0x45 << 16 | u64::from(length) << 32;
        match (self.tso, self.udp) {
            (true, _) => {}
            (false, Some(_)) => return [0, 0, 0, behind],
            (false, None) => return plain,
        }
        let (checksum_start, checksum_offset) = (34, 16);
        let first =
            [u64::from(NEEDS_CSUM), u64::from(GSO_TCPV4) << 8, TCP_HEADERS << 16, MSS << 32, checksum_start << 48];
        [first.iter().sum(), checksum_offset, 0, behind]
    }

    /// Writes buffer number `slot` as it stays, but for head and number.
    pub fn fill(self, memory: &Memory, at: usize, slot: usize) {
        for word in 4..self.total().div_ceil(8) {
            memory.word64(at + 8 * word).store(self.word(slot, word), Relaxed);
        }
    }

    /// The word at a place of a buffer that was filled.
    pub fn word(self, slot: usize, word: usize) -> u64 {
        if let Some(host) = self.udp
            && word < 7
        {
            return self.udp_word(host, word);
        }
        match (self.tso, word) {
            // From the IP header's fifth octet on: no fragment, 64 hops, TCP, no checksum, 10.0.0.1 to 10.0.0.2.
            (true, 4) => u64::from_le_bytes([0x40, 0, 64, 6, 0, 0, 10, 0]),
            (true, 5) => u64::from_le_bytes([0, 1, 10, 0, 0, 2, 0x13, 0x88]),
            (true, 6) => u64::from_le_bytes([0x13, 0x89, 0, 0, 0, 1, 0, 0]),
            // Five words of header, ACK, a window.
            (true, 7) => u64::from_le_bytes([0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0]),
            (true, 8) => 0,
            _ => (slot as u64 * 65_537 + word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// The words 4 to 6 of a UDP frame: the IP header from its seventh octet on, ports, length, no checksum of UDP.
    fn udp_word(self, host: u8, word: usize) -> u64 {
        let [_, _, high, low] = ((self.octets - 34) as u32).to_be_bytes();
        // The sum of the header's other words is the same for both hosts.
        let sum = 0x9914 + self.octets as u32 - 14;
        let [sum_high, sum_low] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
        u64::from_le_bytes(match word {
            4 => [0, 0, 64, 17, sum_high, sum_low, 10, 0],
            5 => [0, host, 10, 0, 0, 3 - host.clamp(1, 2), 0x13, 0x88],
            _ => [0x13, 0x89, high, low, 0, 0, 0, 0],
        })
    }

    /// Writes head and number.
    #[inline(always)]
    pub fn compose(self, memory: &Memory, at: usize, (to, from): (Station, Station), number: u32) {
        let [first, second, third, fourth] = self.head();
        memory.word64(at).store(first, Relaxed);
        memory.word64(at + 8).store(second | to.0 << 32, Relaxed);
        memory.word64(at + 16).store(third | to.0 >> 32 | from.0 << 16, Relaxed);
        memory.word64(at + 24).store(fourth, Relaxed);
        memory.word64(at + self.number_at()).store(number.into(), Relaxed);
    }
}

/// An Ethernet address, its first octet lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station(u64);

impl Station {
    /// Broadcast.
    pub const ALL: Station = Station(0xffff_ffff_ffff);

    /// Station `n` behind a port.
    pub fn new(port: usize, n: usize) -> Station {
        let ([_, _, _, port], [.., high, low]) = ((port as u32).to_be_bytes(), (n as u32).to_be_bytes());
        Station(u64::from_le_bytes([0x52, 0x54, 1, port, high, low, 0, 0]))
    }
}
