//! Commands about a client's vrings.

use std::os::fd::OwnedFd;

use sv3::ids::QueueId;
use sv3::ipc::{RingAddr, RingFault};

use super::{ControlThread, NO_PORT};
use crate::port::kind::Kind;
use crate::port::vring::Vring;
use crate::port::vring::queue::Queue;
use crate::port::vring::setup::RingSetup;

impl ControlThread {
    /// Starts a vring: number of descriptors, addresses, base and run ([`sv3::ipc::Command::RingStart`]).
    pub(super) fn start(
        &mut self,
        queue: QueueId,
        (size, addr, base, run): (u16, RingAddr, u16, u32),
        kick: Option<OwnedFd>,
    ) -> nix::Result<()> {
        self.stop(queue);
        let (slot, index) = (usize::from(queue.slot), usize::from(queue.index));
        let position = self.ledger.ports.get(slot).and_then(|port| port.rings.get(index)).ok_or(NO_PORT)?;
        let journal = self.ledger.journals.get(slot).and_then(|port| port.get(index)).ok_or(NO_PORT)?;
        let mut lease = self.use_queue(queue)?;
        let vring = lease.vring().ok_or(NO_PORT)?;
        vring.setup = Some(RingSetup { size, addr, base, run, position, journal });
        (vring.kick, vring.transmits) = (kick, queue.transmits());
        drop(lease);
        match self.standby {
            true => self.prepare(queue),
            false => self.bring_up(queue),
        }
        Ok(())
    }

    /// Sets how the guest is signalled.
    pub(super) fn set_call(&mut self, queue: QueueId, call: Option<OwnedFd>) -> nix::Result<()> {
        let mut lease = self.use_queue(queue)?;
        let vring = lease.vring().ok_or(NO_PORT)?;
        vring.call = call;
        // What was signalled meanwhile by the earlier eventfd, or by none, may not have been heard.
        if vring.runs() && !self.standby {
            vring.signal();
        }
        Ok(())
    }

    /// Begins to use a vring whose setup is known.
    pub(super) fn begin(&mut self, queue: QueueId) -> Result<(), RingFault> {
        // A ring of many long chains takes its time. A hang there is the client's doing, and no hang of many rings.
        self.poller.beat();
        self.poller.work_for(Some(queue));
        let (lease, client) = (self.queue(queue), self.client(queue.slot));
        let begun = match (lease, client) {
            (Some(mut lease), Ok(client)) => lease.vring().map_or(Ok(()), |vring| {
                vring.log.clone_from(&client.log);
                vring.begin(&client.memory, client.features)
            }),
            _ => Ok(()),
        };
        self.poller.work_for(None);
        begun
    }

    /// On standby: prepares a started vring as far as possible without an access to it.
    fn prepare(&mut self, queue: QueueId) {
        // What fails now fails again at the promotion, and is reported then.
        let _ = self.watch(queue);
        if let (Some(mut lease), Ok(client)) = (self.queue(queue), self.client(queue.slot))
            && let Some(Vring { setup: Some(setup), .. }) = lease.vring()
        {
            setup.areas(client.features).into_iter().for_each(|(addr, len)| client.memory.populate(addr, len));
        }
    }

    /// Lets kicks wake the thread of a started vring, unless they already do. Does nothing for a vring that is not
    /// started.
    fn watch(&mut self, queue: QueueId) -> Option<nix::Result<()>> {
        let mut lease = self.queue(queue)?;
        let Vring { setup: Some(_), kick: Some(kick), is_watched, .. } = lease.vring()? else { return None };
        // With one thread, a receiver's kick wakes the thread that pauses queues for this receiver.
        if *is_watched || !queue.transmits() && self.threads.count() > 1 {
            return Some(Ok(()));
        }
        let watched = self.threads.notify(self.threads.owner(queue)).watch(kick, queue);
        *is_watched = watched.is_ok();
        Some(watched)
    }

    /// Starts a vring whose setup and kick fd are known, or a queue of another kind. Does nothing for other vrings.
    pub(super) fn bring_up(&mut self, queue: QueueId) {
        if self.queue(queue).is_some_and(|mut lease| lease.vring().is_none()) {
            return self.begin_file(queue);
        }
        let Some(watched) = self.watch(queue) else { return };
        match (self.begin(queue), watched) {
            (Ok(()), Ok(())) => {
                self.show_pins(queue.slot);
                self.changed(queue);
            }
            (Err(fault), _) => self.fault(queue, fault),
            (_, Err(_)) => self.fault(queue, RingFault::BadKick),
        }
    }

    /// Enables or disables a vring.
    pub(super) fn enable(&mut self, queue: QueueId, enable: bool) -> nix::Result<()> {
        self.use_queue(queue)?.vring().ok_or(NO_PORT)?.enabled = enable;
        self.changed(queue);
        Ok(())
    }

    /// Stops a queue and returns the vring base. A vring that does not run has base 0.
    pub(super) fn stop(&mut self, queue: QueueId) -> u16 {
        self.settle(queue);
        let Some(mut lease) = self.queue(queue) else { return 0 };
        let was_paused = lease.unpause();
        let mut base = 0;
        if let Some(vring) = lease.vring() {
            base = vring.end().as_ref().map_or(0, Queue::position);
            vring.setup = None;
            vring.is_watched = false;
            if let Some(kick) = vring.kick.take() {
                self.threads.notify(self.threads.owner(queue)).forget(&kick);
            }
        }
        if let Some(file) = lease.endpoint().file() {
            file.end();
        }
        if !queue.transmits() {
            self.threads.ports.note_receiver(queue, false);
        }
        drop(lease);
        if was_paused {
            self.poll(queue);
        }
        base
    }
}
