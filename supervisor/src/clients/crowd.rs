//! Blame that a fork does not shed.
//!
//! A process number is no identity: who forks has a new one ([`Blames`](crate::clients::blame::Blames) forgets nothing, and never
//! sees it again). What a client cannot change at will is its user and whether its memory can be cut off under the
//! worker: a file that is sealed with `F_SEAL_SHRINK` cannot. So deaths count for a [`Crowd`] as well: those who share
//! that. When so many *different* processes of a crowd have each killed a worker within [`WINDOW`] as one process may, its
//! newcomers are in quarantine: those that gave their memory since the row of deaths began, for [`FIRST`], and twice as
//! long each time after that. Who was there before is served on. A single process never makes its crowd suspect.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::clients::blame::{FIRST, FORGIVE, LONGEST, WINDOW};

/// How long a newcomer that was released is a newcomer still.
pub const PROBATION: Duration = Duration::from_secs(60);
/// Crowds that are remembered: as many users as use one switch, and more.
const KNOWN_MAX: usize = 64;
/// Deaths in a window that are looked at; more make no difference.
const DEATHS_MAX: usize = 256;

/// What memory a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Some of it can be truncated under the worker.
    Unsealed,
    /// None of it can.
    Sealed,
    /// None at all. Of a crowd: whatever memory they have.
    Any,
}

/// Clients that are alike in what they cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// Their user.
    pub uid: u32,
    /// Their memory.
    pub kind: Kind,
}

impl Crowd {
    fn has(self, client: Crowd) -> bool {
        self.uid == client.uid && (self.kind == Kind::Any || self.kind == client.kind)
    }

    /// What they can do about it.
    pub fn remedy(self) -> &'static str {
        match self.kind {
            Kind::Unsealed => {
                "memory sealed with F_SEAL_SHRINK, as QEMU's memory-backend-memfd is, is served meanwhile"
            }
            Kind::Sealed | Kind::Any => "who was attached before is served on",
        }
    }
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.kind {
            Kind::Unsealed => " whose memory can be cut off",
            Kind::Sealed => " whose memory is sealed",
            Kind::Any => "",
        };
        write!(f, "newcomers of user {}{memory}", self.uid)
    }
}

/// All that is held against crowds.
pub struct Crowds {
    limit: usize,
    known: VecDeque<Known>,
}

struct Known {
    crowd: Crowd,
    deaths: VecDeque<(Instant, i32)>,
    quarantines: u32,
    /// Who came since then is a newcomer.
    began: Instant,
    until: Option<Instant>,
}

impl Crowds {
    /// No crowd is suspect. `limit` processes in a window make one so; 0: never.
    pub fn new(limit: usize) -> Crowds {
        Crowds { limit, known: VecDeque::new() }
    }

    /// A worker died by the doing of `pid`, which is one of them. Until when newcomers go into quarantine, if that is
    /// news.
    pub fn blame(&mut self, crowd: Crowd, pid: i32, now: Instant) -> Option<Instant> {
        let mut known = match self.known.iter().position(|known| known.crowd == crowd) {
            Some(at) => self.known.remove(at)?,
            None => Known { crowd, deaths: VecDeque::new(), quarantines: 0, began: now, until: None },
        };
        if known.until.is_some_and(|until| now.saturating_duration_since(until) > FORGIVE) {
            known.quarantines = 0;
        }
        known.deaths.push_back((now, pid));
        known.deaths.retain(|(death, _)| now.saturating_duration_since(*death) <= WINDOW);
        if known.deaths.len() > DEATHS_MAX {
            known.deaths.pop_front();
        }
        let mut pids: Vec<i32> = known.deaths.iter().map(|(_, pid)| *pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let guilty = self.limit > 0 && pids.len() >= self.limit;
        if guilty {
            if known.until.is_none_or(|until| until <= now) {
                known.began = known.deaths.front().map_or(now, |(death, _)| *death);
            }
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

    /// Until when a client that has had its memory `since` then is in quarantine, and with whom.
    pub fn until(&self, client: Crowd, since: Instant, now: Instant) -> Option<(Instant, Crowd)> {
        let holds = |known: &&Known| known.crowd.has(client) && since >= known.began;
        let until = |known: &Known| Some((known.until.filter(|until| *until > now)?, known.crowd));
        self.known.iter().filter(holds).filter_map(until).max_by_key(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const UNSEALED: Crowd = Crowd { uid: 7, kind: Kind::Unsealed };
    const SEALED: Crowd = Crowd { uid: 7, kind: Kind::Sealed };

    #[test]
    fn processes_of_one_death_each_make_newcomers_of_their_kind_suspect() {
        let (mut crowds, start) = (Crowds::new(3), Instant::now());
        let mut now = start;
        for length in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!((crowds.blame(UNSEALED, 1, now), crowds.blame(UNSEALED, 2, now + S)), (None, None));
            let until = now + 2 * S + length * S;
            assert_eq!(crowds.blame(UNSEALED, 3, now + 2 * S), Some(until));
            let held = |client, since| crowds.until(client, since, until - S).map(|(until, _)| until);
            assert_eq!(held(UNSEALED, now), Some(until), "it came with the first of them");
            assert_eq!(held(UNSEALED, until - 2 * S), Some(until), "it came afterwards");
            assert_eq!(held(UNSEALED, now - S), None, "it was there before");
            assert_eq!(held(SEALED, now + S), None, "it has sealed memory");
            assert_eq!(held(Crowd { uid: 8, ..UNSEALED }, now + S), None, "it is another user's");
            assert_eq!(crowds.until(UNSEALED, now, until), None, "it is over");
            now = until;
        }
        now += FORGIVE + S;
        assert!((1..3).all(|pid| crowds.blame(UNSEALED, pid, now).is_none()));
        assert_eq!(crowds.blame(UNSEALED, 3, now), Some(now + 10 * S));
    }

    #[test]
    fn one_process_alone_or_deaths_far_apart_make_nobody_suspect() {
        let (mut crowds, start) = (Crowds::new(3), Instant::now());
        assert!((0..50).all(|_| crowds.blame(UNSEALED, 7, start).is_none()));
        for n in 1..20 {
            assert_eq!(crowds.blame(UNSEALED, n, start + n as u32 * 20 * S), None);
        }
        let mut never = Crowds::new(0);
        assert!((0..50).all(|pid| never.blame(UNSEALED, pid, start).is_none()));
    }

    #[test]
    fn other_deaths_count_for_all_of_a_user_and_memory_is_bounded() {
        let (mut crowds, now) = (Crowds::new(2), Instant::now());
        let all = Crowd { uid: 7, kind: Kind::Any };
        crowds.blame(all, 1, now);
        assert!(crowds.blame(all, 2, now).is_some());
        assert!(crowds.until(SEALED, now, now).is_some() && crowds.until(UNSEALED, now, now).is_some());
        for uid in 100..5000 {
            crowds.blame(Crowd { uid, kind: Kind::Any }, 1, now);
        }
        assert!(crowds.known.len() <= KNOWN_MAX);
    }
}
