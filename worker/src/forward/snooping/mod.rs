//! IGMP and MLD snooping (RFC 4541): frames to a multicast group go to the ports that have members of it.
//!
//! The table is in the ledger ([`sv3::groups`]), so that a new worker knows what the last one learnt. Threads that see a
//! message ([`message`]) change it by atomics, without a lock; the control thread asks for members ([`question`]) and
//! forgets ports. What a place says is one word, and two words that do not belong together (a key and a time, of two
//! threads that speak for one port at the same moment) cost at most one membership until the next query.
//!
//! **Whatever is not known is flooded**, as if the switch did not snoop:
//!
//! | frame | goes to |
//! |---|---|
//! | to 224.0.0.x, ff0X::xx, or whatever shares their Ethernet addresses (RFC 4541, 2.1.2 and 3) | all ports |
//! | not of IPv4 or IPv6, or with a tag that the switch does not know | all ports |
//! | to a group of which no member is known (RFC 4541, 2.1.2 (5), lets the switch choose) | all ports |
//! | to any group, while nobody has asked for members lately | all ports: members speak only if they are asked |
//! | a query, and what is not understood | all ports |
//! | a report or a leave | ports of routers: other hosts must not hear it, or they would keep silent (2.1.1 (1)) |
//! | any other frame to a group | members' ports and routers' ports |
//!
//! **Routers' ports** are uplinks, and ports at which a query from a real address, a hello of PIM or an advertisement of
//! multicast router discovery came in.
//!
//! **Open ports** get all groups and all reports. So do ports that need more places than they have, ports that have sent a
//! report that is too long to read, and, for a while, ports that have just begun to receive: their guests may be members
//! since long (after a live migration, or when the rings start again) and are asked at once. As each port has places of its
//! own, none can take another's.
//!
//! **Groups are known by VLAN and Ethernet address**, as frames are forwarded by it. 32 groups of IPv4 share one. So when a
//! member leaves, its port is asked for *all* groups (a general query to this port alone, with a short time): an answer for
//! another group of the same address counts as well. Such a query is sent at most once in the last-member time to each
//! port, however many leave. If another querier is in charge, it asks about the group, to which the switch listens:
//! then only ports that have left before lose their membership early.
//!
//! **Validity.** A general query, heard or sent, makes the table valid for two intervals and a half response time; if it
//! was not valid before, then from the end of its response time on. A member that answers is one for longer than that. So
//! if queriers end, are late or lie about their intervals, the table ends before its members do, and frames are flooded.

pub mod message;
mod places;
pub mod querier;
pub mod question;
#[cfg(test)]
pub mod tests;

use std::sync::atomic::Ordering::Relaxed;

use sv3::MAX_PORTS;
use sv3::frame::MacAddr;
use sv3::groups::{Family, GroupTable, group_key, is_reserved, router_key};
use sv3::ledger::Ledger;

use self::message::{Change, Message};
use crate::port::Ports;

/// A set of ports: a bit for each slot.
pub type Slots = [u64; MAX_PORTS / 64];

/// A thread's view of the table.
pub struct Snooping {
    /// The table.
    pub table: Groups,
    /// The last answer.
    wanted: Wanted,
}

/// The table in the ledger.
#[derive(Clone, Copy)]
pub struct Groups {
    table: &'static GroupTable,
    /// Source of the switch's own queries.
    pub station: MacAddr,
}

/// Who wants a group's frames. It holds while time stands still and the table does not change.
struct Wanted {
    key: u64,
    now_ns: u64,
    changes: u64,
    /// There are members.
    has_members: bool,
    slots: Slots,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To all ports.
    All,
    /// To ports of routers.
    Routers,
    /// As any frame to its group.
    Group,
}

impl Snooping {
    /// The view of one thread. `station`: the source of the switch's own queries.
    pub fn new(ledger: &'static Ledger, station: MacAddr) -> Snooping {
        let wanted = Wanted { key: 0, now_ns: 0, changes: 0, has_members: false, slots: [0; MAX_PORTS / 64] };
        Snooping { table: Groups { table: &ledger.groups, station }, wanted }
    }

    /// Whether the switch snoops.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.table.is_on()
    }

    /// The ports that want a group's frames. `None`: all do, as far as is known.
    pub fn wanted(&mut self, vid: u16, group: MacAddr, ports: &Ports, now_ns: u64) -> Option<Slots> {
        let family = Family::of(group).filter(|_| !is_reserved(group))?;
        if !self.table.is_valid(vid, family, now_ns) {
            return None;
        }
        let (key, changes) = (group_key(vid, group), self.table.table.changes.load(Relaxed));
        let Wanted { key: before, now_ns: then, changes: known, .. } = self.wanted;
        if (key, now_ns, changes) != (before, then, known) {
            let (slots, has_members) = self.table.interested((key, router_key(vid, family)), ports, now_ns);
            self.wanted = Wanted { key, now_ns, changes, has_members, slots };
        }
        self.wanted.has_members.then_some(self.wanted.slots)
    }
}

impl Groups {
    /// Whether the switch snoops.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.table.run.load(Relaxed) != 0
    }

    /// Takes a message that came in at a port. Returns where it goes, and whether the control thread has work.
    pub fn hear(&self, (slot, vid): (u16, u16), family: Family, message: &Message<'_>, now_ns: u64) -> (Route, bool) {
        let mut news = match message {
            Message::Other | Message::Malformed => return (Route::Group, false),
            _ => self.note_vlan(vid),
        };
        let route = match message {
            Message::Query(query) => {
                self.hear_query((slot, vid), family, query, now_ns);
                Route::All
            }
            Message::Report(records) => {
                let until = now_ns.saturating_add(self.member_ns(vid, family));
                records.for_each(|group, change| match change {
                    _ if is_reserved(group) => {}
                    Change::Joined => self.join(slot, group_key(vid, group), (now_ns, until)),
                    Change::Left => news |= self.leave(slot, group_key(vid, group), now_ns),
                });
                if self.is_valid(vid, family, now_ns) { Route::Routers } else { Route::All }
            }
            Message::Router => {
                let until = now_ns.saturating_add(self.member_ns(vid, family));
                self.join(slot, router_key(vid, family), (now_ns, until));
                Route::Group
            }
            Message::RouterGone => {
                self.remove(slot, router_key(vid, family));
                Route::Group
            }
            Message::Other | Message::Malformed => Route::Group,
        };
        (route, news)
    }

    /// The ports that get reports.
    pub fn routers(&self, vid: u16, family: Family, ports: &Ports, now_ns: u64) -> Slots {
        self.interested((0, router_key(vid, family)), ports, now_ns).0
    }

    /// The ports at which there is a group or a router, or that get all; and whether the group is anywhere.
    fn interested(&self, (group, router): (u64, u64), ports: &Ports, now_ns: u64) -> (Slots, bool) {
        let (mut slots, mut has_members) = ([0; MAX_PORTS / 64], false);
        ports.uplinks().for_each(|slot| set(&mut slots, slot));
        for slot in self.ports() {
            let is_member = group != 0 && self.has(slot, group, now_ns);
            has_members |= is_member;
            if is_member || self.table.is_open(slot, now_ns) || self.has(slot, router, now_ns) {
                set(&mut slots, slot);
            }
        }
        (slots, has_members)
    }
}

fn set(slots: &mut Slots, slot: u16) {
    if let Some(word) = slots.get_mut(usize::from(slot / 64)) {
        *word |= 1 << (slot % 64);
    }
}

/// Whether a port is in a set.
#[inline]
pub fn has(slots: &Slots, slot: u16) -> bool {
    slots.get(usize::from(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 != 0)
}
