//! How many interrupts a second a queue pair may raise, by what it moves.
//!
//! A thread that is woken for each frame spends more on waking than on frames. A thread that is woken seldom lets the
//! other side of a request wait. So a pair with few or short frames may interrupt often, and one that moves bulk seldom.
//! The size of frames tells which it is, and how many came between two interrupts tells whether to believe it.

/// Interrupts a second while a pair is quiet, in between, and in bulk.
const QUIET: u32 = 100_000;
const BETWEEN: u32 = 20_000;
const BULK: u32 = 8_000;
/// Frames of one waking from which on it is no request and answer, and from which on it is bulk whatever their size.
const FEW: u64 = 4;
const MANY: u64 = 64;
/// Octets of a frame that carries bulk.
const LONG: u64 = 800;

/// The rate of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    now: u32,
    /// The card was told. A card that was opened has a rate of its own.
    is_told: bool,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate { now: BETWEEN, is_told: false }
    }
}

impl Rate {
    /// A thread that was woken by the pair has moved `frames` and `octets` before it sleeps again. The new rate, if the
    /// card has another one: it goes one step at a time.
    #[inline]
    pub fn slept(&mut self, frames: u64, octets: u64) -> Option<u32> {
        let aim = match frames {
            0..FEW => QUIET,
            FEW..MANY if octets / frames < LONG => BETWEEN,
            _ => BULK,
        };
        let next = match (self.now, aim) {
            (QUIET, BULK) | (BULK, QUIET) => BETWEEN,
            _ => aim,
        };
        let is_new = self.now != next || !self.is_told;
        *self = Rate { now: next, is_told: true };
        is_new.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_interrupts_seldom_and_requests_often() {
        let mut rate = Rate::default();
        assert_eq!(rate.slept(1, 64), Some(QUIET));
        assert_eq!(rate.slept(1, 64), None, "no register is written for nothing");
        assert_eq!(rate.slept(40, 40 * 1500), Some(BETWEEN), "one step at a time");
        assert_eq!(rate.slept(40, 40 * 1500), Some(BULK));
        assert_eq!(rate.slept(200, 200 * 64), None, "many short frames are bulk too");
        assert_eq!(rate.slept(10, 10 * 64), Some(BETWEEN));
        assert_eq!(rate.slept(0, 0), Some(QUIET));
    }

    #[test]
    fn a_card_that_was_opened_is_told_the_rate_that_it_is_to_keep() {
        let mut rate = Rate::default();
        assert_eq!(rate.slept(10, 10 * 64), Some(BETWEEN));
        assert_eq!(rate.slept(10, 10 * 64), None);
    }
}
