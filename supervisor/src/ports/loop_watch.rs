//! Finds uplinks that lead into one network: frames would go round through the switch without end.
//!
//! While two or more uplinks run, a frame with a secret token goes out of each of them every [`EVERY`]. If it comes in
//! at another uplink, there is a loop. With fewer uplinks no timer runs.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Time between two rounds.
const EVERY: Duration = Duration::from_millis(400);
/// Tokens that are remembered: those of the last rounds.
const KNOWN_MAX: usize = 128;

/// The watch.
pub struct LoopWatch {
    /// When the next round begins.
    next: Instant,
    secret: RandomState,
    count: u64,
    /// The slot and the token of each frame, the last one first.
    sent: VecDeque<(u16, u64)>,
}

impl LoopWatch {
    /// The first round begins at once.
    pub fn new() -> LoopWatch {
        LoopWatch { next: Instant::now(), secret: RandomState::new(), count: 0, sent: VecDeque::new() }
    }

    /// When the next round begins, if there are so many uplinks.
    pub fn due(&self, uplinks: usize) -> Option<Instant> {
        (uplinks > 1).then_some(self.next)
    }

    /// A round begins: a token for each of these slots.
    pub fn round(&mut self, slots: &[u16], now: Instant) -> Vec<(u16, u64)> {
        self.next = now + EVERY;
        let mut tokens = Vec::new();
        for slot in slots {
            self.count = self.count.wrapping_add(1);
            // Nobody can predict it: the standard library takes the keys from the kernel.
            tokens.push((*slot, self.secret.hash_one(self.count)));
        }
        tokens.iter().for_each(|sent| self.sent.push_front(*sent));
        self.sent.truncate(KNOWN_MAX.max(2 * slots.len()));
        tokens
    }

    /// A frame with this token came in at the uplink in slot `at`. Returns the slot that it was sent out of, if that is
    /// another one.
    pub fn origin(&self, at: u16, token: u64) -> Option<u16> {
        let (slot, _) = self.sent.iter().find(|(_, sent)| *sent == token)?;
        Some(*slot).filter(|slot| *slot != at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_comes_in_at_another_uplink_tells_where_it_went_out() {
        let (mut watch, now) = (LoopWatch::new(), Instant::now());
        assert!(watch.due(0).is_none() && watch.due(1).is_none());
        assert!(watch.due(2).is_some_and(|due| due <= now));
        let [(3, first), (9, second)] = watch.round(&[3, 9], now)[..] else { panic!() };
        assert_eq!(watch.due(2), Some(now + EVERY));
        assert_ne!(first, second);
        assert_eq!((watch.origin(9, first), watch.origin(3, second)), (Some(3), Some(9)));
        assert_eq!((watch.origin(3, first), watch.origin(9, 7)), (None, None), "an echo, and a guess");
        (0..KNOWN_MAX).for_each(|_| drop(watch.round(&[3, 9], now)));
        assert_eq!(watch.origin(9, first), None, "too old");
    }
}
