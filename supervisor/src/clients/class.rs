//! Counts deaths of workers by client class, because a client can get a new process id by fork.
//!
//! [`Blames`](crate::clients::blame::Blames) counts by process id, and a child process has a new one. A client cannot
//! freely change its user, nor whether its memory can be truncated under the worker: a file that is sealed with
//! `F_SEAL_SHRINK` cannot. These two are its [`ClientClass`], and deaths count for the class as well. The limit of
//! deaths within the window is the same as for one process ([`crate::clients::offences`]), but the class reaches it
//! only if that many *different* processes have each killed a worker. Then the newcomers of the class are in
//! quarantine: the clients that sent their memory after the first of these deaths. Clients that sent it before are
//! still served. A single process never makes its class suspect.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::clients::offences::{Death, Offences};
use crate::estate::Clock;
use crate::estate::record::{ClassRecord, OffenderRecord};

/// How long a released newcomer still counts as a newcomer.
pub const PROBATION: Duration = Duration::from_secs(60);
/// Classes that are remembered: more than the users of one switch.
const KNOWN_MAX: usize = 64;

/// Whether a client's memory is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryClass {
    /// Some region can be truncated under the worker.
    Unsealed,
    /// No region can be truncated.
    Sealed,
    /// The client has no memory. In a class: all clients of the user, whatever memory they have.
    Any,
}

/// A client class: all clients of one user whose memory is alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientClass {
    /// User id.
    pub uid: u32,
    /// Whether their memory is sealed.
    pub memory: MemoryClass,
}

impl ClientClass {
    fn has(self, client: ClientClass) -> bool {
        self.uid == client.uid && (self.memory == MemoryClass::Any || self.memory == client.memory)
    }

    /// What these clients' owner can do about the quarantine, in words.
    pub fn remedy(self) -> &'static str {
        match self.memory {
            MemoryClass::Unsealed => {
                "clients with memory sealed by F_SEAL_SHRINK, such as QEMU's memory-backend-memfd, are still served"
            }
            MemoryClass::Sealed | MemoryClass::Any => "clients that attached before are still served",
        }
    }
}

impl fmt::Display for ClientClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            MemoryClass::Unsealed => " whose memory can be truncated",
            MemoryClass::Sealed => " whose memory is sealed",
            MemoryClass::Any => "",
        };
        write!(f, "new clients of user {}{memory}", self.uid)
    }
}

/// The client classes that were blamed lately.
pub struct ClassBlames {
    offences: Offences<ClientClass>,
}

impl ClassBlames {
    /// Starts without suspect classes. `limit` processes within the window make a class suspect; 0: never.
    pub fn new(limit: usize) -> ClassBlames {
        ClassBlames { offences: Offences::new(limit, KNOWN_MAX) }
    }

    /// A worker died, and `pid`, which is of this class, is to blame. Returns the end of the newcomers' quarantine if
    /// one begins.
    pub fn blame(&mut self, class: ClientClass, pid: i32, now: Instant) -> Option<Instant> {
        self.offences.blame(class, (now, pid), processes)
    }

    /// The end of the quarantine of a client that has had its memory since `since`, and the class that it is in
    /// quarantine with.
    pub fn until(&self, client: ClientClass, since: Instant, now: Instant) -> Option<(Instant, ClientClass)> {
        let held = self.offences.known().filter(|known| known.offender.has(client) && since >= known.began);
        held.filter_map(|known| Some((known.until.filter(|until| *until > now)?, known.offender)))
            .max_by_key(|(until, _)| *until)
    }

    /// The blamed classes, for the next supervisor.
    pub fn record(&self, clock: Clock) -> Vec<OffenderRecord<ClassRecord>> {
        self.offences.record(clock)
    }

    /// Takes over the blamed classes of the last supervisor.
    pub fn restore(&mut self, records: Vec<OffenderRecord<ClassRecord>>, clock: Clock) {
        self.offences.restore(records, clock);
    }
}

/// How many different processes caused these deaths.
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
    fn one_process_alone_or_deaths_far_apart_make_no_class_suspect() {
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
