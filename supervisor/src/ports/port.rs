//! What ports of all kinds have: a slot, a name made of it, and commands that tell a worker of the port.

use std::fmt;

use sv3::attachment::Learning;
use sv3::ipc::{Command, PortKind};

use crate::workers::command::WorkerCommand;

/// A port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its slot, which is its index in the ledger and the number in its name.
    pub slot: u16,
    /// What is behind it.
    pub kind: PortKind,
    /// Which addresses it may take.
    pub learning: Learning,
}

impl Port {
    /// The command that adds the port to a worker. Further commands describe what is behind it.
    pub fn add(self) -> WorkerCommand {
        Command::PortAdd { port: self.slot, kind: self.kind, learning: self.learning }.into()
    }
}

impl fmt::Display for Port {
    /// Its name, as `sv3 status` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.slot)
    }
}

/// A port that workers are told of.
pub trait Replay {
    /// The port.
    fn port(&self) -> Port;

    /// All commands for a worker that knows nothing of the port.
    fn replay(&self) -> Vec<WorkerCommand>;

    /// Whether a client waits until the serving worker has executed the replay.
    fn is_waiting(&self) -> bool;

    /// The command that makes a worker forget the port.
    fn remove(&self) -> WorkerCommand {
        Command::PortRemove { port: self.port().slot }.into()
    }
}
