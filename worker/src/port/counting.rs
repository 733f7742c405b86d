//! Counting in the ledger.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::drop_reason::DropReason;
use sv3::ledger::{PortCounters, add};

/// How counters are written: with one thread, or with several that count for one port.
#[derive(Clone, Copy)]
pub struct Counting {
    /// Only one thread counts.
    pub single_threaded: bool,
}

impl Counting {
    /// Adds `n` to a counter.
    #[inline]
    pub fn add(self, counter: &AtomicU64, n: u64) {
        match self.single_threaded {
            true => add(counter, n),
            false => drop(counter.fetch_add(n, Relaxed)),
        }
    }

    /// Counts a dropped frame.
    #[inline]
    pub fn drop(self, counters: &PortCounters, reason: DropReason) {
        if let Some(counter) = counters.drops.get(reason as usize) {
            self.add(counter, 1);
        }
    }
}
