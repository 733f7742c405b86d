//! Which addresses a port may take, and what threads note about it for the control thread.
//!
//! Each note is one word, so that no reader sees half of it. Threads that move frames write it without a lock or a
//! syscall. The first one to write it asks for a nudge of the control thread
//! ([`crate::forward::forwarder::Forwarder::take_noted`]).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use sv3::attachment::Learning;

/// Shortest time between two reports of a loop at one port, in nanoseconds.
pub const LOOP_QUIET_NS: u64 = 100_000_000;
/// The control thread has taken the conflict. An entry's key does not have this bit: slots are below 2^10.
const TAKEN: u64 = 1 << 63;

/// The rules of one port, and its notes. All zeroes: [`Learning::Free`], and no notes.
#[derive(Default)]
pub struct Rules {
    learning: AtomicU8,
    /// The entry of the forwarding table that the port first tried to take, as its key; 0: none.
    conflict: AtomicU64,
    /// The token of the last frame that looked for loops out of this port; 0: none.
    token: AtomicU64,
    /// The token of such a frame that came in here and is not reported; 0: none.
    found: AtomicU64,
    /// No loop is noted before, in nanoseconds.
    quiet_until_ns: AtomicU64,
}

impl Rules {
    /// The rules of a port that is added now. Only the control thread calls this, while no queue of the port runs.
    pub(super) fn begin(&self, learning: Learning) {
        self.learning.store(learning as u8, Relaxed);
        for word in [&self.conflict, &self.token, &self.found, &self.quiet_until_ns] {
            word.store(0, Relaxed);
        }
    }

    /// Which addresses the port may take.
    #[inline]
    pub fn learning(&self) -> Learning {
        let learning = self.learning.load(Relaxed);
        let is = |wanted: &Learning| *wanted as u8 == learning;
        [Learning::Guarded, Learning::Uplink].into_iter().find(is).unwrap_or_default()
    }

    /// Whether the port is an uplink.
    #[inline]
    pub fn is_uplink(&self) -> bool {
        self.learning.load(Relaxed) == Learning::Uplink as u8
    }

    /// Notes that the port tried to take the entry with this key. True: it is the first one, and the control thread must
    /// be told.
    pub fn note_conflict(&self, key: u64) -> bool {
        key != 0 && self.conflict.load(Relaxed) == 0 && self.conflict.compare_exchange(0, key, Relaxed, Relaxed).is_ok()
    }

    /// The key of the entry that the port first tried to take. Once for each port that is added.
    pub fn take_conflict(&self) -> Option<u64> {
        let key = self.conflict.load(Relaxed);
        let is_new = key != 0 && key & TAKEN == 0;
        is_new.then(|| {
            self.conflict.store(key | TAKEN, Relaxed);
            key
        })
    }

    /// Sets the token of the frame that looks for loops out of this port.
    pub fn set_token(&self, token: u64) {
        self.token.store(token, Relaxed);
    }

    /// The token of the last frame that looked for loops out of this port; 0: none.
    pub fn token(&self) -> u64 {
        self.token.load(Relaxed)
    }

    /// Notes that a frame with this token came in here. True: the control thread must be told. False in the next
    /// [`LOOP_QUIET_NS`].
    pub fn note_loop(&self, token: u64, now_ns: u64) -> bool {
        let until = self.quiet_until_ns.load(Relaxed);
        let next = now_ns.saturating_add(LOOP_QUIET_NS);
        let first = now_ns >= until && self.quiet_until_ns.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        if first {
            self.found.store(token, Relaxed);
        }
        first
    }

    /// The token of a frame that came in here, once.
    pub fn take_loop(&self) -> Option<u64> {
        (self.found.load(Relaxed) != 0).then(|| self.found.swap(0, Relaxed)).filter(|token| *token != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_told_once_for_each_port_that_is_added() {
        let rules = Rules::default();
        assert_eq!((rules.learning(), rules.take_conflict()), (Learning::Free, None));
        for learning in [Learning::Guarded, Learning::Uplink, Learning::Free] {
            rules.begin(learning);
            assert_eq!((rules.learning(), rules.is_uplink()), (learning, learning == Learning::Uplink));
            assert!(!rules.note_conflict(0));
            assert!(rules.note_conflict(7) && !rules.note_conflict(8));
            assert_eq!((rules.take_conflict(), rules.take_conflict()), (Some(7), None));
            assert!(!rules.note_conflict(9));
            assert_eq!(rules.take_conflict(), None);
        }
    }

    #[test]
    fn many_threads_note_one_conflict_and_one_loop() {
        let rules = Rules::default();
        let count = |note: &(dyn Fn(u64) -> bool + Sync)| {
            let tries = |thread: u64| (0..1000).filter(|n| note(1 + thread * 1000 + n)).count();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || tries(thread))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            })
        };
        assert_eq!(count(&|n| rules.note_conflict(n)), 1);
        assert_eq!(count(&|n| rules.note_loop(n, 5)), 1);
        assert!(rules.take_loop().is_some() && rules.take_loop().is_none());
        assert!(!rules.note_loop(3, 4 + LOOP_QUIET_NS) && rules.note_loop(3, 5 + LOOP_QUIET_NS));
        assert_eq!(rules.take_loop(), Some(3));
    }
}
