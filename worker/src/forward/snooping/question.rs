//! General queries that the switch itself sends: of IGMPv3 (RFC 3376, 4.1), which hosts of IGMPv2 take as well, and of MLDv2
//! (RFC 3810, 5.1). A query goes to all ports, or to one.

use std::iter::once;
use std::net::{Ipv4Addr, Ipv6Addr};

use sv3::frame::MacAddr;
use sv3::groups::Family;
use sv3::virtio::NET_HDR_LEN;

use super::message::{mac_of_v4, mac_of_v6, to_floating};
use super::querier::ROBUSTNESS;
use crate::forward::forwarder::Forwarder;
use crate::forward::frame::Frame;
use crate::forward::leases::Unsent;
use crate::forward::sending::Sending;
use crate::memory::checksum::sum;
use crate::memory::slice::GuestSlice;
use crate::port::traffic_rules::{InVlan, Passage};

/// Octets of the shortest frame of Ethernet.
const SHORTEST: usize = 60;
/// Octets of the longer of the two queries.
const LONGEST: usize = 90;
/// The largest time of MLD in milliseconds that is a plain number (RFC 3810, 5.1.3).
const MLD_MAX: u64 = 0x7fff;

/// A general query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The VLAN that it is asked in.
    pub vid: u16,
    /// Of whom.
    pub family: Family,
    /// In which members answer, in nanoseconds.
    pub response_ns: u64,
}

/// Sends a query to all ports of its VLAN, or to one. False: another thread has the queue of one of them, and nothing was
/// sent.
#[must_use]
pub fn send(forwarder: &mut Forwarder, question: &Question, to: Option<u16>) -> bool {
    let ports = forwarder.view.ports;
    // A port that gets a mirror's copies gets nothing else.
    if to.is_some_and(|slot| ports.is_mirror(slot)) {
        return true;
    }
    // Nobody is counted as the sender. If no port receives, nobody is asked.
    let Some(port) = to.or_else(|| ports.receivers(question.vid).next()).and_then(|slot| ports.get(slot)) else {
        return true;
    };
    let (query, len) = frame(forwarder, question);
    let dst = query.first_chunk().map_or(MacAddr::from_bits(0), |octets| MacAddr::new(*octets));
    let mut octets = [0; NET_HDR_LEN + LONGEST];
    put(&mut octets, NET_HDR_LEN, &query);
    let src = forwarder.snooping.table.station;
    let slices = [GuestSlice::of_host(&mut octets)];
    let frame = Frame::complete((dst, src), &slices, len);
    let mut sending = Sending::begin(forwarder, (port, None), false);
    let passage = Passage::of_switch(InVlan::untagged(question.vid));
    let sent = match to {
        Some(slot) => sending.deliver_all(&frame, &passage, || once(slot)),
        None => sending.deliver_all(&frame, &passage, || ports.receivers(question.vid)),
    };
    sending.publish();
    sent != Err(Unsent::Busy)
}

fn frame(forwarder: &Forwarder, question: &Question) -> ([u8; LONGEST], usize) {
    let table = &forwarder.snooping.table;
    let interval_s = to_floating(u32::try_from(table.interval_ns().div_ceil(1_000_000_000)).unwrap_or(u32::MAX));
    let code = (question.response_ns, interval_s);
    match question.family {
        Family::V4 => (igmp(table.station, table.address_v4(), code), SHORTEST),
        Family::V6 => (mld(table.station, table.address_v6(), code), LONGEST),
    }
}

fn igmp(station: MacAddr, source: Ipv4Addr, (response_ns, interval_s): (u64, u8)) -> [u8; LONGEST] {
    let to = Ipv4Addr::new(224, 0, 0, 1);
    let tenths = u32::try_from(response_ns / 100_000_000).unwrap_or(u32::MAX).max(1);
    // General query, no sources; the querier's robustness.
    let mut query = [0x11, to_floating(tenths), 0, 0, 0, 0, 0, 0, ROBUSTNESS as u8, interval_s, 0, 0];
    let check = (!sum(&query, 0)).to_be_bytes();
    put(&mut query, 2, &check);
    // Version 4 and six words; internetwork control; 36 octets; TTL 1; IGMP. Behind the addresses: Router Alert.
    let fixed = [0x46, 0xc0, 0, 36, 0, 0, 0x40, 0, 1, 2, 0, 0];
    let mut header = [0; 24];
    for (at, part) in [(0, &fixed[..]), (12, &source.octets()), (16, &to.octets()), (20, &[0x94, 4, 0, 0])] {
        put(&mut header, at, part);
    }
    let check = (!sum(&header, 0)).to_be_bytes();
    put(&mut header, 10, &check);
    joined([&mac_of_v4(to).octets(), &station.octets(), &[8, 0], &header, &query])
}

fn mld(station: MacAddr, source: Ipv6Addr, (response_ns, interval_s): (u64, u8)) -> [u8; LONGEST] {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let code = ((response_ns / 1_000_000).clamp(1, MLD_MAX) as u16).to_be_bytes();
    let mut query = [0; 28];
    put(&mut query, 0, &[130]);
    put(&mut query, 4, &code);
    put(&mut query, 24, &[ROBUSTNESS as u8, interval_s]);
    let addresses = u64::from(sum(&source.octets(), 0)) + u64::from(sum(&to.octets(), 0));
    let check = (!sum(&query, addresses + 28 + 58)).to_be_bytes();
    put(&mut query, 2, &check);
    // Version 6; 36 octets behind the header, which are hop-by-hop options and ICMPv6; hop limit 1.
    let header = [0x60, 0, 0, 0, 0, 36, 0, 1];
    // Router Alert of MLD, and padding.
    let options = [58, 0, 5, 2, 0, 0, 1, 0];
    let ethernet = [&mac_of_v6(to).octets()[..], &station.octets(), &[0x86, 0xdd]];
    let [dst, src, kind] = ethernet;
    joined([dst, src, kind, &header, &source.octets(), &to.octets(), &options, &query])
}

fn put(out: &mut [u8], at: usize, part: &[u8]) {
    out.iter_mut().skip(at).zip(part).for_each(|(to, from)| *to = *from);
}

fn joined<const N: usize>(parts: [&[u8]; N]) -> [u8; LONGEST] {
    let mut out = [0; LONGEST];
    let octets = parts.into_iter().flatten();
    out.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    out
}
