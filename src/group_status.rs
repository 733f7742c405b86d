//! What `sv3 groups --json` prints, the answer to the request `groups`. docs/use/multicast.md documents it. Fields are only
//! ever added.

use serde::{Deserialize, Serialize};

use crate::snooping::Snooping;

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsStatus {
    /// The setting; absent: the switch does not snoop.
    pub snooping: Option<Snooping>,
    /// Who asks for members, by VLAN.
    pub queriers: Vec<QuerierStatus>,
    /// Groups with members, by VLAN and address.
    pub groups: Vec<GroupStatus>,
    /// Ports with routers, by VLAN. Uplinks count as such and are not named.
    pub routers: Vec<RouterStatus>,
    /// Ports that get all groups.
    pub open: Vec<Holds>,
    /// Reports that had no place since the switch started.
    pub overflows: u64,
    /// Memberships that are left out of this answer, because it has [`GroupsStatus::MOST`] already.
    pub left_out: usize,
}

impl GroupsStatus {
    /// Most memberships of an answer.
    pub const MOST: usize = 10_000;
}

/// Who asks for members in a VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerierStatus {
    /// The VLAN; 0: the network of ports that know none.
    pub vid: u16,
    /// `igmp` or `mld`.
    pub protocol: String,
    /// `self`, `other` or `none`.
    pub querier: String,
    /// The address of another querier.
    pub address: Option<String>,
    /// Its port.
    pub port: Option<String>,
    /// Frames to groups go to members only. Otherwise they are flooded: nobody has asked, or the members have not had the
    /// time to answer.
    pub filters: bool,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The VLAN.
    pub vid: u16,
    /// The Ethernet address.
    pub group: String,
    /// The ports with members.
    pub members: Vec<Holds>,
}

/// A port with a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The VLAN.
    pub vid: u16,
    /// `igmp` or `mld`: of IPv4 or IPv6.
    pub protocol: String,
    /// The port.
    #[serde(flatten)]
    pub port: Holds,
}

/// A port of which something holds for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// The port.
    pub port: String,
    /// For how many milliseconds, if nothing is heard.
    pub for_ms: u64,
    /// A member has left, and the others are asked.
    #[serde(default)]
    pub leaving: bool,
}
