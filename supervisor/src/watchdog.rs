//! Finds a worker that is awake and gets nowhere.
//!
//! A worker says [`sv3::ipc::ReportKind::Busy`] when it wakes and has not said so for a while. From then on its
//! heartbeat in the ledger is looked at now and then, until it has slept for longer than it keeps quiet about waking.
//! So a hang is found whenever it begins, and an idle switch has no timer.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sv3::ipc::BUSY_QUIET;
use sv3::ledger::Lane;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// An awake worker whose heartbeat stands still for so long hangs.
const HANG: Duration = Duration::from_millis(500);

/// The watch over one worker.
#[derive(Debug, Default)]
pub struct Watchdog {
    watch: Option<Watch>,
    /// When the worker last said that it had woken.
    said: Option<Instant>,
}

#[derive(Debug)]
struct Watch {
    next: Instant,
    heartbeat: u64,
    /// When the heartbeat was first seen as it is.
    since: Instant,
    /// When the worker was last known to be awake.
    awake: Instant,
}

impl Watchdog {
    /// The worker says that it is awake. False: it has said so just now, which an honest one does not.
    pub fn wake(&mut self, lane: &Lane, now: Instant) -> bool {
        let heartbeat = lane.heartbeat.load(Relaxed);
        let watch = self.watch.get_or_insert(Watch { next: now + LOOK, heartbeat, since: now, awake: now });
        watch.awake = now;
        let last = self.said.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= BUSY_QUIET / 4)
    }

    /// When to look next, if at all.
    pub fn due(&self) -> Option<Instant> {
        self.watch.as_ref().map(|watch| watch.next)
    }

    /// Whether an awake worker's heartbeat stands where it was at the last look.
    pub fn stands_still(&self, lane: &Lane) -> bool {
        let awake = lane.busy.load(Relaxed) != 0;
        awake && self.watch.as_ref().is_some_and(|watch| watch.heartbeat == lane.heartbeat.load(Relaxed))
    }

    /// Looks, if it is time to. True: the worker hangs.
    pub fn look(&mut self, lane: &Lane, now: Instant) -> bool {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.next <= now) else { return false };
        watch.next = now + LOOK;
        let heartbeat = lane.heartbeat.load(Relaxed);
        let awake = lane.busy.load(Relaxed) != 0;
        if heartbeat != watch.heartbeat || !awake {
            (watch.heartbeat, watch.since) = (heartbeat, now);
        }
        if awake {
            watch.awake = now;
        } else if now.saturating_duration_since(watch.awake) > 2 * BUSY_QUIET {
            self.watch = None;
            return false;
        }
        now.saturating_duration_since(watch.since) >= HANG
    }
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    #[test]
    fn a_worker_that_gets_nowhere_is_found_and_one_that_sleeps_is_left_alone() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let [lane, _] = &ledger.lanes;
        let (mut dog, start) = (Watchdog::default(), Instant::now());
        assert_eq!(dog.due(), None);
        lane.busy.store(1, Relaxed);
        assert!(dog.wake(lane, start) && !dog.wake(lane, start));
        let at = |ms| start + Duration::from_millis(ms);
        for ms in (100..2000).step_by(100) {
            lane.heartbeat.fetch_add(1, Relaxed);
            assert!(!dog.look(lane, at(ms)));
        }
        assert!((2000..2400).step_by(100).all(|ms| !dog.look(lane, at(ms))));
        assert!(dog.look(lane, at(2400)));

        lane.busy.store(0, Relaxed);
        let mut dog = Watchdog::default();
        dog.wake(lane, start);
        assert!((100..3000).step_by(100).all(|ms| !dog.look(lane, at(ms))));
        assert_eq!(dog.due(), None);
    }
}
