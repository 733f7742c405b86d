//! What of a queue pair outlives a worker: positions, each in one word of [`sv3::card::PairState`]. All zeroes: a ring
//! that never ran.
//!
//! The card does not reach these words. The worker before may have lied, so what they say is bounded where it is used.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};

use super::memory::CardMemory;

/// Set in the words of positions that count.
const VALID: u64 = 1 << 63;

/// A word of a pair.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// The first receive descriptor whose frame is not forwarded. [`VALID`] if the ring was ever given to the card.
    Received = 0,
    /// The offset behind the last frame that the card has sent and the worker knows of. [`VALID`] if descriptors and
    /// write-back may tell of more.
    Done = 1,
    /// The offset behind the last frame that the worker has published.
    Sent = 2,
}

/// The positions of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// The pair.
    pub pair: u16,
}

impl Positions {
    fn word<'m>(&self, memory: &'m CardMemory, word: Word) -> Option<&'m AtomicU64> {
        memory.state().pairs.get(usize::from(self.pair))?.words.get(word as usize)
    }

    /// A word's number, and whether it counts.
    pub fn load(&self, memory: &CardMemory, word: Word) -> (u64, bool) {
        let value = self.word(memory, word).map_or(0, |word| word.load(Relaxed));
        (value & !VALID, value & VALID != 0)
    }

    /// Stores a number. What was stored before is visible to the next worker first.
    #[inline]
    pub fn store(&self, memory: &CardMemory, word: Word, number: u64, counts: bool) {
        if let Some(word) = self.word(memory, word) {
            word.store(number | if counts { VALID } else { 0 }, Release);
        }
    }

    /// Forgets all of it: a card that is opened anew.
    pub fn clear(&self, memory: &CardMemory) {
        [Word::Received, Word::Done, Word::Sent].into_iter().for_each(|word| self.store(memory, word, 0, false));
    }
}
