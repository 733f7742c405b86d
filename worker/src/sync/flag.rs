//! A flag by which threads tell one other thread that there is work in what they share.
//!
//! A thread shares its work first and sets the flag afterwards. The other thread clears the flag first and looks for
//! work afterwards. So the work of a thread that finds the flag set is found as well, and only the thread that sets it
//! first nudges.

use super::primitives::{AtomicU32, Ordering};

/// The flag.
#[derive(Default)]
pub struct Flag(AtomicU32);

impl Flag {
    /// Sets it. True: it was not set, and the caller must see to a nudge.
    pub fn set(&self) -> bool {
        // Always a write, even if the flag is set: the other thread's exchange must come after this one.
        self.0.swap(1, Ordering::AcqRel) == 0
    }

    /// Clears it. True: it was set.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::AcqRel) != 0
    }
}
