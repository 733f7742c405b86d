//! What all ports have, whatever their kind: a slot, and a name by it.

use std::fmt;

use sv3::ipc::{Command, PortKind};

use crate::workers::command::WorkerCommand;

/// A port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its slot: its index in the ledger, and the number in its name.
    pub slot: u16,
    /// What is behind it.
    pub kind: PortKind,
}

impl Port {
    /// The command by which a worker hears of it: what follows tells of what is behind it.
    pub fn add(self) -> WorkerCommand {
        Command::PortAdd { port: self.slot, kind: self.kind }.into()
    }

    /// The command by which a worker forgets it.
    pub fn remove(self) -> WorkerCommand {
        Command::PortRemove { port: self.slot }.into()
    }
}

impl fmt::Display for Port {
    /// Its name, as `sv3 status` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.slot)
    }
}
