//! When a worker may be started.
//!
//! A start takes a processor for milliseconds, so a row of deaths must not cause starts without limit: some may come at
//! once, then one in each [`EVERY`]. If workers die before they serve, the program may be broken: after a few such
//! deaths in a row, each start waits twice as long as the one before. Neither rule delays a standby that is ready.

use std::time::{Duration, Instant};

/// Number of starts that may come at once.
const BURST: u32 = 10;
/// Time between two starts in the long run. One start takes 5 ms or less, on a processor of its own.
const EVERY: Duration = Duration::from_millis(40);
/// So many workers in a row may die before they serve without a longer delay.
const QUICK: u32 = 10;
/// The longest delay before a start.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// The starts of the last time.
pub struct Starts {
    /// When all [`BURST`] starts are available again.
    full: Instant,
    /// Workers in a row that died before they served.
    failures: u32,
    /// No start before, because of these failures.
    earliest: Option<Instant>,
}

impl Starts {
    /// Begins without recent starts.
    pub fn new(now: Instant) -> Starts {
        Starts { full: now, failures: 0, earliest: None }
    }

    /// When the next worker may be started; `now` if that time has passed.
    pub fn due(&self, now: Instant) -> Instant {
        let by_rate = self.full.checked_sub(EVERY * (BURST - 1)).unwrap_or(now);
        by_rate.max(self.earliest.unwrap_or(now)).max(now)
    }

    /// A worker is started.
    pub fn take(&mut self, now: Instant) {
        // Callers that start without asking `due` cannot delay the next start for long.
        self.full = (self.full.max(now) + EVERY).min(now + EVERY * BURST);
    }

    /// A worker died before it served.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(more) = self.failures.checked_sub(QUICK) {
            self.earliest = Some(now + Duration::from_millis(1 << more.min(10)).min(DELAY_MAX));
        }
    }

    /// A worker serves.
    pub fn succeeded(&mut self) {
        (self.failures, self.earliest) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_start_at_once_and_then_one_each_so_often() {
        let start = Instant::now();
        let mut starts = Starts::new(start);
        for _ in 0..BURST {
            assert_eq!(starts.due(start), start);
            starts.take(start);
        }
        for n in 1..50 {
            let due = starts.due(start);
            assert_eq!(due, start + EVERY * n);
            starts.take(due);
        }
        // Fifty deaths 80 ms apart: no start waits.
        let mut starts = Starts::new(start);
        for n in 0..50 {
            let now = start + Duration::from_millis(80) * n;
            assert_eq!(starts.due(now), now);
            starts.take(now);
        }
    }

    #[test]
    fn a_program_that_cannot_live_is_started_ever_later_and_at_once_when_one_has_served() {
        let mut now = Instant::now();
        let mut starts = Starts::new(now);
        let mut waits = Vec::new();
        for _ in 0..QUICK + 12 {
            starts.failed(now);
            let due = starts.due(now + EVERY * BURST);
            waits.push((due - now - EVERY * BURST).as_millis());
            now = due + EVERY * BURST;
        }
        assert!(waits.iter().all(|wait| *wait <= 1000), "{waits:?}");
        starts.failed(now);
        assert_eq!(starts.due(now), now + DELAY_MAX);
        starts.succeeded();
        assert_eq!(starts.due(now), now);
    }
}
