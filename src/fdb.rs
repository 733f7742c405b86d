//! The entries of the forwarding table in the ledger ([`crate::ledger::FdbEntry`]): how a worker writes them, and how
//! the supervisor reads them.
//!
//! | bits | of `key` are |
//! |---|---|
//! | 0 to 47 | the address, first octet highest |
//! | 48 to 57 | the slot of its port |
//! | 62 | [`BUSY`] |
//!
//! | bits | of `seen` are |
//! |---|---|
//! | 0 to 31 | when the address was seen last, in seconds of CLOCK_MONOTONIC |
//! | 32 to 43 | the VLAN; 0: the network of ports that know none |
//! | 62 | [`STATIC`] |
//! | 63 | [`MARK`] |
//!
//! All other bits are 0. A key of 0 is a free entry.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::frame::MacAddr;
use crate::ledger::FdbEntry;
use crate::rules::Vid;

/// In `key`: a thread changes the entry.
pub const BUSY: u64 = 1 << 62;
/// In `seen`: the address was added ([`crate::ipc::Command::AddressAdd`]). It does not age.
pub const STATIC: u64 = 1 << 62;
/// In `seen`: the address is to be announced to the network.
pub const MARK: u64 = 1 << 63;
/// Seconds after which an address that was not seen is forgotten (802.1Q, 8.8.3: ageing time).
pub const AGE_S: u64 = 300;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbLine {
    /// The slot of the port.
    pub port: u16,
    /// The VLAN.
    pub vid: Vid,
    /// The address.
    pub mac: MacAddr,
    /// It was added, and does not age.
    pub is_static: bool,
    /// When it was seen last, in seconds of CLOCK_MONOTONIC.
    pub seen_s: u64,
}

impl FdbLine {
    /// Whether it is known at this time, in seconds of CLOCK_MONOTONIC.
    pub fn is_known(&self, now_s: u64) -> bool {
        self.is_static || now_s.saturating_sub(self.seen_s) < AGE_S
    }
}

impl FdbEntry {
    /// What it says; `None`: it is free. A thread that changes it at the same time may give the reader parts of both
    /// lines.
    pub fn line(&self) -> Option<FdbLine> {
        let (key, seen) = (self.key.load(Acquire), self.seen.load(Relaxed));
        let mac = MacAddr::from_bits(key);
        let line = FdbLine {
            port: (key >> 48 & 0x3ff) as u16,
            vid: (seen >> 32 & 0xfff) as Vid,
            mac,
            is_static: seen & STATIC != 0,
            seen_s: seen & u64::from(u32::MAX),
        };
        (!mac.is_zero()).then_some(line)
    }
}
