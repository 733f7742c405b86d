//! What ports of all kinds have: a slot, a name, and commands that tell a worker of the port.

use std::fmt;
use std::rc::Rc;

use sv3::attachment::Learning;
use sv3::ipc::{Command, PortKind};

use crate::ports::terms::Terms;
use crate::workers::command::WorkerCommand;

/// Why a port that an operator took down does not run.
pub const DOWN: &str = "an operator took it down";

/// A port of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its slot, which is its index in the ledger and the number in its name, unless it has another one.
    pub slot: u16,
    /// What is behind it.
    pub kind: PortKind,
    /// Which addresses it may take.
    pub learning: Learning,
    /// What an operator said of it.
    pub terms: Rc<Terms>,
}

impl Port {
    /// The commands that add the port to a worker, with its rules: they hold before the first frame. Further commands
    /// describe what is behind it.
    pub fn add(&self) -> Vec<WorkerCommand> {
        let add = Command::PortAdd { port: self.slot, kind: self.kind, learning: self.learning }.into();
        [add].into_iter().chain(self.terms.tell(self.slot)).collect()
    }
}

impl fmt::Display for Port {
    /// Its name, as `sv3 status` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.terms.name {
            Some(name) => f.write_str(name),
            None => write!(f, "p{}", self.slot),
        }
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
