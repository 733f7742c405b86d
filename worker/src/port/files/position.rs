//! The state of an input, in one word of the ledger.

use sv3::ledger::INPUT_HALF;

/// Where the octets of a half begin. With the 4 octets of a length, 12 octets are in front of the first frame.
pub const FIRST: usize = 8;

/// Which octets are waiting: `[start, end)` of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where the oldest frame's length begins.
    pub start: usize,
    /// Where the next octet will be.
    pub end: usize,
    /// Which half, 0 or 1.
    pub half: usize,
    /// Which message the next octets are received with, 0 or 1.
    pub message: usize,
}

/// Bits of an offset in a half.
const BITS: u32 = 18;
const MASK: usize = (1 << BITS) - 1;
const _: () = assert!(INPUT_HALF <= MASK);

impl Position {
    /// No octets.
    pub const EMPTY: Position = Position { start: FIRST, end: FIRST, half: 0, message: 0 };

    /// As one word.
    #[inline]
    pub fn pack(self) -> u64 {
        let Position { start, end, half, message } = self;
        (start | end << BITS | half << (2 * BITS) | message << (2 * BITS + 1)) as u64
    }

    /// Reads any word.
    pub fn unpack(word: u64) -> Position {
        let word = word as usize;
        let (start, end) = (word & MASK, word >> BITS & MASK);
        Position { start, end, half: word >> (2 * BITS) & 1, message: word >> (2 * BITS + 1) & 1 }
    }

    /// Whether such octets can be waiting.
    pub fn is_possible(self) -> bool {
        FIRST <= self.start && self.start <= self.end && self.end <= INPUT_HALF
    }

    /// The first octets are taken away. What is then empty begins anew.
    #[inline]
    pub fn without(mut self, octets: usize) -> Position {
        self.start = self.end.min(self.start + octets);
        if self.start == self.end {
            (self.start, self.end) = (FIRST, FIRST);
        }
        self
    }
}
