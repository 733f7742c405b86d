//! Writes messages, byte by byte from the RFCs and not from the parser: for tests and fuzzers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what it writes is a test's")]

use std::net::{Ipv4Addr, Ipv6Addr};

use sv3::frame::MacAddr;

/// RFC 1071, plainly.
fn check(octets: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The Ethernet address of a group.
pub fn group_mac(group: &str) -> MacAddr {
    match group.parse::<Ipv4Addr>() {
        Ok(group) => {
            let [_, b, c, d] = group.octets();
            MacAddr::new([1, 0, 0x5e, b & 0x7f, c, d])
        }
        Err(_) => {
            let octets = group.parse::<Ipv6Addr>().unwrap().octets();
            MacAddr::new([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
        }
    }
}

/// An IPv4 packet with the option Router Alert.
pub fn ipv4(from: &str, to: &str, protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = (24 + body.len()) as u16;
    let mut header = vec![0x46, 0xc0, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 1, protocol, 0, 0];
    header.extend(from.parse::<Ipv4Addr>().unwrap().octets());
    header.extend(to.parse::<Ipv4Addr>().unwrap().octets());
    header.extend([0x94, 4, 0, 0]);
    let sum = check(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, body].concat()
}

/// An IGMP message, with its checksum, in a packet.
pub fn igmp(from: &str, to: &str, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body[2..4].fill(0);
    let sum = check(&body);
    body[2..4].copy_from_slice(&sum);
    ipv4(from, to, 2, &body)
}

/// An ICMPv6 message, with its checksum, in a packet with Router Alert.
pub fn icmpv6(from: &str, to: &str, body: &[u8]) -> Vec<u8> {
    let [from, to] = [from, to].map(|address| address.parse::<Ipv6Addr>().unwrap().octets());
    let mut body = body.to_vec();
    body[2..4].fill(0);
    let len = (body.len() as u32).to_be_bytes();
    let sum = check(&[&from[..], &to, &len, &[0, 0, 0, 58], &body].concat());
    body[2..4].copy_from_slice(&sum);
    let len = ((8 + body.len()) as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], 0, 1], &from[..], &to, &[58, 0, 5, 2, 0, 0, 1, 0], &body].concat()
}

/// An IPv4 address's octets.
pub fn v4(address: &str) -> [u8; 4] {
    address.parse::<Ipv4Addr>().unwrap().octets()
}

/// An IPv6 address's octets.
pub fn v6(address: &str) -> [u8; 16] {
    address.parse::<Ipv6Addr>().unwrap().octets()
}

/// IGMPv2: type, maximum response time, group; and IGMPv1 with a time of 0.
pub fn igmp2(kind: u8, code: u8, group: &str) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &v4(group)].concat()
}

/// A query of IGMPv3.
pub fn igmp3_query(code: u8, group: &str, flags: u8, interval: u8, sources: &[&str]) -> Vec<u8> {
    let mut out = [igmp2(0x11, code, group), vec![flags, interval, 0, sources.len() as u8]].concat();
    sources.iter().for_each(|source| out.extend(v4(source)));
    out
}

/// A report of IGMPv3: type, group and sources of each record.
pub fn igmp3_report(records: &[(u8, &str, &[&str])]) -> Vec<u8> {
    let mut out = vec![0x22, 0, 0, 0, 0, 0, 0, records.len() as u8];
    for (kind, group, sources) in records {
        out.extend([*kind, 0, 0, sources.len() as u8]);
        out.extend(v4(group));
        sources.iter().for_each(|source| out.extend(v4(source)));
    }
    out
}

/// MLDv1: type, maximum response time, group.
pub fn mld1(kind: u8, response: u16, group: &str) -> Vec<u8> {
    let [high, low] = response.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 0][..], &v6(group)].concat()
}

/// A query of MLDv2.
pub fn mld2_query(response: u16, group: &str, flags: u8, interval: u8, sources: &[&str]) -> Vec<u8> {
    let mut out = [mld1(130, response, group), vec![flags, interval, 0, sources.len() as u8]].concat();
    sources.iter().for_each(|source| out.extend(v6(source)));
    out
}

/// A report of MLDv2.
pub fn mld2_report(records: &[(u8, &str, &[&str])]) -> Vec<u8> {
    let mut out = vec![143, 0, 0, 0, 0, 0, 0, records.len() as u8];
    for (kind, group, sources) in records {
        out.extend([*kind, 0, 0, sources.len() as u8]);
        out.extend(v6(group));
        sources.iter().for_each(|source| out.extend(v6(source)));
    }
    out
}
