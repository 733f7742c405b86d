//! Addresses that a port may have.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

    /// Whether a frame may have this source, and the places of which it must claim one before it is forwarded: none if the
    /// port has the address.
    pub(super) fn admit<'c>(&self, mac: MacAddr, claimed: &'c Claimed) -> Option<&'c Claimed> {
        match self {
            _ if self.have(mac.bits(), claimed) => Some(&[]),
            Macs::First(most) if !mac.is_group() && !mac.is_zero() => {
                let places = claimed.get(..*most).unwrap_or(claimed);
                places.iter().any(|place| place.load(Relaxed) == 0).then_some(places)
            }
            _ => None,
        }
    }

    /// Whether the port has this address.
    #[inline]
    pub(super) fn have(&self, bits: u64, claimed: &Claimed) -> bool {
        match self {
            Macs::Any => true,
            // A place that nobody has claimed is no address.
            Macs::First(_) if bits == 0 => false,
            Macs::First(most) => claimed.iter().take(*most).any(|place| place.load(Relaxed) == bits),
            Macs::Listed(macs) => macs.contains(&bits),
        }
    }
}

/// Makes an address the port's own, in one of these places. No places: it is that already. False: they are all another
/// address's by now.
#[inline]
pub fn claim(places: &Claimed, mac: MacAddr) -> bool {
    let bits = mac.bits();
    let is_its = |place: &AtomicU64| match place.load(Relaxed) {
        0 => place.compare_exchange(0, bits, Relaxed, Relaxed).map_or_else(|other| other == bits, |_| true),
        other => other == bits,
    };
    places.is_empty() || places.iter().any(is_its)
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
