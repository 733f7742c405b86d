//! A port whose frames are in the worker's own memory. Only tests use it. It has no client, and the only command about
//! it is `PortAdd`.

use sv3::attachment::Learning;
use sv3::ipc::PortKind;

use crate::ports::port::{Port, Replay};
use crate::workers::command::WorkerCommand;

/// The port.
pub struct MemoryPort {
    slot: u16,
}

impl MemoryPort {
    /// The port in this slot.
    pub fn new(slot: u16) -> MemoryPort {
        MemoryPort { slot }
    }
}

impl Replay for MemoryPort {
    fn port(&self) -> Port {
        Port { slot: self.slot, kind: PortKind::Memory, learning: Learning::Free, terms: Default::default() }
    }

    fn replay(&self) -> Vec<WorkerCommand> {
        self.port().add()
    }

    fn is_waiting(&self) -> bool {
        false
    }
}
