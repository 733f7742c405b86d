//! A device whose guest migrates: the client wants to know which pages the worker writes (vhost-user, "Migration").
//!
//! The client switches that on and off while rings run. It gives the log first, and gives a new one each time. A worker is
//! told of the log while pages are to be marked in it. The log ends with the last ring: what the client looks at then is
//! complete, and a device that starts again gets another one.

use sv3::ipc::Command;
use sv3::wire::Refuse;

use super::Device;
use crate::ports::admission::Memory;
use crate::ports::kernel::Inspect;
use crate::workers::command::WorkerCommand;

impl Device {
    /// The client gives a log, in the place of an earlier one.
    pub fn set_log(&mut self, log: Memory) -> Vec<WorkerCommand> {
        let old = self.log.replace(log).filter(|_| self.logs);
        let mut commands: Vec<_> = self.log_open().into_iter().collect();
        if let Some(open) = commands.last_mut() {
            open.removes = self.pending_unmaps.remove(old.into_iter().map(|old| old.fd).collect());
        }
        commands.extend(self.start_rings());
        commands
    }

    /// The client wants pages marked, or no more.
    pub fn set_logs(&mut self, logs: bool) -> Vec<WorkerCommand> {
        let close = self.log_close();
        match std::mem::replace(&mut self.logs, logs) {
            before if before == logs => Vec::new(),
            false => self.log_open().into_iter().collect(),
            true => {
                self.log = None;
                close.into_iter().chain(self.start_rings()).collect()
            }
        }
    }

    /// The command that gives a worker the log, if pages are to be marked.
    pub(super) fn log_open(&self) -> Option<WorkerCommand> {
        let log = self.log.as_ref().filter(|_| self.logs)?;
        let command = Command::LogOpen { port: self.port.slot, region: log.region };
        Some(WorkerCommand::with_fd(command, log.fd.clone()))
    }

    /// The command that takes the log away from a worker, if it has one.
    fn log_close(&self) -> Option<WorkerCommand> {
        let log = self.log.as_ref().filter(|_| self.logs)?;
        let removes = self.pending_unmaps.remove(vec![log.fd.clone()]);
        Some(WorkerCommand { removes, ..Command::LogClose { port: self.port.slot }.into() })
    }

    /// Whether the worker was told to stop the last ring of a guest that migrates, and has not reported yet.
    fn is_leaving(&self) -> bool {
        let stops = self.rings.iter().filter(|ring| ring.started).all(|ring| ring.stopping);
        self.logs && self.log.is_some() && stops && self.is_stopping()
    }

    /// What follows when the last ring of a guest that migrates stops: nothing is marked any more, and its addresses are
    /// forgotten. So frames to the guest are flooded until it speaks at another port, and find it there at once.
    pub(super) fn leaving(&self) -> Vec<WorkerCommand> {
        match self.is_leaving() {
            true => {
                let flush = Command::AddressFlush { port: Some(self.port.slot), vid: None, mac: None };
                self.log_close().into_iter().chain([flush.into()]).collect()
            }
            false => Vec::new(),
        }
    }

    /// A ring has stopped: the log ends with the last one.
    pub(super) fn forget_log(&mut self) {
        if self.logs && !self.is_running() {
            self.log = None;
        }
    }

    /// The command that tells a worker where a ring's device area is in the log.
    pub fn ring_log(&self, ring: u16) -> WorkerCommand {
        let addr = self.known_ring(ring).and_then(|ring| ring.log);
        Command::RingLog { port: self.port.slot, ring, addr }.into()
    }

    /// Whether its guest migrates: pages are marked.
    pub fn is_migrating(&self) -> bool {
        self.logs && self.log.is_some()
    }

    /// What a worker may have mapped: memory, and the log.
    fn mapped(&self) -> impl Iterator<Item = &Memory> {
        self.memory.iter().chain(&self.log)
    }

    /// Why the client is refused, if a file that a worker has mapped was truncated ([`Memory::truncated`]).
    pub fn truncated(&self, kernel: &dyn Inspect) -> Option<Refuse> {
        self.mapped().find_map(|memory| memory.truncated(kernel))
    }

    /// Why the client is refused, if a worker can no longer map a file ([`Memory::unusable`]).
    pub fn unusable(&self, kernel: &dyn Inspect) -> Option<Refuse> {
        self.mapped().find_map(|memory| memory.unusable(kernel))
    }
}
