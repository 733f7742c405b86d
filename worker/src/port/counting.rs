//! Counting in the ledger.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::drop_reason::DropReason;
use sv3::ledger::{PortCounters, add};

/// How counters are written: those of one port by one thread, or by several.
#[derive(Clone, Copy)]
pub struct Counting {
    /// There is one thread.
    pub single_threaded: bool,
}

impl Counting {
    /// Counts more.
    #[inline]
    pub fn add(self, counter: &AtomicU64, n: u64) {
        match self.single_threaded {
            true => add(counter, n),
            false => drop(counter.fetch_add(n, Relaxed)),
        }
    }

    /// Counts a frame that was dropped.
    #[inline]
    pub fn drop(self, line: &PortCounters, reason: DropReason) {
        if let Some(counter) = line.drops.get(reason as usize) {
            self.add(counter, 1);
        }
    }
}
