//! What an operator lets a port do: its VLANs, whom it may speak to, which addresses it may claim, and how much.
//!
//! The supervisor has the rules of each port and tells them to every worker ([`crate::ipc::Command::RulesStage`]). A port
//! without rules is as open as a port of a hub: [`PortRules::default`]. A rule never looks at what a port's neighbours
//! are: two ports may speak if the rules of both let them.

mod guard;
mod isolation;
mod limits;
mod vlan;

pub use guard::{Guard, LIST_MAX, Prefix4, Prefix6, Sources};
pub use isolation::Isolation;
pub use limits::{Bucket, Limits, Storm, Unit};
pub use vlan::{TagType, VID_MAX, Vid, VidRange, Vids, Vlan};

use serde::{Deserialize, Serialize};

/// The rules of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortRules {
    /// The VLANs of its frames.
    pub vlan: Vlan,
    /// Which ports it may speak to.
    pub isolation: Isolation,
    /// Which sources its frames may have, and what they may be.
    pub guard: Guard,
    /// Bounds on frames that many ports get.
    pub storm: Storm,
    /// Bounds on all frames.
    pub limits: Limits,
    /// Frames to an address that nobody has shown go to it (`flood` of the kernel's bridge).
    pub flood: bool,
    /// Frames to groups go to it (`mcast_flood`).
    pub mcast_flood: bool,
    /// Frames to all go to it (`bcast_flood`).
    pub bcast_flood: bool,
    /// The source addresses of its frames are learnt.
    pub learning: bool,
    /// Most addresses that are learnt from it at a time; 0: any number.
    pub max_addresses: u32,
}

impl Default for PortRules {
    fn default() -> PortRules {
        PortRules {
            vlan: Vlan::default(),
            isolation: Isolation::default(),
            guard: Guard::default(),
            storm: Storm::default(),
            limits: Limits::default(),
            flood: true,
            mcast_flood: true,
            bcast_flood: true,
            learning: true,
            max_addresses: 0,
        }
    }
}

impl PortRules {
    /// Why these rules cannot be. Whoever makes them checks that, and a worker refuses others.
    pub fn check(&self) -> Result<(), String> {
        self.vlan.check()?;
        self.guard.check()?;
        self.storm.check()?;
        self.limits.check()
    }

    /// Whether the port is as open as a port without rules.
    pub fn is_open(&self) -> bool {
        *self == PortRules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{Command, Envelope};

    #[test]
    fn the_longest_rules_fit_into_a_command() {
        let mut rules = PortRules::default();
        let ranges = (0..vlan::RANGES_MAX as u16).map(|at| VidRange { first: at * 3 + 1, last: at * 3 + 2 }).collect();
        rules.vlan = Vlan::Trunk { native: Some(1), allowed: Vids(ranges), tag: TagType::Service };
        rules.guard.macs = Sources::Listed(vec![[2; 6]; LIST_MAX]);
        rules.guard.ipv4 = Some(vec![Prefix4 { address: [10; 4], len: 32 }; LIST_MAX]);
        rules.guard.ipv6 = Some(vec![Prefix6 { address: [10; 16], len: 128 }; LIST_MAX]);
        rules.check().unwrap();
        let command = Command::RulesStage { port: 1, rules: Box::new(rules) };
        assert!(Envelope { seq: 1, command, inherited: None }.encode().is_ok());
    }

    #[test]
    fn rules_that_cannot_be_are_told() {
        for (vlan, why) in [
            (Vlan::Access { vid: 0 }, "1 to 4094"),
            (Vlan::Access { vid: 4095 }, "1 to 4094"),
            (Vlan::Trunk { native: None, allowed: Vids(vec![]), tag: TagType::Customer }, "no VLAN"),
            (
                Vlan::Trunk {
                    native: Some(9),
                    allowed: Vids(vec![VidRange { first: 10, last: 12 }]),
                    tag: TagType::Customer,
                },
                "native",
            ),
        ] {
            let told = PortRules { vlan, ..PortRules::default() }.check().unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
