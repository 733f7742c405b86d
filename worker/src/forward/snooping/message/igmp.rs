//! IGMP of all versions, and what else IPv4 says of multicast routers.

use std::net::Ipv4Addr;

use sv3::frame::MacAddr;
use sv3::groups::Family;

use super::{Change, Content, Message, PIM, PIM_HELLO, Query, Records, floating, mac_of_v4, records, u16_at, v4_at};
use crate::memory::checksum::sum;

/// The protocol of IGMP.
pub const PROTOCOL: u8 = 2;
/// Octets of an IPv4 header without options.
const IPV4_LEN: usize = 20;

const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_PIM_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 13);
const ALL_SNOOPERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 106);

/// A tenth of a second, in nanoseconds: the unit of IGMP's times.
const TENTH: u64 = 100_000_000;
/// The answers to a query of IGMPv1 come in ten seconds (RFC 2236, 4).
const V1_RESPONSE: u64 = 100 * TENTH;

/// Reads an IPv4 packet. `None`: it is malformed.
pub fn parse(dst: MacAddr, packet: &[u8]) -> Option<Message<'_>> {
    let first = *packet.first()?;
    let (header, total) = (usize::from(first & 0xf) * 4, usize::from(u16_at(packet, 2)?));
    if first >> 4 != 4 || header < IPV4_LEN || sum(packet.get(..header)?, 0) != 0xffff {
        return None;
    }
    let (source, to) = (v4_at(packet, 12)?, v4_at(packet, 16)?);
    // Behind the packet may be padding.
    let body = packet.get(header..total)?;
    let is_fragment = u16_at(packet, 6)? & 0x3fff != 0;
    if is_fragment || !to.is_multicast() {
        return Some(Message::Other);
    }
    if mac_of_v4(to) != dst || source.is_multicast() || source.is_broadcast() {
        return None;
    }
    match *packet.get(9)? {
        PIM if to == ALL_PIM_ROUTERS && body.first() == Some(&PIM_HELLO) => Some(Message::Router),
        PROTOCOL => igmp((source, to), body),
        _ => Some(Message::Other),
    }
}

fn igmp((source, to): (Ipv4Addr, Ipv4Addr), body: &[u8]) -> Option<Message<'_>> {
    if sum(body, 0) != 0xffff {
        return None;
    }
    let group = || v4_at(body, 4).filter(Ipv4Addr::is_multicast).map(mac_of_v4);
    let one = |change| Some(Message::Report(Records(Content::One(group()?, change))));
    match body.first()? {
        0x11 => query((source, to), body),
        // Reports of version 1 and 2 go to their group (RFC 2236, 9).
        0x12 | 0x16 if v4_at(body, 4) == Some(to) => one(Change::Joined),
        0x12 | 0x16 => None,
        // Some hosts say to the group itself that they leave it (RFC 2236, 3).
        0x17 => one(Change::Left),
        0x22 => records(Family::V4, body.get(8..)?, u16_at(body, 6)?),
        0x30 if to == ALL_SNOOPERS => Some(Message::Router),
        0x32 if to == ALL_SNOOPERS => Some(Message::RouterGone),
        _ => Some(Message::Other),
    }
}

/// A query; its length tells the version (RFC 3376, 7.1).
fn query((source, to): (Ipv4Addr, Ipv4Addr), body: &[u8]) -> Option<Message<'_>> {
    let (code, about) = (*body.get(1)?, v4_at(body, 4)?);
    let group = match about.is_unspecified() {
        true if to == ALL_HOSTS => None,
        false if about.is_multicast() && about == to => Some(mac_of_v4(about)),
        _ => return None,
    };
    let source = source.to_bits().into();
    let query = Query { source, group, lowers: group.is_some(), response_ns: 0, interval_s: 0, robustness: 0 };
    Some(Message::Query(match body.len() {
        8 if code == 0 => Query { response_ns: V1_RESPONSE, lowers: false, ..query },
        8 => Query { response_ns: u64::from(code) * TENTH, ..query },
        12.. => {
            let (flags, sources) = (*body.get(8)?, u16_at(body, 10)?);
            body.get(12..12 + usize::from(sources) * 4)?;
            Query {
                response_ns: u64::from(floating(code)) * TENTH,
                lowers: query.lowers && flags & 8 == 0 && sources == 0,
                interval_s: floating(*body.get(9)?),
                robustness: flags & 7,
                ..query
            }
        }
        _ => return None,
    }))
}
