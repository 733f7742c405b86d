//! Who is to blame for a worker's death, and what follows from it.
//!
//! A client is known by its process: it keeps its name here when it disconnects and comes again. A process that is
//! blamed `limit` times in [`WINDOW`] is put in quarantine for [`FIRST`], and twice as long each time after that.
//! A process that has behaved for [`FORGIVE`] after its quarantine begins anew. What is remembered is bounded: of more
//! than [`KNOWN_MAX`] processes the one that was blamed longest ago is forgotten.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths that count together.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The first quarantine.
pub const FIRST: Duration = Duration::from_secs(10);
/// The longest quarantine.
pub const LONGEST: Duration = Duration::from_secs(600);
/// How long a process must behave after a quarantine until that is forgotten.
pub const FORGIVE: Duration = Duration::from_secs(600);
const KNOWN_MAX: usize = 1024;

/// All that is held against processes.
pub struct Blames {
    limit: usize,
    known: VecDeque<Known>,
}

struct Known {
    pid: i32,
    deaths: VecDeque<Instant>,
    quarantines: u32,
    until: Option<Instant>,
}

impl Blames {
    /// Nobody is blamed. `limit` deaths in a window mean quarantine; 0: never.
    pub fn new(limit: usize) -> Blames {
        Blames { limit, known: VecDeque::new() }
    }

    /// A worker died by the doing of `pid`. Until when it goes into quarantine, if it does.
    pub fn blame(&mut self, pid: i32, now: Instant) -> Option<Instant> {
        let mut known = match self.known.iter().position(|known| known.pid == pid) {
            Some(at) => self.known.remove(at)?,
            None => Known { pid, deaths: VecDeque::new(), quarantines: 0, until: None },
        };
        if known.until.is_some_and(|until| now.saturating_duration_since(until) > FORGIVE) {
            known.quarantines = 0;
        }
        known.deaths.push_back(now);
        known.deaths.retain(|death| now.saturating_duration_since(*death) <= WINDOW);
        let guilty = self.limit > 0 && known.deaths.len() >= self.limit;
        if guilty {
            let length = FIRST.saturating_mul(1 << known.quarantines.min(10)).min(LONGEST);
            known.quarantines += 1;
            known.deaths.clear();
            known.until = Some(now + length);
        }
        let until = known.until.filter(|_| guilty);
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(known);
        until
    }

    /// Until when `pid` is in quarantine.
    pub fn until(&self, pid: i32, now: Instant) -> Option<Instant> {
        let known = self.known.iter().find(|known| known.pid == pid)?;
        known.until.filter(|until| *until > now)
    }

    /// Ends the quarantine of `pid`; the next one is as long as if this one had been served.
    pub fn release(&mut self, pid: i32, now: Instant) {
        if let Some(known) = self.known.iter_mut().find(|known| known.pid == pid) {
            known.until = known.until.map(|until| until.min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(blames.known.len() <= KNOWN_MAX);
    }
}
