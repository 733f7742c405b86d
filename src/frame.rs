//! Ethernet addresses and header fields, decoded from a copy of a frame's first octets.

use std::fmt;

/// Octets of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Octets of the largest frame: an Ethernet header with two VLAN tags, an IPv6 header, and its largest payload.
pub const MAX_FRAME: usize = ETHERNET_LEN + 8 + 40 + 65535;

/// A 48-bit Ethernet address. Ordered and hashed by value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(u64);

impl MacAddr {
    /// Makes an address of six octets in wire order.
    pub const fn new(o: [u8; 6]) -> MacAddr {
        MacAddr(u64::from_be_bytes([0, 0, o[0], o[1], o[2], o[3], o[4], o[5]]))
    }

    /// Makes an address of the low 48 bits of a number, first octet highest.
    pub const fn from_bits(bits: u64) -> MacAddr {
        MacAddr(bits & ((1 << 48) - 1))
    }

    /// The address as a number below 2^48, first octet highest.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The six octets in wire order.
    pub const fn octets(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Group address: multicast or broadcast (802-2014, 8.2.2).
    pub const fn is_group(self) -> bool {
        self.0 & (1 << 40) != 0
    }

    /// Whether all octets are zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// One of the addresses 01-80-C2-00-00-00 to -0F, which bridges do not forward (802.1Q-2022, 8.6.3).
    pub const fn is_link_local(self) -> bool {
        self.0 & !0xf == 0x0180_c200_0000
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_their_kind() {
        assert!(MacAddr::new([0xff; 6]).is_group());
        assert!(MacAddr::new([1, 0x80, 0xc2, 0, 0, 0xe]).is_link_local());
        assert!(!MacAddr::new([1, 0x80, 0xc2, 0, 0, 0x10]).is_link_local());
        let mac = MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert!(!mac.is_group() && !mac.is_link_local() && !mac.is_zero());
        assert_eq!(mac.to_string(), "52:54:00:12:34:56");
        assert_eq!(MacAddr::from_bits(mac.bits()).octets(), mac.octets());
    }
}
