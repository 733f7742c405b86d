//! Bits that some threads set for one other thread. That thread takes them after a nudge.
//!
//! A thread sets a bit first and nudges afterwards. The other thread is nudged first and looks afterwards. The kernel
//! orders writes before a write to an eventfd with reads after the wait that this write ends. So a bit is taken in
//! the look after its nudge, or in an earlier one, and in one look only, although the code here needs no ordering.

use super::primitives::{AtomicU32, Relaxed};

/// 32 bits.
#[derive(Default)]
pub struct Bits(AtomicU32);

impl Bits {
    /// Sets a bit by its number. Numbers above 31 set none.
    pub fn set(&self, bit: u16) {
        self.0.fetch_or(1u32.checked_shl(bit.into()).unwrap_or(0), Relaxed);
    }

    /// Whether a bit is set.
    #[cfg_attr(test, allow(dead_code, reason = "the models do not need it"))]
    pub fn has(&self, bit: u16) -> bool {
        self.0.load(Relaxed) & 1u32.checked_shl(bit.into()).unwrap_or(0) != 0
    }

    /// The set bits among `of`. Clears them.
    pub fn take(&self, of: u32) -> u32 {
        // Usually no bit is set. Then this load leaves the cache line with the thread that has it.
        match self.0.load(Relaxed) & of {
            0 => 0,
            some => self.0.fetch_and(!some, Relaxed) & some,
        }
    }
}
