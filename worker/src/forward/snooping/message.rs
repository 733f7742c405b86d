//! Reads the messages by which hosts and routers speak of groups: IGMP (RFC 1112, 2236, 3376), MLD (RFC 2710, 3810), and
//! what tells of routers: multicast router discovery (RFC 4286) and PIM's hello (RFC 7761, 4.9.2).
//!
//! The octets are a guest's. Every field is read by a checked accessor, every loop ends with the octets, and nothing is
//! allocated. A message is taken whole or not at all: what its receivers would throw away (a wrong checksum, a record that
//! does not fit, a report from nowhere) is [`Message::Malformed`] and must change nothing. Nor does what is not understood,
//! [`Message::Other`]; the switch passes both on like any frame.

mod igmp;
mod mld;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
pub mod write;

use std::net::{Ipv4Addr, Ipv6Addr};

use sv3::frame::MacAddr;
use sv3::groups::Family;

/// Longest message that is read, in octets of its frame. The largest of an MTU of 1,500 fits.
pub const MESSAGE_MAX: usize = 2048;

/// What a frame says of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Somebody asks for members.
    Query(Query),
    /// A host joins or leaves groups.
    Report(Records<'a>),
    /// There is a router that wants all groups.
    Router,
    /// It ends.
    RouterGone,
    /// Something else, or of a kind that is not known.
    Other,
    /// It says nothing that anybody may believe.
    Malformed,
}

/// A question for members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Who asks: an address of its family, as a number. 0: an IPv4 host that must not be taken for a router.
    pub source: u128,
    /// The group that it asks about; `None`: all.
    pub group: Option<MacAddr>,
    /// Members that do not answer in time are members no longer: it is about one group, about all of its sources, and
    /// routers are not told to keep their timers (RFC 3376, 4.1.5).
    pub lowers: bool,
    /// In which members answer, in nanoseconds.
    pub response_ns: u64,
    /// Seconds between such queries; 0: it does not say.
    pub interval_s: u32,
    /// How many of its queries may be lost (QRV); 0: it does not say.
    pub robustness: u8,
}

/// What became of a group at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is a member.
    Joined,
    /// One has left; perhaps others are there.
    Left,
}

/// The groups of a report, in a message that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records<'a>(Content<'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content<'a> {
    One(MacAddr, Change),
    /// IGMPv3's or MLDv2's records.
    Many(Family, &'a [u8]),
}

/// Reads a packet behind its Ethernet header of this destination. `sums`: transport checksums are complete.
pub fn parse<'a>(dst: MacAddr, family: Family, packet: &'a [u8], sums: bool) -> Message<'a> {
    match family {
        Family::V4 => igmp::parse(dst, packet),
        Family::V6 => mld::parse(dst, packet, sums),
    }
    .unwrap_or(Message::Malformed)
}

/// Whether a packet may be a message, by its first octets: IPv4's protocol, or IPv6's first next header.
pub fn may_be_one(family: Family, packet: &[u8]) -> bool {
    match family {
        Family::V4 => packet.get(9).is_some_and(|protocol| [igmp::PROTOCOL, PIM].contains(protocol)),
        Family::V6 => packet.get(6).is_some_and(|next| [mld::HOP_BY_HOP, mld::ICMPV6, PIM].contains(next)),
    }
}

/// Whether a packet that may be a message may be a long report.
pub fn may_report(family: Family, packet: &[u8]) -> bool {
    match family {
        Family::V4 => packet.get(9) == Some(&igmp::PROTOCOL),
        Family::V6 => packet.get(6) == Some(&mld::HOP_BY_HOP),
    }
}

/// The protocol of PIM.
const PIM: u8 = 103;
/// PIM's first octet if it is a hello: version 2, type 0.
const PIM_HELLO: u8 = 0x20;

/// The Ethernet address of an IPv4 group (RFC 1112, 6.4).
pub fn mac_of_v4(group: Ipv4Addr) -> MacAddr {
    MacAddr::from_bits(0x0100_5e00_0000 | u64::from(group.to_bits() & 0x7f_ffff))
}

/// The Ethernet address of an IPv6 group (RFC 2464, 7).
pub fn mac_of_v6(group: Ipv6Addr) -> MacAddr {
    MacAddr::from_bits(0x3333_0000_0000 | (group.to_bits() as u32 as u64))
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*octets.get(at..)?.first_chunk()?))
}

fn v4_at(octets: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*octets.get(at..)?.first_chunk::<4>()?))
}

fn v6_at(octets: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*octets.get(at..)?.first_chunk::<16>()?))
}

/// A time in the form of RFC 3376, 4.1.1 and 4.1.7: from 128 on, four bits of mantissa and three of exponent.
fn floating(code: u8) -> u32 {
    match code {
        0..128 => code.into(),
        _ => (u32::from(code & 0xf) | 0x10) << ((code >> 4 & 7) + 3),
    }
}

/// The most that [`floating`] can say without saying more than `value`.
pub fn to_floating(value: u32) -> u8 {
    if value < 128 {
        return value as u8;
    }
    (128..=255).rev().find(|code| floating(*code) <= value).unwrap_or(128)
}

/// The octets of a record: type (1), words of other data (1), sources (2), group, sources, other data.
fn record(family: Family, octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let address = if family == Family::V4 { 4 } else { 16 };
    let (more, sources) = (usize::from(*octets.get(1)?), usize::from(u16_at(octets, 2)?));
    let len = 4 + address + sources * address + more * 4;
    Some((octets.get(..len)?, octets.get(len..)?))
}

/// The records of a report, if `count` of them fit.
fn records(family: Family, octets: &[u8], count: u16) -> Option<Message<'_>> {
    let mut rest = octets;
    for _ in 0..count {
        (_, rest) = record(family, rest)?;
    }
    let len = octets.len().checked_sub(rest.len())?;
    Some(Message::Report(Records(Content::Many(family, octets.get(..len)?))))
}

impl Records<'_> {
    /// Each group and what became of it. Groups whose frames go everywhere are left out.
    pub fn for_each(&self, mut each: impl FnMut(MacAddr, Change)) {
        let (family, mut rest) = match self.0 {
            Content::One(group, change) => return each(group, change),
            Content::Many(family, octets) => (family, octets),
        };
        while let Some((one, others)) = record(family, rest) {
            rest = others;
            if let Some((group, change)) = said(family, one) {
                each(group, change);
            }
        }
    }
}

/// What a record says (RFC 3376, 4.2.12; RFC 3810, 5.2.12). Frames go by group, so a member of some sources is a member.
fn said(family: Family, record: &[u8]) -> Option<(MacAddr, Change)> {
    let has_sources = u16_at(record, 2)? > 0;
    let group = match family {
        Family::V4 => v4_at(record, 4).filter(Ipv4Addr::is_multicast).map(mac_of_v4)?,
        Family::V6 => v6_at(record, 4).filter(Ipv6Addr::is_multicast).map(mac_of_v6)?,
    };
    let change = match (record.first()?, has_sources) {
        // All but some sources: now, or from now on.
        (2 | 4, _) => Change::Joined,
        // These sources only: now, from now on, or in addition.
        (1 | 3 | 5, true) => Change::Joined,
        // No source from now on. Or without some sources: perhaps these were the last.
        (3, false) | (6, true) => Change::Left,
        _ => return None,
    };
    Some((group, change))
}
