//! What the forwarding table knows: an Ethernet address in a VLAN.

use sv3::frame::MacAddr;
use sv3::rules::Vid;

/// An address in a VLAN, as one number: the address (low 48 bits, first octet highest) and the VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(u64);

impl Address {
    /// An address in a VLAN; 0: the network of ports that know none.
    #[inline]
    pub fn new(mac: MacAddr, vid: Vid) -> Address {
        Address(mac.bits() | u64::from(vid) << 48)
    }

    /// The number.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The address alone.
    #[inline]
    pub fn mac(self) -> MacAddr {
        MacAddr::from_bits(self.0)
    }

    /// The VLAN.
    #[inline]
    pub fn vid(self) -> Vid {
        (self.0 >> 48) as Vid
    }
}

impl From<MacAddr> for Address {
    #[inline]
    fn from(mac: MacAddr) -> Address {
        Address::new(mac, 0)
    }
}
