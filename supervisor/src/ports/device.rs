//! The device behind a port of kind vrings: its memory, features and rings.
//!
//! A protocol changes the device as its client says. Each method returns the commands that tell a worker of the change.
//! [`Device::replay`] tells a new worker everything. It uses the same methods, so a ring starts after a crash as it did
//! before.

mod migration;
mod record;

use std::rc::Rc;

use nix::fcntl::SealFlag;
use sv3::MAX_RINGS;
use sv3::attachment::Learning;
use sv3::ipc::{Command, PortKind, RingFault};
use sv3::virtio::VHOST_F_LOG_ALL;

use crate::ports::admission::Memory;
use crate::ports::holdings::Holdings;
use crate::ports::port::Port;
use crate::ports::ring::Ring;
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;

/// The device of one port.
#[derive(Debug)]
pub struct Device {
    /// Its port.
    pub port: Port,
    /// Acknowledged virtio features.
    pub features: u64,
    /// Rings are enabled unless the client disables them.
    pub starts_enabled: bool,
    /// Memory regions in force.
    pub memory: Vec<Memory>,
    /// The log of dirty pages that the client gave last.
    pub log: Option<Memory>,
    /// Pages are to be marked in it.
    pub logs: bool,
    /// A ring has been started since the client connected.
    pub ever_started: bool,
    /// Counts removed regions that a worker still has mapped.
    pub pending_unmaps: PendingUnmaps,
    rings: Vec<Ring>,
}

impl Device {
    /// A device without memory and rings; its port has this slot.
    pub fn new(slot: u16) -> Device {
        Device {
            port: Port { slot, kind: PortKind::Vrings, learning: Learning::Free, terms: Rc::default() },
            features: 0,
            starts_enabled: true,
            memory: Vec::new(),
            log: None,
            logs: false,
            ever_started: false,
            pending_unmaps: PendingUnmaps::default(),
            rings: Vec::new(),
        }
    }

    /// All commands for a worker that knows nothing of this port.
    pub fn replay(&self) -> Vec<WorkerCommand> {
        let mut commands = self.port.add();
        commands.push(self.port_features());
        if !self.memory.is_empty() {
            commands.extend(self.memory_table());
        }
        commands.extend(self.log_open());
        for (index, ring) in self.rings() {
            if ring.call.is_some() {
                commands.push(self.ring_call(index));
            }
            if ring.log.is_some() {
                commands.push(self.ring_log(index));
            }
            commands.extend(self.ring_start(index));
            if ring.stopping {
                commands.push(self.ring_stop(index));
            }
        }
        commands.extend(self.leaving());
        commands
    }

    /// The ring at `index`; none beyond [`MAX_RINGS`].
    pub fn ring(&mut self, index: u16) -> Option<&mut Ring> {
        let index = usize::from(index);
        if index >= MAX_RINGS {
            return None;
        }
        if self.rings.len() <= index {
            self.rings.resize_with(index + 1, Ring::default);
        }
        self.rings.get_mut(index)
    }

    /// The ring at `index`, if the client has mentioned it or a later one.
    pub fn known_ring(&self, index: u16) -> Option<&Ring> {
        self.rings.get(usize::from(index))
    }

    /// The rings that the client has mentioned, with their indices.
    pub fn rings(&self) -> impl Iterator<Item = (u16, &Ring)> {
        (0..).zip(&self.rings)
    }

    /// Files and regions that it holds.
    pub fn holdings(&self) -> Holdings {
        let rings: usize = self.rings.iter().map(|ring| ring.files().count()).sum();
        let regions = self.memory.len() + usize::from(self.log.is_some());
        Holdings { fds: rings + regions, regions }
    }

    /// Whether the client started a ring but sent no memory: its memory is not shared.
    pub fn lacks_memory(&self) -> bool {
        self.memory.is_empty() && !self.ever_started && self.rings.iter().any(|ring| ring.kick.is_some())
    }

    /// Whether its rings wait for a log of dirty pages that the client has not given.
    pub fn lacks_log(&self) -> bool {
        let waits = |ring: &Ring| ring.kick.is_some() && !ring.started;
        self.logs && self.log.is_none() && self.rings.iter().any(waits)
    }

    /// Whether no region can be truncated under a worker; `None` if it has no memory.
    pub fn is_sealed(&self) -> Option<bool> {
        let sealed = |memory: &Memory| memory.seals.contains(SealFlag::F_SEAL_SHRINK);
        (!self.memory.is_empty()).then(|| self.memory.iter().all(sealed))
    }

    /// Whether any ring is started.
    pub fn is_running(&self) -> bool {
        self.rings.iter().any(|ring| ring.started)
    }

    /// Whether the worker was told to stop a ring and has not reported yet.
    pub fn is_stopping(&self) -> bool {
        self.rings.iter().any(|ring| ring.stopping)
    }

    /// Whether a ring is enabled.
    pub fn is_enabled(&self, ring: &Ring) -> bool {
        ring.enable.unwrap_or(self.starts_enabled)
    }

    /// Replaces all memory.
    pub fn replace_memory(&mut self, memory: Vec<Memory>) -> Vec<WorkerCommand> {
        let old = std::mem::replace(&mut self.memory, memory);
        let mut commands = self.memory_table();
        if let Some(commit) = commands.last_mut() {
            commit.removes = self.pending_unmaps.remove(old.into_iter().map(|memory| memory.fd).collect());
        }
        commands.extend(self.start_rings());
        commands
    }

    /// Adds a region.
    pub fn add_memory(&mut self, memory: Memory) -> Vec<WorkerCommand> {
        let command = Command::RegionAdd { port: self.port.slot, region: memory.region };
        let mut commands = vec![WorkerCommand::with_fd(command, memory.fd.clone())];
        self.memory.push(memory);
        commands.extend(self.start_rings());
        commands
    }

    /// Removes the region at this index of [`Device::memory`].
    pub fn remove_memory(&mut self, at: usize) -> WorkerCommand {
        let Memory { region, fd, .. } = self.memory.remove(at);
        let removes = self.pending_unmaps.remove(vec![fd]);
        WorkerCommand { removes, ..Command::RegionRemove { port: self.port.slot, region }.into() }
    }

    /// Starts every ring that can start now, if the device has memory.
    pub fn start_rings(&mut self) -> Vec<WorkerCommand> {
        // A client that starts its device while its guest migrates sends the log last.
        if self.memory.is_empty() || self.logs && self.log.is_none() {
            return Vec::new();
        }
        let mut able = Vec::new();
        for (index, ring) in (0..).zip(&mut self.rings).filter(|(_, ring)| ring.can_start()) {
            ring.start();
            able.push(index);
        }
        self.ever_started |= !able.is_empty();
        able.into_iter().flat_map(|index| self.ring_start(index)).collect()
    }

    /// Stops a ring. If the ring does not run, this only removes its kick fd.
    pub fn stop(&mut self, index: u16) -> Vec<WorkerCommand> {
        match self.ring(index) {
            Some(ring) if ring.started => {
                ring.stopping = true;
                [self.ring_stop(index)].into_iter().chain(self.leaving()).collect()
            }
            Some(ring) => {
                ring.stop(ring.base);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Stops and disables all rings.
    pub fn reset(&mut self) -> Vec<WorkerCommand> {
        let rings: Vec<u16> = self.rings().map(|(index, _)| index).collect();
        let mut commands = Vec::new();
        for index in rings {
            commands.extend(self.stop(index));
            // The driver begins anew.
            self.ring(index).into_iter().for_each(|ring| (ring.enable, ring.unfinished) = (None, None));
            commands.push(self.ring_enable(index));
        }
        commands
    }

    /// The worker reports that it has stopped a ring at `base`.
    pub fn stopped(&mut self, index: u16, base: u64) -> Result<(), Breach> {
        let base =
            u16::try_from(base).map_err(|_| Breach("it reported that a ring stopped at an index above 65535"))?;
        let ring = self.rings.get_mut(usize::from(index)).filter(|ring| ring.stopping);
        let ring = ring.ok_or(Breach("it reported that a ring stopped which it was not told to stop"))?;
        // A ring that could not start has not moved.
        let stays = ring.fault.is_some() && base == 0;
        ring.stop(if stays { ring.base } else { base });
        ring.unfinished = None;
        self.forget_log();
        Ok(())
    }

    /// No worker will report where the stopping rings stopped: takes each position from `ledger`
    /// ([`sv3::ledger::RingPosition::used`]).
    pub fn stopped_by(&mut self, ledger: impl Fn(u16) -> u64) {
        for (index, ring) in (0..).zip(&mut self.rings).filter(|(_, ring)| ring.stopping) {
            ring.stop_at_word(ledger(index));
        }
        self.forget_log();
    }

    /// The worker reports that a ring has stopped by itself. Returns whether that is news.
    pub fn faulted(&mut self, index: u16, fault: RingFault) -> bool {
        let ring = self.rings.get_mut(usize::from(index));
        let news = ring.filter(|ring| ring.started && ring.fault != Some(fault));
        news.map(|ring| ring.fault = Some(fault)).is_some()
    }

    /// The command that tells a worker the features.
    pub fn port_features(&self) -> WorkerCommand {
        let features = self.features & !VHOST_F_LOG_ALL.mask();
        Command::PortFeatures { port: self.port.slot, features }.into()
    }

    fn memory_table(&self) -> Vec<WorkerCommand> {
        let port = self.port.slot;
        let stage = |memory: &Memory| {
            WorkerCommand::with_fd(Command::RegionStage { port, region: memory.region }, memory.fd.clone())
        };
        let commit = Command::MemoryCommit { port }.into();
        self.memory.iter().map(stage).chain([commit]).collect()
    }

    /// The command that makes a worker forget the port.
    pub fn port_remove(&self) -> WorkerCommand {
        let log = self.log.iter().filter(|_| self.logs);
        let removes =
            self.pending_unmaps.remove(self.memory.iter().chain(log).map(|memory| memory.fd.clone()).collect());
        WorkerCommand { removes, ..Command::PortRemove { port: self.port.slot }.into() }
    }

    /// The command that tells a worker how a ring signals.
    pub fn ring_call(&self, ring: u16) -> WorkerCommand {
        let fd = self.known_ring(ring).and_then(|ring| ring.call.clone());
        let command = Command::RingCall { port: self.port.slot, ring, call: fd.is_some() };
        WorkerCommand { command, fd, removes: None }
    }

    /// The command that tells a worker whether a ring is enabled.
    pub fn ring_enable(&self, ring: u16) -> WorkerCommand {
        let enable = self.known_ring(ring).is_some_and(|ring| self.is_enabled(ring));
        Command::RingEnable { port: self.port.slot, ring, enable }.into()
    }

    /// The command that starts a ring; none if the ring is not `started`.
    pub fn ring_start(&self, index: u16) -> Vec<WorkerCommand> {
        match self.known_ring(index) {
            Some(Ring { started: true, size: Some(size), addr: Some(addr), kick: Some(kick), base, run, .. }) => {
                let (size, addr, base, run) = (*size, *addr, *base, *run);
                let command = Command::RingStart { port: self.port.slot, ring: index, size, addr, base, run };
                vec![self.ring_enable(index), WorkerCommand::with_fd(command, kick.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn ring_stop(&self, ring: u16) -> WorkerCommand {
        Command::RingStop { port: self.port.slot, ring }.into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use sv3::foreign::ForeignFd;
    use sv3::ipc::{Region, RingAddr};

    use super::*;
    use crate::ports::kernel::FileId;

    fn file() -> Rc<ForeignFd> {
        Rc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into())
    }

    fn memory(guest_addr: u64, seals: SealFlag) -> Memory {
        let region = Region { guest_addr, size: 0x1000, user_addr: guest_addr, offset: 0, block: 4096 };
        Memory { region, fd: file(), file: FileId(0, guest_addr), file_size: 0x1000, present: 0, seals }
    }

    fn commands(told: Vec<WorkerCommand>) -> Vec<Command> {
        assert!(told.iter().all(|told| told.fd.is_some() == (told.command.fds() == 1)));
        told.into_iter().map(|told| told.command).collect()
    }

    /// A device with one ring that runs, described by no protocol.
    fn running() -> Device {
        let mut device = Device::new(3);
        let addr = Some(RingAddr { desc: 0, avail: 0x100, used: 0x200 });
        *device.ring(1).unwrap() = Ring { size: Some(4), addr, kick: Some(file()), base: 9, ..Ring::default() };
        device.replace_memory(vec![memory(0, SealFlag::F_SEAL_SHRINK)]);
        device
    }

    #[test]
    fn a_device_is_replayed_without_a_protocol() {
        let device = running();
        let addr = RingAddr { desc: 0, avail: 0x100, used: 0x200 };
        let wanted = [
            Command::PortAdd { port: 3, kind: PortKind::Vrings, learning: Learning::Free },
            Command::PortFeatures { port: 3, features: 0 },
            Command::RegionStage { port: 3, region: device.memory[0].region },
            Command::MemoryCommit { port: 3 },
            Command::RingEnable { port: 3, ring: 1, enable: true },
            Command::RingStart { port: 3, ring: 1, size: 4, addr, base: 9, run: 1 },
        ];
        assert_eq!(commands(device.replay()), wanted);
        assert_eq!(commands(device.replay()), wanted, "as often as workers come");
    }

    #[test]
    fn a_ring_stops_where_the_worker_or_the_ledger_says() {
        let mut device = running();
        assert!(device.stopped(1, 7).is_err(), "it was not told to stop");
        assert_eq!(commands(device.stop(1)), [Command::RingStop { port: 3, ring: 1 }]);
        assert!(device.is_stopping() && device.stopped(1, 0x1_0000).is_err() && device.stopped(0, 7).is_err());
        device.stopped(1, 7).unwrap();
        assert!(!device.is_running() && device.known_ring(1).is_some_and(|ring| ring.base == 7));
        assert!(device.stop(1).is_empty(), "it is stopped already");

        let mut device = running();
        device.stop(1);
        device.stopped_by(|index| 40 + u64::from(index));
        assert!(!device.is_stopping() && device.known_ring(1).is_some_and(|ring| ring.base == 41));
    }

    /// The worker died while it published a packed ring. What it has left in the ledger belongs to this run.
    #[test]
    fn a_ring_whose_last_publication_is_unfinished_starts_again_in_the_same_run() {
        let stopped = |word| {
            let mut device = running();
            device.stop(1);
            device.stopped_by(|_| word);
            device
        };
        let run_after = |mut device: Device, base, used| {
            let addr = Some(RingAddr { desc: 0, avail: 0x100, used });
            let ring = device.ring(1).unwrap();
            (ring.addr, ring.kick, ring.base) = (addr, Some(file()), base);
            commands(device.start_rings());
            device.known_ring(1).unwrap().run
        };
        assert_eq!(run_after(stopped(0x8003), 0x8003, 0x200), 2, "it is whole");
        let unfinished = 0x8003 | 5 << 32;
        assert_eq!(run_after(stopped(unfinished), 0x8003, 0x200), 1);
        assert_eq!(run_after(stopped(unfinished), 0x8004, 0x200), 2, "the client goes on elsewhere");
        assert_eq!(run_after(stopped(unfinished), 0x8003, 0x300), 2, "it is another ring");
        let mut again = stopped(unfinished);
        again.stop(1);
        assert_eq!(run_after(again, 0x8003, 0x200), 1, "the base was asked again");
        let mut reset = stopped(unfinished);
        reset.reset();
        assert_eq!(run_after(reset, 0x8003, 0x200), 2, "the driver begins anew");
    }

    #[test]
    fn a_ring_that_could_not_start_has_not_moved() {
        let mut device = running();
        assert!(device.faulted(1, RingFault::Unmapped) && !device.faulted(1, RingFault::Unmapped));
        device.stop(1);
        device.stopped(1, 0).unwrap();
        assert!(device.known_ring(1).is_some_and(|ring| ring.base == 9));
    }

    #[test]
    fn memory_that_is_taken_away_is_counted_until_it_is_unmapped() {
        let mut device = running();
        assert_eq!((device.holdings(), device.is_sealed()), (Holdings { fds: 2, regions: 1 }, Some(true)));
        device.add_memory(memory(0x1000, SealFlag::empty()));
        assert_eq!((device.holdings(), device.is_sealed()), (Holdings { fds: 3, regions: 2 }, Some(false)));
        let removed = device.remove_memory(1);
        assert_eq!((device.holdings().regions, device.pending_unmaps.own()), (1, 1));
        drop(removed);
        let end = device.port_remove();
        assert_eq!(device.pending_unmaps.own(), 1);
        drop(end);
        assert_eq!(device.pending_unmaps.own(), 0);
    }

    #[test]
    fn there_is_no_ring_beyond_the_last_one() {
        let mut device = Device::new(3);
        let last = u16::try_from(MAX_RINGS - 1).unwrap();
        assert!(device.ring(last).is_some() && device.ring(last + 1).is_none());
        assert!(device.stop(last + 1).is_empty() && device.stopped(u16::MAX, 0).is_err());
        assert!(!device.faulted(u16::MAX, RingFault::Unmapped));
    }
}
