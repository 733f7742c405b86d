//! Commands about a client's memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sv3::ids::QueueId;
use sv3::ipc::Region;

use super::{ControlThread, NO_PORT};
use crate::memory::dirty_log::DirtyLog;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::mapping::Mapping;
use crate::poll::mapper::{MapRequest, Mapped, Purpose};
use crate::port::Port;
use crate::process::link::LinkEnd;

impl ControlThread {
    /// Asks the mapper to map a region, for one of the memory tables or as log.
    pub(super) fn map(
        &mut self,
        seq: u64,
        (port, purpose): (u16, Purpose),
        region: Region,
        fd: Option<OwnedFd>,
    ) -> nix::Result<()> {
        self.client(port)?;
        let fd = fd.ok_or(nix::errno::Errno::EBADF)?;
        self.requests.map(MapRequest { seq, port, purpose, region, fd });
        Ok(())
    }

    /// Takes a region that the mapper has mapped, or could not map.
    pub(super) fn take_mapped(&mut self, mapped: Mapped) -> Result<(), LinkEnd> {
        let Mapped { seq, port, purpose, outcome } = mapped;
        let result = outcome.and_then(|bare| {
            let mapping = Arc::new(Mapping::new(port, bare));
            let client = self.client(port)?;
            let table = match purpose {
                Purpose::Staged => &mut client.staged,
                Purpose::InForce => &mut client.memory,
                Purpose::Log => return self.set_log(port, seq, Some(DirtyLog::new(mapping))),
            };
            if let Err(mapping) = table.add(mapping) {
                self.requests.unmap([mapping], seq);
                return Err(nix::errno::Errno::ENOSPC);
            }
            if purpose == Purpose::Staged {
                return Ok(());
            }
            // Until the new region is pinned, no frame stays in memory.
            self.pin(port);
            self.show_regions(port)
        });
        self.tell_failure(seq, port, result)
    }

    /// Replaces the table in force by the collected one.
    pub(super) fn commit(&mut self, slot: u16, seq: u64) -> nix::Result<()> {
        self.settle_port(slot);
        let client = self.client(slot)?;
        // The old table lives until the vrings are looked up in the new one.
        let old: GuestMemory = std::mem::replace(&mut client.memory, std::mem::take(&mut client.staged));
        self.relocated(slot);
        self.requests.unmap(old.into_mappings(), seq);
        self.pin(slot);
        Ok(())
    }

    /// Gives all vrings a table that has grown.
    fn show_regions(&mut self, slot: u16) -> nix::Result<()> {
        let memory = self.client(slot)?.memory.clone();
        for queue in self.port(slot).into_iter().flat_map(Port::used) {
            if let Some(mut lease) = self.queue(queue)
                && let Some(vring) = lease.vring().filter(|vring| vring.queue.is_some())
            {
                vring.memory = memory.clone();
                if vring.log.is_some() {
                    vring.mark();
                }
            }
        }
        Ok(())
    }

    /// Marks pages in this log from now on, or no more. When this returns, nothing is marked in an earlier log.
    pub(super) fn set_log(&mut self, slot: u16, seq: u64, log: Option<DirtyLog>) -> nix::Result<()> {
        let old = std::mem::replace(&mut self.client(slot)?.log, log.clone());
        for queue in self.port(slot).into_iter().flat_map(Port::used) {
            if let Some(mut lease) = self.queue(queue)
                && let Some(vring) = lease.vring()
            {
                vring.log.clone_from(&log);
                vring.mark();
            }
        }
        self.requests.unmap(old.map(DirtyLog::into_mapping), seq);
        Ok(())
    }

    /// Sets where a ring's device area lies in the log.
    pub(super) fn set_ring_log(&mut self, queue: QueueId, addr: Option<u64>) -> nix::Result<()> {
        let mut lease = self.use_queue(queue)?;
        let vring = lease.vring().ok_or(NO_PORT)?;
        vring.log_addr = addr;
        vring.mark();
        Ok(())
    }

    /// Removes a region from the table in force.
    pub(super) fn remove_region(&mut self, slot: u16, region: &Region, seq: u64) -> nix::Result<()> {
        self.settle_port(slot);
        let mapping = self.client(slot)?.memory.remove(region);
        let found = mapping.is_some();
        if found {
            self.relocated(slot);
        }
        self.requests.unmap(mapping, seq);
        self.pin(slot);
        found.then_some(()).ok_or(nix::errno::Errno::ENOENT)
    }

    /// Looks up all started vrings again, in a table that has changed. Vrings that are no longer in it stop.
    fn relocated(&mut self, slot: u16) {
        for queue in self.port(slot).into_iter().flat_map(Port::used) {
            let is_started =
                self.queue(queue).is_some_and(|mut lease| lease.vring().is_some_and(|vring| vring.queue.is_some()));
            if !is_started {
                continue;
            }
            // The vrings are made anew, with kicks suppressed. So parked ones are polled until they park again.
            match self.begin(queue) {
                Ok(()) => self.poll(queue),
                Err(fault) => self.fault(queue, fault),
            }
        }
    }
}
