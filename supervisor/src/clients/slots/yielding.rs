//! Who gives way when pending clients or slots are too many.

use std::collections::HashMap;
use std::time::Instant;

use super::Slots;
use crate::clients::client::Client;
use crate::ports::files::FilePort;

impl Slots {
    /// The pending client that gives way to the next one: the oldest of the process with the most pending clients. If
    /// several processes have as many, the user with the most pending clients decides.
    pub fn pending_to_yield(&self) -> Option<u16> {
        first_of_most(self.pending().map(Candidate::of))
    }

    /// The client that gives way to the next port, among those that never had a running ring, and streams that have
    /// sent no frame (`is_silent`). The choice is made likewise.
    pub fn idle_to_yield(&self, is_silent: impl Fn(u16) -> bool) -> Option<u16> {
        // A declared port's slot is no other's.
        let is_common = |slot: u16| !self.declared.owns(slot);
        let idle = self.clients().filter(|client| is_common(client.id.slot) && !client.device().ever_started);
        let silent = self.all_files().filter(|port| is_common(port.slot) && is_silent(port.slot));
        first_of_most(idle.map(Candidate::of).chain(silent.filter_map(Candidate::of_stream)))
    }
}

/// A client that may have to give way.
struct Candidate {
    slot: u16,
    pid: i32,
    uid: u32,
    opened: Instant,
}

impl Candidate {
    fn of(client: &Client) -> Candidate {
        Candidate { slot: client.id.slot, pid: client.id.pid, uid: client.uid, opened: client.connection.opened() }
    }

    /// `None`: the port was attached, and is no client's.
    fn of_stream(port: &FilePort) -> Option<Candidate> {
        let ((pid, uid), opened) = (port.owner, port.since.filter(|_| port.is_client())?);
        Some(Candidate { slot: port.slot, pid, uid, opened })
    }
}

/// The oldest client of the process that has most of these clients. If several processes have as many, the user with
/// the most decides.
fn first_of_most(clients: impl Iterator<Item = Candidate>) -> Option<u16> {
    let clients: Vec<Candidate> = clients.collect();
    let (mut by_pid, mut by_uid): (HashMap<i32, usize>, HashMap<u32, usize>) = Default::default();
    for client in &clients {
        *by_pid.entry(client.pid).or_default() += 1;
        *by_uid.entry(client.uid).or_default() += 1;
    }
    let rank = |client: &&Candidate| {
        let of = (by_pid.get(&client.pid).copied(), by_uid.get(&client.uid).copied());
        (of, std::cmp::Reverse::<Instant>(client.opened))
    };
    clients.iter().max_by_key(rank).map(|client| client.slot)
}
