//! A port whose frames lie in the worker's own memory. Only tests have it: no client is behind it, and a worker is told
//! nothing but that it is there.

use sv3::ipc::PortKind;

use crate::ports::port::Port;
use crate::workers::command::WorkerCommand;
use crate::workers::succession::ToldPort;

/// The port.
pub struct MemoryPort {
    port: Port,
}

impl MemoryPort {
    /// In this slot.
    pub fn new(slot: u16) -> MemoryPort {
        MemoryPort { port: Port { slot, kind: PortKind::Memory } }
    }
}

impl ToldPort for MemoryPort {
    fn slot(&self) -> u16 {
        self.port.slot
    }

    fn is_waiting(&self) -> bool {
        false
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        vec![self.port.add()]
    }

    fn remove(&self) -> WorkerCommand {
        self.port.remove()
    }
}
