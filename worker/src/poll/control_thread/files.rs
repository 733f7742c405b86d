//! Commands about open files.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use sv3::ids::QueueId;
use sv3::ipc::FileSettings;

use super::{ControlThread, NO_PORT};
use crate::port::endpoint::Endpoint;
use crate::port::files::{FileQueue, OpenFile, Waiting};

/// The queues of a pair, the receiver first: the first frame that comes in must find it started.
fn queues(slot: u16, pair: u16) -> [QueueId; 2] {
    [QueueId::receive(slot, pair), QueueId::transmit(slot, pair)]
}

impl ControlThread {
    /// Gives a queue pair its file, in the place of an earlier one.
    pub(super) fn open_file(
        &mut self,
        (slot, pair): (u16, u16),
        settings: FileSettings,
        fd: Option<OwnedFd>,
    ) -> nix::Result<()> {
        if !self.may_use_files {
            return Err(Errno::EPERM);
        }
        let fd = fd.ok_or(Errno::EBADF)?;
        let input = self.ledger.inputs.get(usize::from(settings.input)).ok_or(NO_PORT)?;
        let port = self.make_pair(slot, pair)?;
        self.close_file(slot, pair)?;
        let transmit = QueueId::transmit(slot, pair);
        let events = self.threads.notify(self.threads.owner(transmit)).events_of(transmit);
        let waiting = Waiting::new(events, port, pair);
        let file = Arc::new(OpenFile { fd, settings, input });
        // A standby is told of events only when it serves.
        waiting.begin(file.fd())?;
        for queue in queues(slot, pair) {
            let endpoint = FileQueue::new(queue, Arc::clone(&file), waiting);
            self.use_queue(queue)?.reset(Endpoint::Files(Box::new(endpoint)));
        }
        if !self.standby {
            queues(slot, pair).into_iter().for_each(|queue| self.bring_up(queue));
        }
        Ok(())
    }

    /// Closes the file of a queue pair, if it has one.
    pub(super) fn close_file(&mut self, slot: u16, pair: u16) -> nix::Result<()> {
        for queue in queues(slot, pair) {
            self.stop(queue);
            self.use_queue(queue)?.reset(Endpoint::default());
        }
        Ok(())
    }

    /// Begins to serve a queue of a file.
    pub(super) fn begin_file(&mut self, queue: QueueId) {
        let begun = self.queue(queue).and_then(|mut lease| Some(lease.endpoint().file()?.begin()));
        match begun {
            Some(Err(fault)) => self.fault(queue, fault),
            _ => self.changed(queue),
        }
    }
}
