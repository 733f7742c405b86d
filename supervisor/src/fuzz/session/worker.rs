//! The worker of target `session`: the state that its commands led to.

use std::collections::{BTreeMap, BTreeSet};

use sv3::ipc::{Command, Region, RingAddr};
use sv3::{MAX_MEM_SLOTS, MAX_RING_SIZE};

use crate::workers::command::WorkerCommand;

/// Rings that run: index, size, addresses, whether enabled, whether signalled.
type Rings = Vec<(u16, u16, RingAddr, bool, bool)>;

/// A worker that knows one port.
#[derive(Default)]
pub struct Model {
    here: bool,
    features: u64,
    staged: Vec<Region>,
    memory: Vec<Region>,
    rings: BTreeMap<u16, (u16, RingAddr)>,
    enabled: BTreeSet<u16>,
    calls: BTreeSet<u16>,
    log: Option<Region>,
    ring_logs: BTreeMap<u16, u64>,
}

impl Model {
    /// Executes a command. Panics if the command makes no sense.
    pub fn execute(&mut self, told: &WorkerCommand) {
        assert_eq!(told.fd.is_some(), told.command.fds() == 1);
        match told.command {
            Command::PortAdd { .. } => self.here = true,
            Command::PortFeatures { features, .. } => {
                assert!(self.rings.is_empty() || features == self.features, "other features while rings run");
                self.features = features;
            }
            Command::RegionStage { region, .. } => self.staged.push(region),
            Command::MemoryCommit { .. } => self.memory = std::mem::take(&mut self.staged),
            Command::RegionAdd { region, .. } => self.memory.push(region),
            Command::RegionRemove { region, .. } => {
                let before = self.memory.len();
                self.memory.retain(|have| (have.guest_addr, have.size) != (region.guest_addr, region.size));
                assert_eq!(self.memory.len() + 1, before);
            }
            Command::RingStart { ring, size, addr, .. } => {
                // The worker, not the session, refuses a split ring whose size is not a power of two.
                assert!((1..=MAX_RING_SIZE).contains(&size));
                self.rings.insert(ring, (size, addr));
            }
            Command::RingStop { ring, .. } => {
                self.rings.remove(&ring);
            }
            Command::RingEnable { ring, enable, .. } => put(&mut self.enabled, ring, enable),
            Command::RingCall { ring, call, .. } => put(&mut self.calls, ring, call),
            Command::LogOpen { region, .. } => {
                assert!(region.size > 0 && region.offset.checked_add(region.size).is_some());
                self.log = Some(region);
            }
            Command::LogClose { .. } => assert!(self.log.take().is_some()),
            Command::RingLog { ring, addr, .. } => match addr {
                Some(addr) => drop(self.ring_logs.insert(ring, addr)),
                None => drop(self.ring_logs.remove(&ring)),
            },
            Command::AddressFlush { port, .. } => assert!(port.is_some()),
            Command::Barrier | Command::SendRarp { .. } => {}
            _ => panic!("not a session's command"),
        }
        assert!(self.here, "a command for a port that is not there");
        self.check_memory();
    }

    fn check_memory(&self) {
        assert!(self.memory.len() <= MAX_MEM_SLOTS);
        let mut ends = (BTreeMap::new(), BTreeMap::new());
        let mut total = 0u64;
        for region in &self.memory {
            assert!(region.size > 0 && region.offset.checked_add(region.size).is_some());
            ends.0.insert(region.guest_addr, region.guest_addr.checked_add(region.size).unwrap());
            ends.1.insert(region.user_addr, region.user_addr.checked_add(region.size).unwrap());
            total = total.checked_add(region.size).unwrap();
        }
        assert!(total <= 8 << 40);
        for ends in [ends.0, ends.1] {
            assert_eq!(ends.len(), self.memory.len(), "regions overlap");
            let overlap = ends.values().zip(ends.keys().skip(1)).any(|(end, next)| end > next);
            assert!(!overlap, "regions overlap");
        }
    }

    /// The state that matters for frames.
    pub fn where_it_stands(&self) -> (u64, &[Region], Rings, Option<Region>, &BTreeMap<u16, u64>) {
        let rings = self.rings.iter();
        let rings = rings
            .map(|(ring, (size, addr))| (*ring, *size, *addr, self.enabled.contains(ring), self.calls.contains(ring)));
        (self.features, &self.memory, rings.collect(), self.log, &self.ring_logs)
    }
}

fn put(set: &mut BTreeSet<u16>, ring: u16, there: bool) {
    if there {
        set.insert(ring);
    } else {
        set.remove(&ring);
    }
}
