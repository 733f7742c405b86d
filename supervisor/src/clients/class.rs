//! Blame that a fork does not shed.
//!
//! A process that forks has a new number, under which nothing is held against it
//! ([`Blames`](crate::clients::blame::Blames)). What a client cannot change at will is its user and whether its memory
//! can be truncated under the worker: a file that is sealed with `F_SEAL_SHRINK` cannot. So deaths count for a
//! [`ClientClass`] as well: for all clients that share that. When as many *different* processes of a class have each
//! killed a worker in a window as one process may ([`crate::clients::offences`]), the newcomers of the class are in
//! quarantine: those that gave their memory since the row of deaths began. Clients that were there before are served
//! on. A single process never makes its class suspect.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::clients::offences::{Death, Offences};

/// How long a newcomer that was released is a newcomer still.
pub const PROBATION: Duration = Duration::from_secs(60);
/// Classes that are remembered: as many users as use one switch, and more.
const KNOWN_MAX: usize = 64;

/// What memory a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryClass {
    /// Some of it can be truncated under the worker.
    Unsealed,
    /// None of it can.
    Sealed,
    /// It has none. Of a class: whatever memory its clients have.
    Any,
}

/// Clients that are alike in what they cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientClass {
    /// Their user.
    pub uid: u32,
    /// Their memory.
    pub memory: MemoryClass,
}

impl ClientClass {
    fn has(self, client: ClientClass) -> bool {
        self.uid == client.uid && (self.memory == MemoryClass::Any || self.memory == client.memory)
    }

    /// What they can do about it.
    pub fn remedy(self) -> &'static str {
        match self.memory {
            MemoryClass::Unsealed => {
                "memory sealed with F_SEAL_SHRINK, as QEMU's memory-backend-memfd is, is served meanwhile"
            }
            MemoryClass::Sealed | MemoryClass::Any => "clients that were attached before are served on",
        }
    }
}

impl fmt::Display for ClientClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            MemoryClass::Unsealed => " whose memory can be cut off",
            MemoryClass::Sealed => " whose memory is sealed",
            MemoryClass::Any => "",
        };
        write!(f, "newcomers of user {}{memory}", self.uid)
    }
}

/// All that is held against classes of clients.
pub struct ClassBlames {
    offences: Offences<ClientClass>,
}

impl ClassBlames {
    /// No class is suspect. `limit` processes in a window make one so; 0: never.
    pub fn new(limit: usize) -> ClassBlames {
        ClassBlames { offences: Offences::new(limit, KNOWN_MAX) }
    }

    /// A worker died by the doing of `pid`, which is of this class. Until when newcomers go into quarantine, if that is
    /// news.
    pub fn blame(&mut self, class: ClientClass, pid: i32, now: Instant) -> Option<Instant> {
        self.offences.blame(class, (now, pid), processes)
    }

    /// Until when a client that has had its memory `since` then is in quarantine, and with which class.
    pub fn until(&self, client: ClientClass, since: Instant, now: Instant) -> Option<(Instant, ClientClass)> {
        let held = self.offences.known().filter(|known| known.offender.has(client) && since >= known.began);
        held.filter_map(|known| Some((known.until.filter(|until| *until > now)?, known.offender)))
            .max_by_key(|(until, _)| *until)
    }
}

/// How many processes have caused these deaths.
fn processes(deaths: &VecDeque<Death>) -> usize {
    deaths.iter().map(|(_, pid)| *pid).collect::<BTreeSet<i32>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::offences::FORGIVE;

    const S: Duration = Duration::from_secs(1);
    const UNSEALED: ClientClass = ClientClass { uid: 7, memory: MemoryClass::Unsealed };
    const SEALED: ClientClass = ClientClass { uid: 7, memory: MemoryClass::Sealed };

    #[test]
    fn processes_of_one_death_each_make_newcomers_of_their_kind_suspect() {
        let (mut classes, start) = (ClassBlames::new(3), Instant::now());
        let mut now = start;
        for length in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!((classes.blame(UNSEALED, 1, now), classes.blame(UNSEALED, 2, now + S)), (None, None));
            let until = now + 2 * S + length * S;
            assert_eq!(classes.blame(UNSEALED, 3, now + 2 * S), Some(until));
            let held = |client, since| classes.until(client, since, until - S).map(|(until, _)| until);
            assert_eq!(held(UNSEALED, now), Some(until), "it came with the first of them");
            assert_eq!(held(UNSEALED, until - 2 * S), Some(until), "it came afterwards");
            assert_eq!(held(UNSEALED, now - S), None, "it was there before");
            assert_eq!(held(SEALED, now + S), None, "it has sealed memory");
            assert_eq!(held(ClientClass { uid: 8, ..UNSEALED }, now + S), None, "it is another user's");
            assert_eq!(classes.until(UNSEALED, now, until), None, "it is over");
            now = until;
        }
        now += FORGIVE + S;
        assert!((1..3).all(|pid| classes.blame(UNSEALED, pid, now).is_none()));
        assert_eq!(classes.blame(UNSEALED, 3, now), Some(now + 10 * S));
    }

    #[test]
    fn one_process_alone_or_deaths_far_apart_make_nobody_suspect() {
        let (mut classes, start) = (ClassBlames::new(3), Instant::now());
        assert!((0..50).all(|_| classes.blame(UNSEALED, 7, start).is_none()));
        for n in 1..20 {
            assert_eq!(classes.blame(UNSEALED, n, start + n as u32 * 20 * S), None);
        }
        let mut never = ClassBlames::new(0);
        assert!((0..50).all(|pid| never.blame(UNSEALED, pid, start).is_none()));
    }

    #[test]
    fn other_deaths_count_for_all_of_a_user_and_memory_is_bounded() {
        let (mut classes, now) = (ClassBlames::new(2), Instant::now());
        let all = ClientClass { uid: 7, memory: MemoryClass::Any };
        classes.blame(all, 1, now);
        assert!(classes.blame(all, 2, now).is_some());
        assert!(classes.until(SEALED, now, now).is_some() && classes.until(UNSEALED, now, now).is_some());
        for uid in 100..5000 {
            classes.blame(ClientClass { uid, memory: MemoryClass::Any }, 1, now);
        }
        assert!(classes.offences.known().count() <= KNOWN_MAX);
    }
}
