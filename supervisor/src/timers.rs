//! Deadlines. Each owner lists its own, and says when each is due.

use std::time::Instant;

/// An owner of deadlines.
pub trait Timers {
    /// One of its deadlines.
    type Timer: Copy + 'static;

    /// All of them, in the order in which they are handled.
    const TIMERS: &'static [Self::Timer];

    /// When one is due, if it is set.
    fn when(&self, timer: Self::Timer) -> Option<Instant>;

    /// When the next one is due.
    fn deadline(&self) -> Option<Instant> {
        Self::TIMERS.iter().filter_map(|timer| self.when(*timer)).min()
    }

    /// Whether one is due.
    fn is_due(&self, timer: Self::Timer, now: Instant) -> bool {
        self.when(timer).is_some_and(|due| due <= now)
    }
}
