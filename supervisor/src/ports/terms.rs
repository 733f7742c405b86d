//! What an operator said of a port, as the supervisor tells workers: its rules. Its static addresses are told apart
//! ([`crate::workers::addresses`]).

use sv3::config::PortConfig;
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
}

impl Default for Terms {
    /// Those of a port of which nothing was said.
    fn default() -> Terms {
        Terms { name: None, up: true, rules: PortRules::default() }
    }
}

impl Terms {
    /// Those of a declared port.
    pub fn of(name: &str, port: &PortConfig) -> Terms {
        Terms { name: Some(name.to_string()), up: port.up, rules: port.rules.clone() }
    }

    /// Those of a guest at the front door.
    pub fn of_guest(rules: &PortRules) -> Terms {
        Terms { rules: rules.clone(), ..Terms::default() }
    }

    /// The commands for a worker that has just added the port in this slot.
    pub fn tell(&self, slot: u16) -> Vec<WorkerCommand> {
        let stage = Terms::default().change(self, slot);
        let commit = stage.is_some().then(|| Command::RulesCommit.into());
        stage.into_iter().chain(commit).collect()
    }

    /// The command that makes a worker, which follows these terms, follow the next ones, after a commit.
    pub fn change(&self, next: &Terms, port: u16) -> Option<WorkerCommand> {
        let stage = || Command::RulesStage { port, rules: Box::new(next.rules.clone()) }.into();
        (self.rules != next.rules).then(stage)
    }
}

#[cfg(test)]
mod tests {
    use sv3::rules::{Isolation, Vlan};

    use super::*;

    #[test]
    fn a_port_of_which_nothing_was_said_costs_no_command() {
        assert!(Terms::default().tell(3).is_empty());
    }

    #[test]
    fn rules_come_at_once_and_again_when_they_change() {
        let rules = PortRules { vlan: Vlan::Access { vid: 10 }, ..PortRules::default() };
        let before = Terms { rules, ..Terms::default() };
        let stage = |terms: &Terms| Command::RulesStage { port: 3, rules: Box::new(terms.rules.clone()) };
        let told: Vec<Command> = before.tell(3).into_iter().map(|told| told.command).collect();
        assert_eq!(told, [stage(&before), Command::RulesCommit]);
        let mut next = before.clone();
        next.rules.isolation = Isolation::Isolated;
        assert_eq!(before.change(&next, 3).map(|told| told.command), Some(stage(&next)));
        assert!(next.change(&next, 3).is_none());
    }
}
