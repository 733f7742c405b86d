//! The ports that a worker has been told of, and the ports that a standby goes on without, because it could not execute
//! a command about them (mostly, to map memory). It gets no commands about such a port until the port is told from the
//! beginning: when another client takes the slot, or before the worker serves.

use std::collections::BTreeMap;

use sv3::ipc::Command;

/// The ports that one worker knows.
#[derive(Debug, Default)]
pub struct ToldPorts(BTreeMap<u16, Entry>);

#[derive(Debug)]
struct Entry {
    /// Number of the command that added the port.
    since: u64,
    /// Why it goes on without the port, if it does.
    lacks: Option<String>,
}

impl ToldPorts {
    /// Whether the worker is to get this command, which would have this number.
    pub fn passes(&mut self, command: &Command, seq: u64) -> bool {
        let lacks = command.port().and_then(|slot| self.0.get(&slot)).is_some_and(|entry| entry.lacks.is_some());
        match command {
            Command::PortAdd { port, .. } => {
                self.0.insert(*port, Entry { since: seq, lacks: None });
                true
            }
            Command::PortRemove { port } => {
                self.0.remove(port);
                !lacks
            }
            // An address is at a slot, whether the worker knows the port or not.
            Command::AddressAdd { .. } | Command::AddressRemove { .. } => true,
            _ => !lacks,
        }
    }

    /// Whether a command of this number is about the slot's present client, and the worker knows the port.
    pub fn is_about(&self, slot: u16, seq: u64) -> bool {
        self.0.get(&slot).is_some_and(|entry| entry.lacks.is_none() && entry.since <= seq)
    }

    /// The worker has been told to forget the port and goes on without it.
    pub fn strike(&mut self, slot: u16, seq: u64, why: String) {
        self.0.insert(slot, Entry { since: seq, lacks: Some(why) });
    }

    /// Why the worker goes on without a port, if it does.
    pub fn lacks(&self, slot: u16) -> Option<&str> {
        self.0.get(&slot)?.lacks.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use sv3::attachment::Learning;
    use sv3::ipc::PortKind;

    use super::*;

    const ADD: Command = Command::PortAdd { port: 3, kind: PortKind::Vrings, learning: Learning::Free };
    const REMOVE: Command = Command::PortRemove { port: 3 };
    const COMMIT: Command = Command::MemoryCommit { port: 3 };

    #[test]
    fn what_a_worker_goes_on_without_it_is_not_told_of_until_it_begins_anew() {
        let mut told = ToldPorts::default();
        assert!(!told.is_about(3, 1));
        assert!(told.passes(&ADD, 7) && told.passes(&COMMIT, 8));
        assert!(told.is_about(3, 7) && told.is_about(3, 8));
        assert!(!told.is_about(3, 6), "that was another client");

        assert!(told.passes(&REMOVE, 9));
        told.strike(3, 9, "no memory".to_string());
        assert_eq!((told.lacks(3), told.is_about(3, 8)), (Some("no memory"), false));
        assert!(!told.passes(&COMMIT, 10) && told.passes(&Command::Barrier, 10));
        assert!(told.passes(&Command::MemoryCommit { port: 4 }, 11));
        assert!(told.passes(&Command::AddressAdd { port: 3, vid: 0, mac: [2; 6] }, 11));

        // Another client, or the same one before the worker serves.
        assert!(!told.passes(&REMOVE, 12));
        assert_eq!(told.lacks(3), None);
        assert!(told.passes(&ADD, 12) && told.passes(&COMMIT, 13) && told.is_about(3, 13));
        told.strike(3, 14, String::new());
        assert!(told.passes(&ADD, 15) && told.passes(&COMMIT, 16));
    }
}
