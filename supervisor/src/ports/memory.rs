//! A port whose frames lie in the worker's own memory. Only tests have it: no client is behind it, and a worker is told
//! nothing but that it is there.

use sv3::ipc::PortKind;

use crate::ports::port::{Port, Replay};
use crate::workers::command::WorkerCommand;

/// The port.
pub struct MemoryPort {
    slot: u16,
}

impl MemoryPort {
    /// In this slot.
    pub fn new(slot: u16) -> MemoryPort {
        MemoryPort { slot }
    }
}

impl Replay for MemoryPort {
    fn port(&self) -> Port {
        Port { slot: self.slot, kind: PortKind::Memory }
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        vec![self.port().add()]
    }

    fn is_waiting(&self) -> bool {
        false
    }
}
