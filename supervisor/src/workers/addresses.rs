//! The static addresses that workers are told of, and at which slots they are. A slot of a declared port has its addresses
//! whether a client is attached or not, so they are no part of what a worker is told of the port.

use std::collections::BTreeMap;

use sv3::config::StaticAddress;
use sv3::frame::MacAddr;
use sv3::ipc::Command;

use super::command::WorkerCommand;

/// What every worker knows of static addresses.
#[derive(Debug, Default)]
pub struct Addresses(BTreeMap<StaticAddress, u16>);

impl Addresses {
    /// From now on these addresses are at these slots. Returns the commands that remove addresses, and those that add
    /// them. One that moves to another slot is added there: it is never nowhere.
    pub fn follow(&mut self, wanted: BTreeMap<StaticAddress, u16>) -> (Vec<WorkerCommand>, Vec<WorkerCommand>) {
        let gone = self.0.iter().filter(|(at, _)| !wanted.contains_key(at));
        let gone = gone.map(|(&StaticAddress { vid, mac }, &port)| Command::AddressRemove { port, vid, mac }.into());
        let new = wanted.iter().filter(|(at, slot)| self.0.get(at) != Some(slot));
        let commands = (gone.collect(), new.map(add).collect());
        self.0 = wanted;
        commands
    }

    /// All commands for a worker that knows no address.
    pub fn replay(&self) -> impl Iterator<Item = WorkerCommand> + '_ {
        self.0.iter().map(add)
    }

    /// Whether an address is at a slot, in some VLAN.
    pub fn has(&self, slot: u16, mac: MacAddr) -> bool {
        self.0.iter().any(|(at, port)| *port == slot && at.mac == mac.octets())
    }
}

fn add((&StaticAddress { vid, mac }, &port): (&StaticAddress, &u16)) -> WorkerCommand {
    Command::AddressAdd { port, vid, mac }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> StaticAddress {
        StaticAddress { vid: 10, mac: [2, 0, 0, 0, 0, last] }
    }

    fn commands(commands: impl IntoIterator<Item = WorkerCommand>) -> Vec<Command> {
        commands.into_iter().map(|told| told.command).collect()
    }

    #[test]
    fn workers_are_told_what_changed_and_all_of_it_when_they_begin() {
        let add = |port, last| Command::AddressAdd { port, vid: 10, mac: at(last).mac };
        let mut addresses = Addresses::default();
        let (gone, new) = addresses.follow([(at(1), 3), (at(2), 3)].into());
        assert_eq!((commands(gone), commands(new)), (vec![], vec![add(3, 1), add(3, 2)]));
        let (gone, new) = addresses.follow([(at(2), 4), (at(3), 3)].into());
        let remove = Command::AddressRemove { port: 3, vid: 10, mac: at(1).mac };
        assert_eq!((commands(gone), commands(new)), (vec![remove], vec![add(4, 2), add(3, 3)]));
        assert_eq!(commands(addresses.replay()), [add(4, 2), add(3, 3)]);
        let (gone, new) = addresses.follow([(at(2), 4), (at(3), 3)].into());
        assert!(gone.is_empty() && new.is_empty());
        assert!(addresses.has(4, MacAddr::new(at(2).mac)) && !addresses.has(3, MacAddr::new(at(2).mac)));
    }
}
