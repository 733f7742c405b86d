//! Bits that some threads set for another one, which takes them when it has been nudged.
//!
//! Who sets a bit nudges afterwards, and who is nudged looks afterwards: the kernel orders what is written before a write to
//! an eventfd and what is read after the wait that it ends. So a bit is taken in the look that its nudge causes, or in an
//! earlier one, and by one look alone, though nothing here orders anything.

use super::primitives::{AtomicU32, Relaxed};

/// 32 bits.
#[derive(Default)]
pub struct Bits(AtomicU32);

impl Bits {
    /// Sets a bit, by its number; none beyond 31.
    pub fn set(&self, bit: u16) {
        self.0.fetch_or(1u32.checked_shl(bit.into()).unwrap_or(0), Relaxed);
    }

    /// Those among `of` that are set; they are no more.
    pub fn take(&self, of: u32) -> u32 {
        // Mostly none is, and a look leaves the cache line with whoever has it.
        match self.0.load(Relaxed) & of {
            0 => 0,
            some => self.0.fetch_and(!some, Relaxed) & some,
        }
    }
}
