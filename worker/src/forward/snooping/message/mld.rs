//! MLD of both versions, and what else IPv6 says of multicast routers.
//!
//! A message of MLD comes from a link-local address (a report may come from ::), with a hop limit of 1 and a Router Alert
//! option; whoever gets another one throws it away (RFC 3810, 5.1.14, 5.2.13 and 6).

use std::net::Ipv6Addr;

use sv3::frame::MacAddr;
use sv3::groups::Family;

use super::{Change, Content, Message, PIM, PIM_HELLO, Query, Records, floating, mac_of_v6, records, u16_at, v6_at};
use crate::memory::checksum::sum;

/// The next header of hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// The next header of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Octets of an IPv6 header.
const IPV6_LEN: usize = 40;
/// The option Router Alert with the value for MLD (RFC 2711, 2.1).
const ROUTER_ALERT: [u8; 4] = [5, 2, 0, 0];

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_PIM_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xd);
const ALL_SNOOPERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x6a);

/// A millisecond, in nanoseconds: the unit of MLD's times.
const MILLI: u64 = 1_000_000;

/// Reads an IPv6 packet. `None`: it is malformed.
pub fn parse(dst: MacAddr, packet: &[u8], sums: bool) -> Option<Message<'_>> {
    let payload = packet.get(IPV6_LEN..)?.get(..usize::from(u16_at(packet, 4)?))?;
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let (next, hops) = (*packet.get(6)?, *packet.get(7)?);
    let (source, to) = (v6_at(packet, 8)?, v6_at(packet, 24)?);
    if !to.is_multicast() {
        return Some(Message::Other);
    }
    if mac_of_v6(to) != dst || source.is_multicast() {
        return None;
    }
    let (next, body, alerts) = match next {
        HOP_BY_HOP => options(payload)?,
        _ => (next, payload, false),
    };
    match next {
        PIM if to == ALL_PIM_ROUTERS && hops == 1 && body.first() == Some(&PIM_HELLO) => Some(Message::Router),
        ICMPV6 if matches!(body.first()?, 130..=132 | 143 | 151 | 153) => {
            let is_local = source.is_unicast_link_local();
            if !alerts || hops != 1 || sums && !is_whole((source, to), body) {
                return None;
            }
            mld((source, to), body, is_local)
        }
        _ => Some(Message::Other),
    }
}

/// The header behind the hop-by-hop options, its octets, and whether a Router Alert is among the options (RFC 8200, 4.3).
fn options(payload: &[u8]) -> Option<(u8, &[u8], bool)> {
    let len = (usize::from(*payload.get(1)?) + 1) * 8;
    let (header, body) = (payload.get(..len)?, payload.get(len..)?);
    let (mut rest, mut alerts) = (header.get(2..)?, false);
    while let Some(kind) = rest.first() {
        // Pad1 is the only option without a length.
        let len = if *kind == 0 { 1 } else { 2 + usize::from(*rest.get(1)?) };
        alerts |= rest.get(..len)? == ROUTER_ALERT;
        rest = rest.get(len..)?;
    }
    Some((*header.first()?, body, alerts))
}

/// Whether the checksum is right (RFC 4443, 2.3).
fn is_whole((source, to): (Ipv6Addr, Ipv6Addr), body: &[u8]) -> bool {
    let addresses = u64::from(sum(&source.octets(), 0)) + u64::from(sum(&to.octets(), 0));
    sum(body, addresses + body.len() as u64 + u64::from(ICMPV6)) == 0xffff
}

fn mld((source, to): (Ipv6Addr, Ipv6Addr), body: &[u8], is_local: bool) -> Option<Message<'_>> {
    let kind = *body.first()?;
    let may_report = is_local || source.is_unspecified();
    let group = || v6_at(body, 8).filter(Ipv6Addr::is_multicast).map(mac_of_v6);
    let one = |change| Some(Message::Report(Records(Content::One(group()?, change))));
    match kind {
        130 if is_local => query((source, to), body),
        131 if may_report && v6_at(body, 8) == Some(to) => one(Change::Joined),
        132 if may_report => one(Change::Left),
        143 if may_report => records(Family::V6, body.get(8..)?, u16_at(body, 6)?),
        151 if is_local && to == ALL_SNOOPERS => Some(Message::Router),
        153 if is_local && to == ALL_SNOOPERS => Some(Message::RouterGone),
        _ => None,
    }
}

/// A query; its length tells the version (RFC 3810, 8.1).
fn query((source, to): (Ipv6Addr, Ipv6Addr), body: &[u8]) -> Option<Message<'_>> {
    let (code, about) = (u16_at(body, 4)?, v6_at(body, 8)?);
    let group = match about.is_unspecified() {
        true if to == ALL_NODES => None,
        false if about.is_multicast() && about == to => Some(mac_of_v6(about)),
        _ => return None,
    };
    let source = source.to_bits();
    let query = Query { source, group, lowers: group.is_some(), response_ns: 0, interval_s: 0, robustness: 0 };
    Some(Message::Query(match body.len() {
        24 => Query { response_ns: u64::from(code) * MILLI, ..query },
        28.. => {
            let (flags, sources) = (*body.get(24)?, u16_at(body, 26)?);
            body.get(28..28 + usize::from(sources) * 16)?;
            Query {
                response_ns: u64::from(response(code)) * MILLI,
                lowers: query.lowers && flags & 8 == 0 && sources == 0,
                interval_s: floating(*body.get(25)?),
                robustness: flags & 7,
                ..query
            }
        }
        _ => return None,
    }))
}

/// A time in the form of RFC 3810, 5.1.3: from 32768 on, twelve bits of mantissa and three of exponent.
fn response(code: u16) -> u32 {
    match code {
        0..0x8000 => code.into(),
        _ => (u32::from(code & 0xfff) | 0x1000) << ((code >> 12 & 7) + 3),
    }
}
