//! Addresses that a port may have.

use std::sync::atomic::Ordering::Relaxed;

use sv3::frame::MacAddr;
use sv3::rules::{Prefix4, Prefix6, Sources};

use super::Claimed;

/// Source addresses of Ethernet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Macs {
    Any,
    /// The first ones that the port uses, so many.
    First(usize),
    /// These, as numbers.
    Listed(Box<[u64]>),
}

/// Addresses of IPv4 that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net4 {
    address: u32,
    mask: u32,
}

/// Addresses of IPv6 that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net6 {
    address: u128,
    mask: u128,
}

impl Macs {
    pub(super) fn of(sources: &Sources) -> Macs {
        match sources {
            Sources::Any => Macs::Any,
            Sources::First(count) => Macs::First((*count).into()),
            Sources::Listed(macs) => Macs::Listed(macs.iter().map(|mac| MacAddr::new(*mac).bits()).collect()),
        }
    }

    /// Whether a frame may have this source. The first ones are claimed by that.
    pub(super) fn take(&self, mac: [u8; 6], claimed: &Claimed) -> bool {
        let (mac, bits) = (MacAddr::new(mac), MacAddr::new(mac).bits());
        match self {
            Macs::First(_) if mac.is_group() || mac.is_zero() => false,
            Macs::First(most) => claimed.iter().take(*most).any(|place| match place.load(Relaxed) {
                0 => place.compare_exchange(0, bits, Relaxed, Relaxed).map_or_else(|other| other == bits, |_| true),
                other => other == bits,
            }),
            _ => self.have(bits, claimed),
        }
    }

    /// Whether the port has this address.
    #[inline]
    pub(super) fn have(&self, bits: u64, claimed: &Claimed) -> bool {
        match self {
            Macs::Any => true,
            // A place that is free is 0.
            Macs::First(most) => bits != 0 && claimed.iter().take(*most).any(|place| place.load(Relaxed) == bits),
            Macs::Listed(macs) => macs.contains(&bits),
        }
    }
}

impl Net4 {
    pub(super) fn of(prefix: &Prefix4) -> Net4 {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len.min(32))).unwrap_or(0);
        Net4 { address: u32::from_be_bytes(prefix.address) & mask, mask }
    }

    #[inline]
    pub(super) fn has(&self, address: u32) -> bool {
        address & self.mask == self.address
    }
}

impl Net6 {
    pub(super) fn of(prefix: &Prefix6) -> Net6 {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len.min(128))).unwrap_or(0);
        Net6 { address: u128::from_be_bytes(prefix.address) & mask, mask }
    }

    #[inline]
    pub(super) fn has(&self, address: u128) -> bool {
        address & self.mask == self.address
    }
}
