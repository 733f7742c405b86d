//! Times in a record: nanoseconds of CLOCK_MONOTONIC.

use std::time::{Duration, Instant};

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// Translates between [`Instant`]s of this process and numbers that another process understands.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: Instant,
    now_ns: i64,
}

impl Clock {
    /// A clock for one record.
    pub fn new() -> Clock {
        // The clock is always there (clock_gettime(2)).
        let now_ns = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| time.num_nanoseconds());
        Clock { now: Instant::now(), now_ns }
    }

    /// The number of a time.
    pub fn number(&self, time: Instant) -> i64 {
        let ns = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        match time.checked_duration_since(self.now) {
            Some(later) => self.now_ns.saturating_add(ns(later)),
            None => self.now_ns.saturating_sub(ns(self.now.saturating_duration_since(time))),
        }
    }

    /// The time of a number. A time that an [`Instant`] cannot hold becomes now.
    pub fn time(&self, number: i64) -> Instant {
        let away = Duration::from_nanos(number.abs_diff(self.now_ns));
        let time = if number >= self.now_ns { self.now.checked_add(away) } else { self.now.checked_sub(away) };
        time.unwrap_or(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clock_reads_the_same_time() {
        let (ours, theirs) = (Clock::new(), Clock::new());
        for time in [Instant::now() + Duration::from_secs(600), Instant::now() - Duration::from_millis(3)] {
            let read = theirs.time(ours.number(time));
            let off = read.max(time) - read.min(time);
            assert!(off < Duration::from_millis(50), "{off:?}");
        }
        for number in [i64::MIN, i64::MAX, 0, -1] {
            ours.time(number);
        }
    }
}
