//! The part of the ledger that says which ports have members of which multicast groups. It outlives workers.
//!
//! Each port has [`PLACES`] places of its own, so no port can take another's. A place has a key: the VLAN and what the
//! port is a member of, a group's Ethernet address or [`ROUTERS_OF`] a family. All times are nanoseconds of
//! CLOCK_MONOTONIC. As with all of the ledger, the supervisor reads hostile numbers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::MAX_PORTS;
use crate::frame::MacAddr;

/// Number of places of each port.
pub const PLACES: usize = 256;
/// A group may use this many places.
pub const WAYS: usize = 4;
/// Number of VLANs, with 0.
pub const VLANS: usize = 4096;
/// In the place of a group's address, by [`Family`]: at the port is a router of this family. No group has such an address.
pub const ROUTERS_OF: [u64; 2] = [4, 6];

/// In [`GroupPlace::until`]: a member has left, and the others at the port are to be asked.
pub const LEFT: u64 = 1 << 63;
/// In [`GroupPlace::until`]: they were asked once.
pub const ASKED: u64 = 1 << 62;

/// All of it. All zeroes: the switch does not snoop.
#[repr(C, align(4096))]
pub struct GroupTable {
    /// The number of the setting in force ([`crate::snooping::SnoopingRun`]); 0: the switch does not snoop.
    pub run: AtomicU32,
    /// Not 0: the switch asks where nobody else does.
    pub querier: AtomicU32,
    /// Grows with each change of what [`GroupPlace`]s say, but for mere refreshes.
    pub changes: AtomicU64,
    /// The setting in force, in nanoseconds: interval, response, last member.
    pub times: [AtomicU64; 3],
    /// Source of IGMP queries.
    pub address: AtomicU32,
    /// How many reports had no place.
    pub overflows: AtomicU64,
    /// Ports of which there is something in this table. One bit for each slot.
    pub ports: [AtomicU64; MAX_PORTS / 64],
    /// Ports with places that are [`LEFT`].
    pub left: [AtomicU64; MAX_PORTS / 64],
    /// VLANs in which a message was heard.
    pub vlans: [AtomicU64; VLANS / 64],
    /// Until when a port gets all groups, as if the switch did not snoop.
    pub open_until: [AtomicU64; MAX_PORTS],
    /// By VLAN and [`Family`].
    pub queriers: [[QuerierState; 2]; VLANS],
    /// By slot.
    pub places: [[GroupPlace; PLACES]; MAX_PORTS],
}

/// What a port is a member of.
#[repr(C)]
pub struct GroupPlace {
    /// VLAN (high 16 bits) and group; 0: free.
    pub key: AtomicU64,
    /// Until when, unless it is heard of again. The highest bits: [`LEFT`], [`ASKED`].
    pub until: AtomicU64,
}

/// Who asks for members of groups in a VLAN.
#[repr(C)]
pub struct QuerierState {
    /// The places hold from this time on ...
    pub from: AtomicU64,
    /// ... and until this time: somebody has asked.
    pub until: AtomicU64,
    /// Until this time another querier is in charge.
    pub other_until: AtomicU64,
    /// Its address: an IPv6 address, highest octets first, or an IPv4 address.
    pub other: [AtomicU64; 2],
    /// Its port.
    pub port: AtomicU32,
    /// What is left of this switch's first queries, which follow each other sooner.
    pub first: AtomicU32,
    /// When this switch asks next.
    pub next: AtomicU64,
    /// How long a member stays one, if it is not heard of.
    pub member_ns: AtomicU64,
}

/// IPv4 or IPv6: IGMP or MLD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IGMP.
    V4,
    /// MLD.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family whose groups have such addresses (RFC 1112, 6.4; RFC 2464, 7).
    pub const fn of(group: MacAddr) -> Option<Family> {
        match (group.bits() >> 23, group.bits() >> 32) {
            (0x0002_00bc, _) => Some(Family::V4),
            (_, 0x3333) => Some(Family::V6),
            _ => None,
        }
    }

    /// Its EtherType.
    pub const fn ethertype(self) -> u16 {
        match self {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }
}

/// Whether frames to this group go to all ports always: the group's last octet alone differs from zero. These are the
/// groups 224.0.0.x and ff0X::xx (RFC 4541, 2.1.2 and 3), whose members need not report, and whatever shares their
/// addresses.
pub const fn is_reserved(group: MacAddr) -> bool {
    match Family::of(group) {
        Some(Family::V4) => group.bits() & 0x7f_ffff <= 0xff,
        Some(Family::V6) => group.bits() & 0xffff_ffff <= 0xff,
        None => true,
    }
}

/// The key of a group in a VLAN.
pub const fn group_key(vid: u16, group: MacAddr) -> u64 {
    (vid as u64) << 48 | group.bits()
}

/// The key of a router in a VLAN.
pub const fn router_key(vid: u16, family: Family) -> u64 {
    (vid as u64) << 48 | ROUTERS_OF[family as usize]
}

/// The VLAN of a key.
pub const fn vid_of(key: u64) -> u16 {
    (key >> 48) as u16
}

/// The group of a key; or the family of a router.
pub fn group_of(key: u64) -> Result<MacAddr, Option<Family>> {
    let group = MacAddr::from_bits(key);
    if group.is_group() {
        return Ok(group);
    }
    Err(Family::BOTH.into_iter().find(|family| ROUTERS_OF.get(*family as usize) == Some(&group.bits())))
}

impl GroupPlace {
    /// Until when it holds, in nanoseconds.
    pub fn until_ns(&self) -> u64 {
        self.until.load(Relaxed) & !(LEFT | ASKED)
    }
}

impl GroupTable {
    /// The querier of a VLAN.
    pub fn querier(&self, vid: u16, family: Family) -> Option<&QuerierState> {
        self.queriers.get(usize::from(vid))?.get(family as usize)
    }

    /// The places of a port.
    pub fn places_of(&self, slot: u16) -> &[GroupPlace] {
        self.places.get(usize::from(slot)).map_or(&[], |places| places)
    }

    /// Whether a port gets all groups.
    pub fn is_open(&self, slot: u16, now_ns: u64) -> bool {
        self.open_until.get(usize::from(slot)).is_some_and(|until| until.load(Relaxed) > now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_reserved_groups() {
        let of = |octets| {
            let group = MacAddr::new(octets);
            (Family::of(group), is_reserved(group))
        };
        assert_eq!(of([1, 0, 0x5e, 0, 0, 0xfb]), (Some(Family::V4), true));
        assert_eq!(of([1, 0, 0x5e, 0, 1, 0]), (Some(Family::V4), false));
        assert_eq!(of([1, 0, 0x5e, 0x7f, 0xff, 0xff]), (Some(Family::V4), false));
        assert_eq!(of([1, 0, 0x5e, 0x80, 0, 0]), (None, true), "MPLS multicast and others");
        assert_eq!(of([0x33, 0x33, 0, 0, 0, 1]), (Some(Family::V6), true));
        assert_eq!(of([0x33, 0x33, 0xff, 0, 0, 1]), (Some(Family::V6), false));
        assert_eq!(of([0xff; 6]), (None, true));
        assert_eq!(of([1, 0x80, 0xc2, 0, 0, 0]), (None, true));
    }

    #[test]
    fn a_key_tells_what_it_was_made_of() {
        let group = MacAddr::new([0x33, 0x33, 1, 2, 3, 4]);
        let key = group_key(4094, group);
        assert_eq!((vid_of(key), group_of(key)), (4094, Ok(group)));
        for family in Family::BOTH {
            let key = router_key(7, family);
            assert_eq!((vid_of(key), group_of(key)), (7, Err(Some(family))));
        }
        assert_eq!(group_of(0), Err(None));
    }
}
