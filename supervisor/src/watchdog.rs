//! Finds a worker that is awake and gets nowhere.
//!
//! A worker says [`sv3::ipc::ReportKind::Busy`] when it wakes and has not said so for a while. From then on the heartbeats
//! of its threads in the ledger are looked at now and then, until all have slept for longer than it keeps quiet about
//! waking. So a hang is found whenever it begins, and an idle switch has no timer.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sv3::ipc::BUSY_QUIET;
use sv3::ledger::{Hand, Lane};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// An awake thread whose heartbeat stands still for so long hangs.
const HANG: Duration = Duration::from_millis(500);

/// The watch over one worker.
#[derive(Debug)]
pub struct Watchdog {
    threads: usize,
    watch: Option<Watch>,
    /// When the worker last said that it had woken.
    said: Option<Instant>,
}

#[derive(Debug)]
struct Watch {
    next: Instant,
    /// By thread: the heartbeat, and when it was first seen as it is.
    hearts: Vec<(u64, Instant)>,
    /// When a thread was last known to be awake.
    awake: Instant,
}

impl Watchdog {
    /// A watchdog that sleeps, for workers of so many threads.
    pub fn new(threads: usize) -> Watchdog {
        Watchdog { threads, watch: None, said: None }
    }

    /// The worker says that it is awake. False: it has said so just now, which an honest one does not.
    pub fn wake(&mut self, lane: &Lane, now: Instant) -> bool {
        let hands = lane.hands.iter().take(self.threads);
        let hearts = || hands.map(|hand| (hand.heartbeat.load(Relaxed), now)).collect();
        let watch = self.watch.get_or_insert_with(|| Watch { next: now + LOOK, hearts: hearts(), awake: now });
        watch.awake = now;
        let last = self.said.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= BUSY_QUIET / 4)
    }

    /// When to look next, if at all.
    pub fn due(&self) -> Option<Instant> {
        self.watch.as_ref().map(|watch| watch.next)
    }

    /// Whether an awake thread's heartbeat stands where it was at the last look.
    pub fn stands_still(&self, lane: &Lane) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut hands = watch.hearts.iter().zip(&lane.hands);
        hands.any(|((beat, _), hand)| is_awake(hand) && *beat == hand.heartbeat.load(Relaxed))
    }

    /// Looks, if it is time to. The thread that hangs, if one does: one that has a client in hand before one that has
    /// none, since that may only wait for the other.
    pub fn look(&mut self, lane: &Lane, now: Instant) -> Option<usize> {
        let watch = self.watch.as_mut().filter(|watch| watch.next <= now)?;
        watch.next = now + LOOK;
        let mut hangs = None;
        for (number, ((beat, since), hand)) in watch.hearts.iter_mut().zip(&lane.hands).enumerate() {
            let heartbeat = hand.heartbeat.load(Relaxed);
            let awake = is_awake(hand);
            if heartbeat != *beat || !awake {
                (*beat, *since) = (heartbeat, now);
            }
            if awake {
                watch.awake = now;
            }
            if now.saturating_duration_since(*since) >= HANG {
                let empty = hand.port.load(Relaxed) == 0;
                hangs = hangs.into_iter().chain([(empty, number)]).min();
            }
        }
        if now.saturating_duration_since(watch.awake) > 2 * BUSY_QUIET {
            self.watch = None;
        }
        hangs.map(|(_, number)| number)
    }
}

fn is_awake(hand: &Hand) -> bool {
    hand.busy.load(Relaxed) != 0
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    #[test]
    fn a_worker_that_gets_nowhere_is_found_and_one_that_sleeps_is_left_alone() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let lane = &ledger.lanes[0];
        let hand = lane.hand(1);
        let (mut dog, start) = (Watchdog::new(2), Instant::now());
        assert_eq!(dog.due(), None);
        hand.busy.store(1, Relaxed);
        assert!(dog.wake(lane, start) && !dog.wake(lane, start));
        let at = |ms| start + Duration::from_millis(ms);
        for ms in (100..2000).step_by(100) {
            hand.heartbeat.fetch_add(1, Relaxed);
            assert_eq!(dog.look(lane, at(ms)), None);
        }
        assert!((2000..2400).step_by(100).all(|ms| dog.look(lane, at(ms)).is_none()));
        assert_eq!(dog.look(lane, at(2400)), Some(1));

        hand.busy.store(0, Relaxed);
        let mut dog = Watchdog::new(2);
        dog.wake(lane, start);
        assert!((100..3000).step_by(100).all(|ms| dog.look(lane, at(ms)).is_none()));
        assert_eq!(dog.due(), None);
    }

    #[test]
    fn of_two_that_hang_the_one_with_a_client_in_hand_is_found() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let lane = &ledger.lanes[0];
        let (mut dog, start) = (Watchdog::new(3), Instant::now());
        [0, 2].into_iter().for_each(|number| lane.hand(number).busy.store(1, Relaxed));
        lane.hand(2).port.store(7, Relaxed);
        dog.wake(lane, start);
        assert_eq!(dog.look(lane, start + HANG), Some(2));
    }
}
