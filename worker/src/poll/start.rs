//! What a worker starts with.

use sv3::ipc::Settings;
use sv3::ledger::{Ledger, ThreadState, WorkerArea};
use sv3_policy::WorkerRole;

use crate::process::crash;

/// The content of the first command.
#[derive(Clone, Copy)]
pub struct Start {
    /// How the worker runs.
    pub settings: Settings,
    /// The mapped ledger.
    pub ledger: &'static Ledger,
    /// The worker's own area of it.
    pub area: &'static WorkerArea,
    /// The worker waits for [`Command::Promote`].
    pub standby: bool,
    /// What the worker's policy has syscalls for.
    pub role: WorkerRole,
}

impl Start {
    /// The state of thread `number`. [`crate::args`] allows no more threads than the ledger has.
    pub fn thread(&self, number: usize) -> &'static ThreadState {
        match self.area.thread(number) {
            Some(state) => state,
            None => crash::last_words(&format!("the ledger has no place for thread {number}")),
        }
    }
}
