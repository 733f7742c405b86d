//! What all ports have, whatever their kind: a slot, a name by it, and something that a worker is told.

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
}

impl fmt::Display for Port {
    /// Its name, as `sv3 status` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.slot)
    }
}

/// A port that workers are told of.
pub trait Replay {
    /// Which port it is.
    fn port(&self) -> Port;

    /// All commands that bring a worker that knows nothing of the port to where it stands.
    fn replay(&self) -> Vec<WorkerCommand>;

    /// Whether somebody waits until the worker that serves has done what the replay says.
    fn is_waiting(&self) -> bool;

    /// The command by which a worker forgets the port.
    fn remove(&self) -> WorkerCommand {
        Command::PortRemove { port: self.port().slot }.into()
    }
}
