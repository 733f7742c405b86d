//! An address that is at a port whatever the port says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::frame::MacAddr;
use crate::rules::{Vid, Vlan};

/// The address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticAddress {
    /// Its VLAN; 0: the network of the ports that know none.
    pub vid: Vid,
    /// The address.
    pub mac: [u8; 6],
}

impl StaticAddress {
    /// Why this address cannot be at a port of these VLANs.
    pub fn check(&self, vlan: &Vlan) -> Result<(), String> {
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err(format!("{} is no address of one machine", MacAddr::new(self.mac)));
        }
        let fits = match vlan {
            Vlan::Unaware => self.vid == 0,
            Vlan::Access { vid } | Vlan::Tunnel { vid } => self.vid == *vid,
            Vlan::Trunk { allowed, .. } => allowed.contains(self.vid),
        };
        match (fits, self.vid) {
            (true, _) => Ok(()),
            (false, 0) => Err(format!("{self} needs a VLAN, such as {}@10", MacAddr::new(self.mac))),
            (false, vid) => Err(format!("{self}: the port is not in VLAN {vid}")),
        }
    }
}

impl fmt::Display for StaticAddress {
    /// `MAC`, or `MAC@VID`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", MacAddr::new(self.mac))?;
        if self.vid == 0 { Ok(()) } else { write!(f, "@{}", self.vid) }
    }
}

/// The VLAN of an address that names none.
pub(super) fn usual_vid(vlan: &Vlan) -> Option<Vid> {
    match vlan {
        Vlan::Unaware => Some(0),
        Vlan::Access { vid } | Vlan::Tunnel { vid } => Some(*vid),
        Vlan::Trunk { native, .. } => *native,
    }
}
