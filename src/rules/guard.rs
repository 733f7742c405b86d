//! Which sources a port's frames may have, and what they may be.

use serde::{Deserialize, Serialize};

/// Most entries of a list.
pub const LIST_MAX: usize = 64;

/// What a port's frames are held to. They are held to it behind VLAN tags as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Source addresses of Ethernet. They also hold for the hardware addresses in ARP and neighbour discovery.
    pub macs: Sources,
    /// Source addresses of IPv4, and the sender's in ARP; `None`: any. 0.0.0.0 may ask for an address (DHCP, ARP probes).
    pub ipv4: Option<Vec<Prefix4>>,
    /// Source addresses of IPv6, and the targets that neighbour advertisements claim; `None`: any. The unspecified
    /// address may ask whether an address is free (RFC 4862), and link-local addresses must be listed as others.
    pub ipv6: Option<Vec<Prefix6>>,
    /// It may not answer as a DHCP server, of IPv4 or IPv6 (RFC 2131, RFC 7610).
    pub no_dhcp_server: bool,
    /// It may send no router advertisements and no redirects (RFC 6105, RFC 7113).
    pub no_router: bool,
    /// It may send no BPDUs and nothing else that bridges speak among themselves.
    pub no_bridge: bool,
}

/// Source addresses of Ethernet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sources {
    /// Any.
    #[default]
    Any,
    /// The first ones that the port uses, so many, until it is attached anew.
    First(u16),
    /// These.
    Listed(Vec<[u8; 6]>),
}

/// Addresses of IPv4 that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix4 {
    /// The first address.
    pub address: [u8; 4],
    /// How many bits are alike, at most 32.
    pub len: u8,
}

/// Addresses of IPv6 that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix6 {
    /// The first address.
    pub address: [u8; 16],
    /// How many bits are alike, at most 128.
    pub len: u8,
}

impl Guard {
    /// Whether any frame passes.
    pub fn is_open(&self) -> bool {
        *self == Guard::default()
    }

    /// Why this guard cannot be.
    pub fn check(&self) -> Result<(), String> {
        let macs = match &self.macs {
            Sources::Any => 1,
            Sources::First(count) => usize::from(*count),
            Sources::Listed(macs) => {
                if let Some(wrong) = macs.iter().find(|mac| mac[0] & 1 != 0 || **mac == [0; 6]) {
                    return Err(format!("{} is no source address", crate::frame::MacAddr::new(*wrong)));
                }
                macs.len()
            }
        };
        let (ipv4, ipv6) = (self.ipv4.as_ref().map_or(1, Vec::len), self.ipv6.as_ref().map_or(1, Vec::len));
        for (count, what) in [(macs, "MAC"), (ipv4, "IPv4"), (ipv6, "IPv6")] {
            if count > LIST_MAX {
                return Err(format!("{count} {what} addresses, of {LIST_MAX} at most"));
            }
        }
        if macs == 0 {
            return Err("a list of MAC addresses without one: the port could send nothing".to_string());
        }
        let long4 = self.ipv4.iter().flatten().any(|prefix| prefix.len > 32);
        let long6 = self.ipv6.iter().flatten().any(|prefix| prefix.len > 128);
        if long4 || long6 { Err("a prefix is longer than its address".to_string()) } else { Ok(()) }
    }
}
