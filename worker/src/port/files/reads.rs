//! How much of a stream is read at a time.
//!
//! The kernel keeps each write of the peer in a buffer of its own. Octets that were written one by one take a hundred
//! times as long to read as those that were written together, and other ports wait meanwhile. The peer decides that,
//! so a read is charged for the time that it took, and the next one is shorter if that was long. What every syscall
//! takes does not count as long: a shorter read would not save it, and some machines need long for it (a tracer, a
//! sandbox that emulates syscalls).

use std::os::fd::BorrowedFd;

use crate::memory::file_io;
use crate::port::cost::FILE_READ;
use crate::process::clock;

/// Octets that one read may give at least, and at most.
const FEWEST: usize = 64;
const MOST: usize = 128 * 1024;
/// Octets that the first read may give.
const FIRST: usize = 16 * 1024;
/// A read that takes so much longer than a syscall is long, in nanoseconds; one that takes less than half of that is
/// short.
const LONG_NS: u64 = 5_000;
/// How often a syscall is measured. The shortest time counts.
const TRIALS: usize = 3;
/// The longest time that is charged, in nanoseconds: the thread may have lost its processor meanwhile.
const MOST_NS: u64 = 100_000;
/// Units of cost in a nanosecond.
const NS: u64 = 8;

/// The reads of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    most: usize,
    /// What a syscall takes at least, in nanoseconds.
    syscall_ns: u64,
}

impl Reads {
    /// Before the first read, where a syscall takes so long, in nanoseconds.
    pub fn new(syscall_ns: u64) -> Reads {
        Reads { most: FIRST, syscall_ns }
    }

    /// Measures a syscall at the socket that is to be read.
    pub fn begin(socket: BorrowedFd<'_>) -> Reads {
        let trial = || {
            let begin = clock::now_ns();
            let _ = file_io::unreceived(socket);
            clock::now_ns().saturating_sub(begin)
        };
        Reads::new((0..TRIALS).map(|_| trial()).min().unwrap_or(0))
    }

    /// Octets that the next read may give.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Notes a read of so many octets, and how long it took, in nanoseconds. Returns its cost.
    pub fn note(&mut self, octets: usize, ns: u64) -> u64 {
        // A read does more than the syscall that was measured.
        let beyond = ns.saturating_sub(2 * self.syscall_ns);
        if beyond > LONG_NS {
            self.most = (octets / 2).clamp(FEWEST, MOST);
        } else if beyond < LONG_NS / 2 && octets >= self.most {
            self.most = (self.most * 2).min(MOST);
        }
        (FILE_READ + octets as u64).max(NS * ns.min(MOST_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last read of a peer whose octets cost so many nanoseconds each.
    fn settled(syscall_ns: u64, ns_of: impl Fn(usize) -> u64) -> (usize, u64) {
        let mut reads = Reads::new(syscall_ns);
        for _ in 0..20 {
            reads.note(reads.most(), ns_of(reads.most()));
        }
        (reads.most(), ns_of(reads.most()))
    }

    #[test]
    fn a_read_is_short_in_time_whatever_the_peer_writes() {
        // Writes of 1 octet, of one small frame, of 8, and of 32 KiB.
        let cases =
            [1, 68, 544, 32 * 1024].map(|len| settled(0, |octets| 300 + (octets / len * 150 + octets / 10) as u64));
        assert_eq!(cases[0].0, FEWEST);
        for (octets, ns) in &cases[1..] {
            assert!(*ns <= 2 * LONG_NS, "{octets} octets in {ns} ns");
        }
        assert!(cases[3].0 >= 16 * 1024, "long writes are read at once");
        assert!(cases[0].0 < cases[1].0, "{cases:?}");
    }

    #[test]
    fn a_slow_syscall_does_not_shorten_reads() {
        let slow = 100_000;
        let cases = [1, 32 * 1024].map(|len| settled(slow, |octets| slow + (octets / len * 150 + octets / 10) as u64));
        assert!(cases[0].0 <= 1024, "{cases:?}");
        assert!(cases[1].0 >= 16 * 1024, "{cases:?}");
    }

    #[test]
    fn a_read_costs_its_time_and_a_lost_processor_is_not_charged() {
        let mut reads = Reads::new(0);
        assert_eq!(reads.note(100, 0), FILE_READ + 100);
        assert_eq!(reads.note(100, 20_000), 160_000);
        assert_eq!(reads.note(100, u64::MAX), 800_000);
        assert_eq!(reads.most(), FEWEST);
    }
}
