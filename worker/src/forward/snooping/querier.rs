//! Who asks for members in a VLAN, and how long what they answer holds.
//!
//! Of all queriers, the one with the lowest address is in charge (RFC 3376, 6.6.2; RFC 3810, 7.6.2). This switch takes part
//! if it may. With 0.0.0.0 as its address it gives way to any other querier of IGMP; an IPv4 query from 0.0.0.0 displaces
//! nobody (RFC 4541, 2.1.1 (1)). Each family of each VLAN has its own querier.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;

use sv3::frame::MacAddr;
use sv3::groups::{Family, QuerierState, group_key, router_key};
use sv3::snooping::{Snooping, SnoopingRun};

use super::Groups;
use super::message::Query;
use super::places::{bits, set_bit};

/// Of queries, so many less one may be lost (RFC 3376, 8.1).
pub const ROBUSTNESS: u64 = 2;
/// What a querier says of its interval counts up to this many times the switch's own.
const LONGEST: u64 = 4;
/// Longest response time of a query that counts, in nanoseconds.
const RESPONSE_MAX: u64 = 60_000_000_000;

/// The switch's turn to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now.
    Now,
    /// At this time in nanoseconds, unless something happens.
    At(u64),
    /// Never: it must not ask.
    Never,
}

impl Groups {
    /// Puts a setting in force. One with another number begins with an empty table.
    pub fn set(&self, setting: Option<&SnoopingRun>) {
        let Some(SnoopingRun { settings, run }) = setting else { return self.table.run.store(0, Relaxed) };
        if self.table.run.load(Relaxed) != *run {
            self.table.run.store(0, Relaxed);
            self.retain(|_| false);
            self.vlans().for_each(|vid| Family::BOTH.into_iter().for_each(|family| self.reset(vid, family)));
            self.table.vlans.iter().chain(&self.table.left).for_each(|word| word.store(0, Relaxed));
        }
        let Snooping { querier, address, interval_ms, response_ms, last_member_ms } = *settings;
        for (word, ms) in self.table.times.iter().zip([interval_ms, response_ms, last_member_ms]) {
            word.store(u64::from(ms) * 1_000_000, Relaxed);
        }
        self.table.querier.store(querier.into(), Relaxed);
        self.table.address.store(address.to_bits(), Relaxed);
        self.table.run.store(*run, Relaxed);
    }

    /// Whether the places of a VLAN hold: somebody has asked lately, and members have had the time to answer.
    pub fn is_valid(&self, vid: u16, family: Family, now_ns: u64) -> bool {
        let state = self.table.querier(vid, family);
        state.is_some_and(|state| state.from.load(Relaxed) <= now_ns && now_ns < state.until.load(Relaxed))
    }

    /// How long a member stays one without being heard of, in nanoseconds.
    pub fn member_ns(&self, vid: u16, family: Family) -> u64 {
        let told = self.table.querier(vid, family).map_or(0, |state| state.member_ns.load(Relaxed));
        let own = ROBUSTNESS * self.interval_ns() + self.response_ns();
        told.clamp(own, own.saturating_mul(LONGEST + 1))
    }

    /// Takes a query that came in at a port.
    pub(super) fn hear_query(&self, (slot, vid): (u16, u16), family: Family, query: &Query, now_ns: u64) {
        let Some(state) = self.table.querier(vid, family) else { return };
        let own = self.address(family);
        // It is the switch's own query, which has come back.
        if query.source != 0 && query.source == own {
            return;
        }
        // Members would answer when their places are over. The next query of the switch lets them answer sooner (RFC 3376, 5.2).
        if query.response_ns > RESPONSE_MAX {
            return;
        }
        let response = query.response_ns;
        if let Some(group) = query.group {
            if query.lowers {
                let until = now_ns + (ROBUSTNESS * response).max(ROBUSTNESS * self.last_member_ns());
                self.lower(group_key(vid, group), until);
            }
            return;
        }
        let longest = LONGEST * self.interval_ns();
        let interval = (u64::from(query.interval_s) * 1_000_000_000).clamp(self.interval_ns(), longest);
        let queries = u64::from(query.robustness).clamp(ROBUSTNESS, ROBUSTNESS + 1) * interval;
        let present = now_ns + queries + response / 2;
        state.member_ns.store(queries + response.max(self.response_ns()), Relaxed);
        self.extend(state, response, (now_ns, present));
        if query.source == 0 {
            return;
        }
        self.join(slot, router_key(vid, family), (now_ns, present));
        let takes_part = self.table.querier.load(Relaxed) != 0 && own != 0;
        let in_charge = (state.other_until.load(Relaxed) > now_ns).then(|| other(state));
        if (!takes_part || query.source < own) && in_charge.is_none_or(|other| query.source <= other) {
            for (word, value) in state.other.iter().zip([(query.source >> 64) as u64, query.source as u64]) {
                word.store(value, Relaxed);
            }
            state.port.store(slot.into(), Relaxed);
            state.other_until.store(present, Relaxed);
        }
    }

    /// The switch's turn to ask in a VLAN.
    pub fn turn(&self, vid: u16, family: Family, now_ns: u64) -> Turn {
        let Some(state) = self.table.querier(vid, family) else { return Turn::Never };
        if self.table.querier.load(Relaxed) == 0 {
            return Turn::Never;
        }
        let (other, next) = (state.other_until.load(Relaxed), state.next.load(Relaxed));
        match other > now_ns {
            true => Turn::At(other),
            // What a worker that lied has left may be far away.
            false if next <= now_ns || next > now_ns.saturating_add(self.interval_ns()) => Turn::Now,
            false => Turn::At(next),
        }
    }

    /// Whether this switch is in charge in a VLAN.
    pub fn is_querier(&self, vid: u16, family: Family, now_ns: u64) -> bool {
        let state = self.table.querier(vid, family);
        let other = state.is_some_and(|state| state.other_until.load(Relaxed) > now_ns);
        self.table.querier.load(Relaxed) != 0 && !other
    }

    /// The switch has asked all of a VLAN.
    pub fn has_asked(&self, vid: u16, family: Family, now_ns: u64) {
        let Some(state) = self.table.querier(vid, family) else { return };
        let (interval, response) = (self.interval_ns(), self.response_ns());
        let began = state.until.load(Relaxed) <= now_ns;
        // The first queries of a start follow each other in a quarter of the interval (RFC 3376, 8.6).
        let first = if began { ROBUSTNESS as u32 - 1 } else { state.first.load(Relaxed).min(ROBUSTNESS as u32) };
        state.first.store(first.saturating_sub(u32::from(!began)), Relaxed);
        let pause = if first > 0 { interval / 4 } else { interval };
        state.next.store(now_ns + pause, Relaxed);
        state.member_ns.store(ROBUSTNESS * interval + response, Relaxed);
        self.extend(state, response, (now_ns, now_ns + ROBUSTNESS * interval + response / 2));
    }

    /// Members answer in this time, and so the table holds until then. A reader that sees the new end sees the new
    /// beginning, or floods for a moment.
    fn extend(&self, state: &QuerierState, response: u64, (now_ns, until): (u64, u64)) {
        if state.until.load(Relaxed) <= now_ns {
            state.from.store(now_ns + response + self.last_member_ns(), Relaxed);
        }
        state.until.store(until, Relaxed);
    }

    fn reset(&self, vid: u16, family: Family) {
        let Some(state) = self.table.querier(vid, family) else { return };
        let QuerierState { from, until, other_until, other: [high, low], port, first, next, member_ns } = state;
        [until, from, other_until, high, low, next, member_ns].into_iter().for_each(|word| word.store(0, Relaxed));
        [port, first].into_iter().for_each(|word| word.store(0, Relaxed));
    }

    /// The VLANs in which there are queries: those in which a message was heard, and the network of ports that know none.
    pub fn vlans(&self) -> impl Iterator<Item = u16> + use<> {
        let heard = bits(&self.table.vlans, |word| word.load(Relaxed));
        std::iter::once(0).chain(heard.filter(|vid| *vid != 0))
    }

    /// A message was heard in a VLAN. True: it is the first one.
    pub(super) fn note_vlan(&self, vid: u16) -> bool {
        set_bit(&self.table.vlans, vid)
    }

    /// The switch's address among queriers.
    pub fn address(&self, family: Family) -> u128 {
        match family {
            Family::V4 => self.address_v4().to_bits().into(),
            Family::V6 => self.address_v6().to_bits(),
        }
    }

    /// Source of IGMP queries.
    pub fn address_v4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.table.address.load(Relaxed))
    }

    /// Source of MLD queries: the link-local address of the switch's Ethernet address (RFC 4291, appendix A).
    pub fn address_v6(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.station.octets();
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
    }

    /// Between two general queries, in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        self.time(0, Snooping::INTERVAL_MS)
    }

    /// In which members answer a general query, in nanoseconds.
    pub fn response_ns(&self) -> u64 {
        self.time(1, Snooping::RESPONSE_MS)
    }

    /// In which members answer after one has left, in nanoseconds.
    pub fn last_member_ns(&self) -> u64 {
        self.time(2, Snooping::LAST_MEMBER_MS)
    }

    fn time(&self, at: usize, (least, most): (u32, u32)) -> u64 {
        let ns = self.table.times.get(at).map_or(0, |word| word.load(Relaxed));
        ns.clamp(u64::from(least) * 1_000_000, u64::from(most) * 1_000_000)
    }
}

/// The address of the querier in charge.
fn other(state: &QuerierState) -> u128 {
    let [high, low] = state.other.each_ref().map(|word| u128::from(word.load(Relaxed)));
    high << 64 | low
}

/// The source of the switch's own queries, of 24 bits that differ between switches: locally administered.
pub fn station(pseudonym: u64) -> MacAddr {
    MacAddr::from_bits(0x7276_3300_0000 | pseudonym & 0xff_ffff)
}
