//! What the ledger has of a worker's thread: its heartbeat, its sleep, and its last bursts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::TRACE_LEN;
use crate::ids::QueueId;

/// State of one thread of a worker. Only this thread writes it.
#[repr(C, align(64))]
pub struct ThreadState {
    /// Grows with each turn of the loop.
    pub heartbeat: AtomicU64,
    /// How long the thread has slept, and whether it sleeps now; see [`ThreadState::sleep_clock`].
    pub slept: AtomicU64,
    /// Slot plus one of the client whose ring is being served; 0: none.
    pub port: AtomicU32,
    /// Vring index of that ring.
    pub ring: AtomicU32,
    /// Number of bursts so far. The last one is entry `(bursts - 1) % TRACE_LEN` of the trace.
    pub bursts: AtomicU64,
    /// The trace: the last bursts.
    pub trace: [TraceEntry; TRACE_LEN],
}

/// One burst in the trace.
#[repr(C)]
pub struct TraceEntry {
    /// When it was served, in nanoseconds of CLOCK_MONOTONIC.
    pub when_ns: AtomicU64,
    /// Slot (bits 32 to 47), vring index (bits 16 to 31) and chains taken (bits 0 to 15).
    pub what: AtomicU64,
}

/// How long a thread has slept, and whether it sleeps now, in one word, so that a reader never sees half of a change.
/// Bit 0: it is awake. The other bits: the nanoseconds that it has slept in total. While it sleeps, they are less by
/// the CLOCK_MONOTONIC time at which it fell asleep, in nanoseconds. 0: a thread that has always slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepClock(u64);

impl SleepClock {
    /// Whether the thread is awake.
    pub fn is_awake(self) -> bool {
        self.0 & 1 != 0
    }

    /// Nanoseconds that the thread was awake until `now_ns` of CLOCK_MONOTONIC. They do not count from a known time:
    /// only differences mean something.
    pub fn awake_ns(self, now_ns: u64) -> u64 {
        let until = if self.is_awake() { now_ns } else { 0 };
        until.wrapping_sub(self.slept())
    }

    fn slept(self) -> u64 {
        self.0 & !1
    }
}

/// Nanoseconds of each sleep that count as awake: to fall asleep and to wake up costs processor time.
const SLEEP_COST_NS: u64 = 20_000;

impl ThreadState {
    /// The thread's sleep clock.
    pub fn sleep_clock(&self) -> SleepClock {
        SleepClock(self.slept.load(Relaxed))
    }

    /// Notes that the thread falls asleep at `now_ns` of CLOCK_MONOTONIC.
    #[inline]
    pub fn fall_asleep(&self, now_ns: u64) {
        if self.sleep_clock().is_awake() {
            self.slept.store(self.sleep_clock().slept().wrapping_sub(now_ns) & !1, Relaxed);
        }
    }

    /// Notes that the thread woke at `now_ns` after it fell asleep at `then_ns`.
    #[inline]
    pub fn wake_up(&self, then_ns: u64, now_ns: u64) {
        let before = self.sleep_clock().slept().wrapping_add(then_ns);
        let slept = before.wrapping_add(now_ns.wrapping_sub(then_ns).saturating_sub(SLEEP_COST_NS));
        self.slept.store(slept | 1, Relaxed);
    }

    /// Adds a burst to the trace.
    #[inline]
    pub fn trace_burst(&self, when_ns: u64, queue: QueueId, chains: u16) {
        let number = self.bursts.load(Relaxed);
        if let Some(entry) = self.trace.get((number % TRACE_LEN as u64) as usize) {
            entry.when_ns.store(when_ns, Relaxed);
            entry.what.store(u64::from(queue.slot) << 32 | u64::from(queue.index) << 16 | u64::from(chains), Relaxed);
        }
        self.bursts.store(number.wrapping_add(1), Relaxed);
    }

    /// The trace, newest first: time (nanoseconds), slot, vring index, chains.
    pub fn read_trace(&self) -> Vec<(u64, u16, u16, u16)> {
        let number = self.bursts.load(Relaxed);
        let known = number.min(TRACE_LEN as u64);
        let at = |back: u64| self.trace.get((number.wrapping_sub(back) % TRACE_LEN as u64) as usize);
        let newest_first = (1..=known).filter_map(at);
        newest_first
            .map(|entry| {
                let what = entry.what.load(Relaxed);
                (entry.when_ns.load(Relaxed), (what >> 32) as u16, (what >> 16) as u16, what as u16)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LedgerMap;

    #[test]
    fn the_trace_keeps_the_last_bursts() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let thread = ledger.workers[0].thread(0).unwrap();
        assert!(thread.read_trace().is_empty());
        for n in 0..100 {
            thread.trace_burst(u64::from(n), QueueId::new(n, 3), n + 1);
        }
        let bursts = thread.read_trace();
        assert_eq!(bursts.len(), TRACE_LEN);
        assert_eq!((bursts[0], bursts[31]), ((99, 99, 3, 100), (68, 68, 3, 69)));
    }

    #[test]
    fn a_thread_s_time_awake_is_told_whenever_one_looks() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let thread = ledger.workers[0].thread(1).unwrap();
        let start = 1 << 40;
        let at = |now: u64| thread.sleep_clock().awake_ns(now);
        // As at the start: asleep. It falls asleep once more.
        let never = at(start);
        thread.fall_asleep(start);
        assert_eq!((thread.sleep_clock().is_awake(), at(start + 5)), (false, never));
        thread.wake_up(start, start + 1_000_000);
        let since = at(start + 1_000_000);
        assert_eq!((thread.sleep_clock().is_awake(), since.wrapping_sub(never)), (true, SLEEP_COST_NS));
        assert_eq!(at(start + 1_000_700).wrapping_sub(since), 700);
        thread.fall_asleep(start + 1_001_000);
        assert_eq!([0, 9_000_000].map(|later| at(start + 1_001_000 + later).wrapping_sub(since)), [1000; 2]);
        // A sleep that is shorter than the cost of a sleep.
        thread.wake_up(start + 1_001_000, start + 1_001_006);
        assert_eq!(at(start + 1_001_006).wrapping_sub(since), 1006);
    }
}
