//! How a guest is built.

use std::path::Path;

use super::Guest;
use super::feature::{LINUX, MQ, PROTOCOL_FEATURES};
use super::memory::Memory;
use super::queue::{Plan, Queue};
use super::ring::Ring;
use crate::failure::Result;

/// Octets of the largest frame that a scenario sends or receives, with its header.
const LARGEST: u32 = 66_000;
/// Most pieces of one chain.
const PIECES: u16 = 64;

/// How a guest is built. By default: like Linux's driver under QEMU, with one queue pair of 256 entries, one memory
/// region, and receive buffers of 2 KiB.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) features: u64,
    pub(super) protocol_features: u64,
    pub(super) acknowledged: bool,
    pub(super) budget: Option<usize>,
    pub(super) mtu: Option<u64>,
    pairs: u16,
    ring_size: u16,
    rx_buffer: Option<u32>,
    rx_shape: (Vec<u32>, bool),
    guarded: bool,
    regions: usize,
    octets: Option<u64>,
    rings_at_end: bool,
    huge: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            features: LINUX | PROTOCOL_FEATURES,
            protocol_features: u64::MAX,
            acknowledged: true,
            budget: None,
            mtu: None,
            pairs: 1,
            ring_size: 256,
            rx_buffer: None,
            rx_shape: (Vec::new(), false),
            guarded: false,
            regions: 1,
            octets: None,
            rings_at_end: false,
            huge: false,
        }
    }
}

impl Config {
    /// Virtio features to negotiate; the back-end must offer them. vhost-user's protocol features are negotiated beside
    /// them, see [`Config::without_protocol_features`].
    pub fn features(self, features: u64) -> Config {
        Config { features: features | PROTOCOL_FEATURES, ..self }
    }

    /// Virtio features beside those that it has.
    pub fn more_features(self, features: u64) -> Config {
        Config { features: self.features | features, ..self }
    }

    /// As a front-end from before protocol features: no acknowledgements, rings are enabled from the start.
    pub fn without_protocol_features(self) -> Config {
        Config { features: self.features & !PROTOCOL_FEATURES, acknowledged: false, ..self }
    }

    /// The protocol features to take where they are offered; all by default.
    pub fn protocol_features(self, protocol_features: u64) -> Config {
        Config { protocol_features, ..self }
    }

    /// Like QEMU, asks for an acknowledgement of memory changes only. By default every request is acknowledged, so that
    /// it is in force when the method returns.
    pub fn without_acknowledgements(self) -> Config {
        Config { acknowledged: false, ..self }
    }

    /// Vanishes after that many requests, see [`Config::try_connect`].
    pub fn vanishing_after(self, requests: usize) -> Config {
        Config { budget: Some(requests), ..self }
    }

    /// Tells the back-end an MTU.
    pub fn mtu(self, mtu: u64) -> Config {
        Config { mtu: Some(mtu), ..self }
    }

    /// Number of queue pairs.
    pub fn pairs(self, pairs: u16) -> Config {
        Config { pairs, ..self }
    }

    /// Entries of each ring.
    pub fn ring_size(self, ring_size: u16) -> Config {
        Config { ring_size, ..self }
    }

    /// Octets of a receive buffer. By default 2 KiB, or, without MRG_RXBUF, as large as a frame can be.
    pub fn rx_buffer(self, octets: u32) -> Config {
        Config { rx_buffer: Some(octets), ..self }
    }

    /// Octets of the pieces that a receive buffer consists of; what is left over is one more.
    pub fn rx_pieces(self, pieces: &[u32]) -> Config {
        Config { rx_shape: (pieces.to_vec(), self.rx_shape.1), ..self }
    }

    /// Receive buffers stand in indirect tables.
    pub fn rx_indirect(self) -> Config {
        Config { rx_shape: (self.rx_shape.0, true), ..self }
    }

    /// Checks at each receive buffer whether the device wrote outside of it. A worker that was killed may have.
    pub fn guarded(self) -> Config {
        Config { guarded: true, ..self }
    }

    /// Splits the memory in that many regions, adjacent for the guest but not for the back-end.
    pub fn regions(self, regions: usize) -> Config {
        Config { regions, ..self }
    }

    /// Octets of memory; by default a little more than the rings and buffers take.
    pub fn memory(self, octets: u64) -> Config {
        Config { octets: Some(octets), ..self }
    }

    /// Memory of huge pages, which must be set beside it ([`Config::memory`]).
    pub fn huge_pages(self) -> Config {
        Config { huge: true, ..self }
    }

    /// The rings end where the first region does; everything else lies in the next ones.
    pub fn rings_at_region_end(self) -> Config {
        Config { rings_at_end: true, regions: self.regions.max(2), ..self }
    }

    /// Connects and brings the device up, as QEMU does when the guest's driver starts.
    #[track_caller]
    pub fn connect(self, socket: &Path) -> Guest {
        self.try_connect(socket).unwrap_or_else(|(failure, _)| panic!("a guest cannot connect: {failure}"))
    }

    /// As [`Config::connect`]; when the back-end refuses, or the front-end is to vanish on the way, the guest is
    /// returned as far as it got.
    pub fn try_connect(self, socket: &Path) -> std::result::Result<Guest, (crate::failure::Failure, Box<Guest>)> {
        let mut guest = self.build(socket).unwrap_or_else(|failure| panic!("a guest cannot connect: {failure}"));
        match guest.bring_up() {
            Ok(()) => Ok(guest),
            Err(failure) => Err((failure, Box::new(guest))),
        }
    }

    /// A guest that is connected and has sent nothing.
    pub fn build(mut self, socket: &Path) -> Result<Guest> {
        if self.pairs > 1 {
            self.features |= MQ;
        }
        let plans = [self.plan(true), self.plan(false)];
        let ring = Ring::octets(self.ring_size).next_multiple_of(16);
        let rings = ring * 2 * u64::from(self.pairs);
        let buffers: u64 = plans.iter().map(Plan::octets).sum::<u64>() * u64::from(self.pairs);
        let needed = rings + buffers + (1 << 20);
        let (count, page) = (self.regions as u64, 4096);
        let region = match self.octets {
            Some(octets) => octets / count,
            None if self.rings_at_end => needed.div_ceil(count - 1).next_multiple_of(page),
            None => needed.div_ceil(count).next_multiple_of(page),
        };
        let memory = Memory::of_pages(self.regions, region, self.huge);
        let places: Vec<u64> = if self.rings_at_end {
            let used = Ring::octets(self.ring_size);
            // The last ring's last octet is the region's last but for what alignment asks.
            let last = memory.last_of_first_region(used, 16);
            (0..2 * u64::from(self.pairs)).map(|at| last - at * ring).collect()
        } else {
            (0..2 * self.pairs).map(|_| memory.allocate_whole(ring, 16)).collect()
        };
        if self.rings_at_end {
            memory.leave_first_region();
        }
        let queues = (0..2 * self.pairs).zip(places).map(|(index, place)| {
            let [rx, tx] = &plans;
            Queue::new(&memory, index, place, if index % 2 == 0 { rx } else { tx })
        });
        let queues = queues.collect();
        Guest::new(self, socket, memory, queues)
    }

    fn plan(&self, receives: bool) -> Plan {
        let whole = self.features & super::feature::MRG_RXBUF == 0;
        let buffer = match self.rx_buffer {
            Some(octets) if receives => octets,
            None if receives && !whole => 2048,
            _ => LARGEST,
        };
        Plan {
            size: self.ring_size,
            buffer,
            pieces: PIECES,
            rx_shape: self.rx_shape.clone(),
            guarded: self.guarded && receives,
        }
    }
}
