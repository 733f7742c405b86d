//! What an operator said of a port, as the supervisor tells workers: its rules, and the addresses that are at it.

use std::collections::BTreeSet;

use sv3::config::{PortConfig, StaticAddress};
use sv3::ipc::Command;
use sv3::rules::PortRules;

use crate::workers::command::WorkerCommand;

/// What was said of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The port's name, if it has one that lasts.
    pub name: Option<String>,
    /// Whether it is in service.
    pub up: bool,
    /// What it may do.
    pub rules: PortRules,
    /// The addresses that are at it, whatever it says.
    pub addresses: BTreeSet<StaticAddress>,
}

/// The commands that make a worker follow other terms.
#[derive(Default)]
pub struct Changes {
    /// Before the rules of all ports change at once.
    pub before: Vec<WorkerCommand>,
    /// After that.
    pub after: Vec<WorkerCommand>,
}

impl Default for Terms {
    /// Those of a port of which nothing was said.
    fn default() -> Terms {
        Terms { name: None, up: true, rules: PortRules::default(), addresses: BTreeSet::new() }
    }
}

impl Terms {
    /// Those of a declared port.
    pub fn of(name: &str, port: &PortConfig) -> Terms {
        let addresses = port.addresses.iter().copied().collect();
        Terms { name: Some(name.to_string()), up: port.up, rules: port.rules.clone(), addresses }
    }

    /// Those of a guest at the front door.
    pub fn of_guest(rules: &PortRules) -> Terms {
        Terms { rules: rules.clone(), ..Terms::default() }
    }

    /// The commands for a worker that has just added the port in this slot.
    pub fn tell(&self, slot: u16) -> Vec<WorkerCommand> {
        let Changes { before, after } = Terms::default().change(self, slot);
        let commit = (!before.is_empty()).then(|| Command::RulesCommit.into());
        before.into_iter().chain(commit).chain(after).collect()
    }

    /// The commands that make a worker, which follows these terms, follow the next ones.
    pub fn change(&self, next: &Terms, port: u16) -> Changes {
        let gone = self.addresses.difference(&next.addresses);
        let gone = gone.map(|&StaticAddress { vid, mac }| Command::AddressRemove { port, vid, mac }.into());
        let new = next.addresses.difference(&self.addresses);
        let new = new.map(|&StaticAddress { vid, mac }| Command::AddressAdd { port, vid, mac }.into());
        let rules = (self.rules != next.rules)
            .then(|| Command::RulesStage { port, rules: Box::new(next.rules.clone()) }.into());
        Changes { before: gone.chain(rules).collect(), after: new.collect() }
    }
}

#[cfg(test)]
mod tests {
    use sv3::rules::{Isolation, Vlan};

    use super::*;

    fn commands(commands: &[WorkerCommand]) -> Vec<&Command> {
        commands.iter().map(|told| &told.command).collect()
    }

    #[test]
    fn a_port_of_which_nothing_was_said_costs_no_command() {
        assert!(Terms::default().tell(3).is_empty());
    }

    #[test]
    fn rules_come_at_once_and_addresses_around_them() {
        let at = |last| StaticAddress { vid: 10, mac: [2, 0, 0, 0, 0, last] };
        let rules = PortRules { vlan: Vlan::Access { vid: 10 }, ..PortRules::default() };
        let before = Terms { rules, addresses: [at(1), at(2)].into(), ..Terms::default() };
        let stage = |terms: &Terms| Command::RulesStage { port: 3, rules: Box::new(terms.rules.clone()) };
        let add = |last| Command::AddressAdd { port: 3, vid: 10, mac: at(last).mac };
        let told = before.tell(3);
        assert_eq!(commands(&told), [&stage(&before), &Command::RulesCommit, &add(1), &add(2)]);
        let mut next = before.clone();
        next.rules.isolation = Isolation::Isolated;
        next.addresses = [at(2), at(3)].into();
        let Changes { before: first, after } = before.change(&next, 3);
        let remove = Command::AddressRemove { port: 3, vid: 10, mac: at(1).mac };
        assert_eq!((commands(&first), commands(&after)), (vec![&remove, &stage(&next)], vec![&add(3)]));
        let Changes { before: first, after } = next.change(&next, 3);
        assert!(first.is_empty() && after.is_empty());
    }
}
