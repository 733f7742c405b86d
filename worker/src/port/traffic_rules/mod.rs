//! The rules of a port as frames meet them: made once, when the supervisor commits them, and read for each frame.
//!
//! Each transmit queue of a port has the port's rules as those of its senders, and each receive queue has them as those
//! of its receivers; a queue of an open port has none, which costs its frames one comparison. A burst has leased every
//! queue that it reads rules of. The control thread leases all queues of all ports that change, and then changes them
//! all (`crate::poll::control_thread`). So a burst sees the rules of all ports before a change or after it, and never
//! some of each.
//!
//! What a frame meets, in this order:
//!
//! | at | what |
//! |---|---|
//! | the sender's rules | its VLAN ([`Domain::classify`]), and all else (`Sending::admit` in `crate::forward::sending`) |
//! | the forwarding table | whether the port may have the source address, and one more; where the destination is |
//! | the receiver's rules | VLAN, isolation and floods ([`Passage::way_to`]), with what is to be done to the tag |

mod members;
mod vlan;

pub use members::VlanMembers;
pub use vlan::{Domain, Edit, InVlan, TAG_LEN};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::rules::{Isolation, PortRules, Storm};

use super::bucket::Bucket;
use super::guard::Guard;

/// The rules of one port. Another commit makes others.
pub struct TrafficRules {
    /// Its VLANs.
    pub vlan: Domain,
    /// Which ports it may speak to.
    pub isolation: Isolation,
    /// Frames to unknown addresses, to groups and to all go to it.
    pub floods: Floods,
    /// Its frames' sources are learnt.
    pub learning: bool,
    /// Most addresses that are learnt from it at a time; 0: any number.
    pub max_addresses: u32,
    /// When its addresses that had aged were last looked for, in seconds.
    pub swept_s: AtomicU64,
    /// Which sources its frames may have, and what they may be.
    pub guard: Option<Guard>,
    /// Bounds on its frames to many ports.
    pub storms: Storms,
    /// A bound on what it sends.
    pub from_port: Option<Bucket>,
    /// A bound on what it gets.
    pub to_port: Option<Bucket>,
}

/// Bounds on frames to many ports. Such a frame counts once, to however many ports it goes.
#[derive(Debug, Default)]
pub struct Storms {
    unknown: Option<Bucket>,
    multicast: Option<Bucket>,
    broadcast: Option<Bucket>,
}

/// Which frames for many a port gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floods {
    unknown: bool,
    multicast: bool,
    broadcast: bool,
}

/// For how many a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// One address, which was seen.
    Known,
    /// One address, which nobody has shown.
    Unknown,
    /// A group.
    Multicast,
    /// All.
    Broadcast,
}

/// A frame on its way from a port to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Its VLAN.
    pub vlan: InVlan,
    /// The isolation of its sender.
    pub isolation: Isolation,
    /// For how many it is.
    pub cast: Cast,
}

impl TrafficRules {
    /// The rules as the supervisor told them, which were checked. `None`: the port is open.
    pub fn of(rules: &PortRules) -> Option<Arc<TrafficRules>> {
        let floods = Floods { unknown: rules.flood, multicast: rules.mcast_flood, broadcast: rules.bcast_flood };
        let compiled = TrafficRules {
            vlan: Domain::of(&rules.vlan),
            isolation: rules.isolation,
            floods,
            guard: Guard::of(&rules.guard),
            storms: Storms::of(&rules.storm),
            from_port: rules.limits.from_port.as_ref().map(Bucket::of),
            to_port: rules.limits.to_port.as_ref().map(Bucket::of),
            learning: rules.learning,
            max_addresses: rules.max_addresses,
            swept_s: AtomicU64::new(0),
        };
        (!rules.is_open()).then(|| Arc::new(compiled))
    }
}

impl Storms {
    fn of(storm: &Storm) -> Storms {
        let of = |rate: Option<u64>| rate.map(Bucket::of_frames);
        Storms { unknown: of(storm.unknown), multicast: of(storm.multicast), broadcast: of(storm.broadcast) }
    }

    /// The bound on such frames.
    pub fn of_cast(&self, cast: Cast) -> Option<&Bucket> {
        match cast {
            Cast::Known => None,
            Cast::Unknown => self.unknown.as_ref(),
            Cast::Multicast => self.multicast.as_ref(),
            Cast::Broadcast => self.broadcast.as_ref(),
        }
    }
}

impl Floods {
    fn take(self, cast: Cast) -> bool {
        match cast {
            Cast::Known => true,
            Cast::Unknown => self.unknown,
            Cast::Multicast => self.multicast,
            Cast::Broadcast => self.broadcast,
        }
    }
}

impl Cast {
    /// Of a frame to an address that is not in the table.
    #[inline]
    pub fn of_flood(dst: MacAddr) -> Cast {
        match dst.is_group() {
            false => Cast::Unknown,
            true if dst == MacAddr::from_bits(u64::MAX) => Cast::Broadcast,
            true => Cast::Multicast,
        }
    }
}

impl Passage {
    /// A frame of an open port.
    pub const OPEN: Passage = Passage { vlan: InVlan::UNAWARE, isolation: Isolation::Open, cast: Cast::Known };

    /// A frame of the switch itself in this VLAN.
    pub fn of_switch(vlan: InVlan) -> Passage {
        Passage { vlan, ..Passage::OPEN }
    }

    /// Whether an open port takes the frame unchanged.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.vlan.vid == 0
    }

    /// What is to be done to the frame's tag on its way to a port with these rules; or why it does not go there.
    #[inline]
    pub fn way_to(&self, receiver: Option<&TrafficRules>) -> Result<Edit, DropReason> {
        match receiver {
            None if self.is_open() => Ok(Edit::NONE),
            None => Err(DropReason::NoDestination),
            Some(rules) => self.way_by(rules),
        }
    }

    fn way_by(&self, rules: &TrafficRules) -> Result<Edit, DropReason> {
        let edit = rules.vlan.way_out(&self.vlan)?;
        if !self.isolation.permits(rules.isolation) {
            return Err(DropReason::Isolated);
        }
        rules.floods.take(self.cast).then_some(edit).ok_or(DropReason::NoDestination)
    }
}

#[cfg(test)]
mod tests;
