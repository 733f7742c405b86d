//! Counts deaths of workers by the client process that is to blame, and puts a process in quarantine.
//!
//! A client is identified by its process id, also after it has disconnected and connected again. A process that is
//! blamed `limit` times within the window goes into quarantine ([`crate::clients::offences`]).

use std::time::Instant;

use crate::clients::offences::Offences;
use crate::estate::Clock;
use crate::estate::record::OffenderRecord;

/// Processes that are remembered.
const KNOWN_MAX: usize = 1024;

/// The processes that were blamed lately.
pub struct Blames {
    offences: Offences<i32>,
}

impl Blames {
    /// Starts without blamed processes. `limit` deaths within the window mean quarantine; 0: never.
    pub fn new(limit: usize) -> Blames {
        Blames { offences: Offences::new(limit, KNOWN_MAX) }
    }

    /// A worker died, and `pid` is to blame. Returns the end of the quarantine if one begins.
    pub fn blame(&mut self, pid: i32, now: Instant) -> Option<Instant> {
        self.offences.blame(pid, (now, pid), |deaths| deaths.len())
    }

    /// The end of the quarantine of `pid`, if `pid` is in quarantine.
    pub fn until(&self, pid: i32, now: Instant) -> Option<Instant> {
        let known = self.offences.known().find(|known| known.offender == pid)?;
        known.until.filter(|until| *until > now)
    }

    /// Ends the quarantine of `pid`. The next one is still twice as long as this one.
    pub fn release(&mut self, pid: i32, now: Instant) {
        self.offences.release(pid, now);
    }

    /// The blamed processes, for the next supervisor.
    pub fn record(&self, clock: Clock) -> Vec<OffenderRecord<i32>> {
        self.offences.record(clock)
    }

    /// Takes over the blamed processes of the last supervisor.
    pub fn restore(&mut self, records: Vec<OffenderRecord<i32>>, clock: Clock) {
        self.offences.restore(records, clock);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::offences::FORGIVE;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn three_deaths_in_ten_seconds_mean_quarantine_that_doubles() {
        let (mut blames, start) = (Blames::new(3), Instant::now());
        let mut now = start;
        for length in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!((blames.blame(7, now), blames.blame(7, now + S)), (None, None));
            let until = blames.blame(7, now + 2 * S).unwrap();
            assert_eq!(until, now + 2 * S + length * S);
            assert!(blames.until(7, until - S).is_some() && blames.until(7, until).is_none());
            now = until;
        }
        now += FORGIVE + S;
        assert_eq!((blames.blame(7, now), blames.blame(7, now)), (None, None));
        assert_eq!(blames.blame(7, now), Some(now + 10 * S));
    }

    #[test]
    fn deaths_far_apart_or_of_others_do_not_count_together() {
        let (mut blames, start) = (Blames::new(3), Instant::now());
        for n in 0..20 {
            assert_eq!(blames.blame(7, start + n * 6 * S), None);
            assert_eq!(blames.blame(8, start + n * 6 * S), None);
        }
        let mut never = Blames::new(0);
        assert!((0..50).all(|_| never.blame(7, start).is_none()));
    }

    #[test]
    fn a_release_ends_it_and_memory_is_bounded() {
        let (mut blames, now) = (Blames::new(1), Instant::now());
        assert!(blames.blame(7, now).is_some());
        blames.release(7, now);
        assert_eq!(blames.until(7, now), None);
        assert_eq!(blames.blame(7, now), Some(now + 20 * S));
        for pid in 0..5000 {
            blames.blame(pid, now);
        }
        assert!(blames.offences.known().count() <= KNOWN_MAX);
    }
}
