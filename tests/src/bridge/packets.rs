//! Packets to groups.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frames::{Mac, mac};

const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Hop-by-hop options: router alert (RFC 2711), and two octets of padding. Behind them ICMPv6.
const ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// The internet checksum (RFC 1071) of octets.
fn sum(octets: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut sum: u32 = octets.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

/// A packet of station `n` to a group, with a router alert (RFC 2113).
fn ipv4(n: u8, to: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let [_, b, c, d] = to.octets();
    let dst: Mac = [1, 0, 0x5e, b & 0x7f, c, d];
    let len = (24 + body.len()) as u8;
    let mut header =
        [&[0x46, 0, 0, len, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 0, 0, 10 + n][..], &to.octets(), &[0x94, 4, 0, 0]]
            .concat();
    let checksum = sum(&header);
    header[10..12].copy_from_slice(&checksum);
    [&dst[..], &mac(n), &[8, 0], &header, body].concat()
}

/// A message of IGMP, whose checksum is made.
pub fn igmp(n: u8, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let checksum = sum(&message);
    message[2..4].copy_from_slice(&checksum);
    ipv4(n, to, IGMP, &message)
}

/// A datagram.
pub fn datagram(n: u8, to: Ipv4Addr) -> Vec<u8> {
    ipv4(n, to, UDP, &[0, 9, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4])
}

fn ipv6(n: u8, to: Ipv6Addr, (next, body): (u8, &[u8])) -> Vec<u8> {
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(n));
    let end = to.octets();
    let dst: Mac = [0x33, 0x33, end[12], end[13], end[14], end[15]];
    let header = [&[0x60, 0, 0, 0, 0, body.len() as u8, next, 1][..], &from.octets(), &to.octets()].concat();
    [&dst[..], &mac(n), &[0x86, 0xdd], &header, body].concat()
}

/// A message of MLD, whose checksum is made.
pub fn mld(n: u8, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let (addresses, len) = (ipv6(n, to, (0, &[]))[22..54].to_vec(), message.len() as u8);
    let mut message = message.to_vec();
    let checksum = sum(&[&addresses[..], &[0, 0, 0, len, 0, 0, 0, ICMPV6], &message].concat());
    message[2..4].copy_from_slice(&checksum);
    ipv6(n, to, (0, &[&ALERT[..], &message].concat()))
}

/// A datagram. Its checksum is nobody's business.
pub fn datagram6(n: u8, to: Ipv6Addr) -> Vec<u8> {
    ipv6(n, to, (UDP, &[0, 9, 0, 9, 0, 12, 0x12, 0x34, 1, 2, 3, 4]))
}
