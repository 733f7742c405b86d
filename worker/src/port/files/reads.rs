//! How much of a stream is read at a time.
//!
//! The kernel keeps each write of the peer in a buffer of its own. Octets that were written one by one take a hundred
//! times as long to read as those that were written together, and other ports wait meanwhile. The peer decides that,
//! so a read is charged for the time that it took, and the next one is shorter if that was long.

use crate::port::cost::FILE_READ;

/// Octets that one read may give at least, and at most.
const FEWEST: usize = 64;
const MOST: usize = 128 * 1024;
/// Octets that the first read may give.
const FIRST: usize = 16 * 1024;
/// A read that takes longer is long, in nanoseconds; one that takes less than half of that is short.
const LONG_NS: u64 = 5_000;
/// The longest time that is charged, in nanoseconds: the thread may have lost its processor meanwhile.
const MOST_NS: u64 = 100_000;
/// Units of cost in a nanosecond.
const NS: u64 = 8;

/// The reads of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    most: usize,
}

impl Reads {
    /// Before the first read.
    pub fn new() -> Reads {
        Reads { most: FIRST }
    }

    /// Octets that the next read may give.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Notes a read of so many octets, and how long it took, in nanoseconds. Returns its cost.
    pub fn note(&mut self, octets: usize, ns: u64) -> u64 {
        if ns > LONG_NS {
            self.most = (octets / 2).clamp(FEWEST, MOST);
        } else if ns < LONG_NS / 2 && octets >= self.most {
            self.most = (self.most * 2).min(MOST);
        }
        (FILE_READ + octets as u64).max(NS * ns.min(MOST_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last read of a peer whose octets cost so many nanoseconds each.
    fn settled(ns_of: impl Fn(usize) -> u64) -> (usize, u64) {
        let mut reads = Reads::new();
        for _ in 0..20 {
            reads.note(reads.most(), ns_of(reads.most()));
        }
        (reads.most(), ns_of(reads.most()))
    }

    #[test]
    fn a_read_is_short_in_time_whatever_the_peer_writes() {
        // Writes of 1 octet, of one small frame, of 8, and of 32 KiB.
        let cases =
            [1, 68, 544, 32 * 1024].map(|len| settled(|octets| 300 + (octets / len * 150 + octets / 10) as u64));
        assert_eq!(cases[0].0, FEWEST);
        for (octets, ns) in &cases[1..] {
            assert!(*ns <= 2 * LONG_NS, "{octets} octets in {ns} ns");
        }
        assert!(cases[3].0 >= 16 * 1024, "long writes are read at once");
        assert!(cases[0].0 < cases[1].0, "{cases:?}");
    }

    #[test]
    fn a_read_costs_its_time_and_a_lost_processor_is_not_charged() {
        let mut reads = Reads::new();
        assert_eq!(reads.note(100, 0), FILE_READ + 100);
        assert_eq!(reads.note(100, 20_000), 160_000);
        assert_eq!(reads.note(100, u64::MAX), 800_000);
        assert_eq!(reads.most(), FEWEST);
    }
}
