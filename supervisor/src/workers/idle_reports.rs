//! Reports of a worker that bring no news. A few are honest: an uplink that sends each frame back returns frames that
//! look for loops as well, 10 a second. A worker that sends many is hijacked.

use std::time::{Duration, Instant};

/// Most such reports within [`WINDOW`].
const MOST: u32 = 65_536;
const WINDOW: Duration = Duration::from_secs(60);

/// The reports without news of one worker.
#[derive(Debug, Default)]
pub struct IdleReports {
    since: Option<Instant>,
    count: u32,
}

impl IdleReports {
    /// Counts one more. Returns whether these are too many.
    pub fn add(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= WINDOW {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count > MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_found_and_a_trickle_of_years_is_none() {
        let now = Instant::now();
        let mut reports = IdleReports::default();
        assert!((0..MOST).all(|_| !reports.add(now)));
        assert!(reports.add(now + WINDOW / 2));
        let mut reports = IdleReports::default();
        assert!((0..10 * MOST).all(|n| !reports.add(now + Duration::from_millis(100) * n)));
    }
}
