//! A guest in software: a vhost-user front-end and a virtio-net driver in one, in this process.
//!
//! It is written from the specifications and shares no code with the switch, so that both rarely have the same error.
//! It checks all that a device owes a driver (see [`split`] and [`Guest::receive_into`]), and panics at the scenario's
//! line. It sleeps by the call eventfd, so that a missing signal is a failure, and kicks only when the device asks for
//! it.

mod config;
pub mod feature;
mod header;
mod hostile;
pub mod memory;
mod packed;
pub mod queue;
mod requests;
mod ring;
pub mod split;
mod traffic;
pub mod wire;

use std::path::Path;

pub use config::Config;
use feature::*;
pub use header::*;
use memory::Memory;
use queue::Queue;
pub use queue::Shape;
use wire::*;

use crate::failure::{Failure, Result};

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its header.
    pub hdr: NetHdr,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
    /// The queue pair that it came by.
    pub pair: u16,
    /// Receive buffers that it took.
    pub buffers: usize,
}

/// A guest. When it is dropped its connection closes without stopping the rings.
pub struct Guest {
    config: Config,
    wire: Wire,
    memory: Memory,
    /// By vring index.
    queues: Vec<Queue>,
    features: u64,
    protocol_features: u64,
    /// Regions that the back-end has been told of.
    told: Vec<usize>,
    /// Frames sent so far.
    sent: u64,
}

/// Making and ending the connection.
impl Guest {
    /// A guest like Linux under QEMU.
    #[track_caller]
    pub fn connect(socket: &Path) -> Guest {
        Config::default().connect(socket)
    }

    /// How a guest is built.
    pub fn config() -> Config {
        Config::default()
    }

    fn new(config: Config, socket: &Path, memory: Memory, queues: Vec<Queue>) -> Result<Guest> {
        let mut wire = Wire::connect(socket)?;
        wire.budget = config.budget;
        let told = (0..memory.regions().len()).collect();
        Ok(Guest { config, wire, memory, queues, features: 0, protocol_features: 0, told, sent: 0 })
    }

    /// What [`Config::connect`] does once the socket is connected.
    pub fn bring_up(&mut self) -> Result<()> {
        self.negotiate()?;
        self.reset_driver();
        self.tell_memory()?;
        for ring in 0..self.queues.len() {
            let base = self.queues[ring].ring.base(&self.memory);
            self.tell_ring(ring as u16, base)?;
        }
        self.finish_start()
    }

    /// What QEMU sends before the guest's driver starts, and the features.
    fn negotiate(&mut self) -> Result<()> {
        self.wire.acknowledged = false;
        let offered = self.wire.get(GET_FEATURES)?;
        let missing = self.config.features & !offered;
        if missing != 0 {
            return Err(Failure::new(format!("the back-end does not offer features {missing:#x}")));
        }
        if self.config.features & PROTOCOL_FEATURES != 0 {
            let offered = self.wire.get(GET_PROTOCOL_FEATURES)?;
            self.protocol_features = offered & self.config.protocol_features;
            self.wire.set(SET_PROTOCOL_FEATURES, &self.protocol_features.to_ne_bytes(), &[])?;
            self.wire.acknowledged = self.config.acknowledged && self.has(PROTOCOL_REPLY_ACK);
        }
        if self.has(PROTOCOL_MQ) {
            let most = self.wire.get(GET_QUEUE_NUM)?;
            if most < self.queues.len() as u64 / 2 {
                return Err(Failure::new(format!("the back-end has {most} queue pairs")));
            }
        }
        if self.has(PROTOCOL_MEM_SLOTS) {
            self.wire.get(GET_MAX_MEM_SLOTS)?;
        }
        self.wire.set(SET_OWNER, &[], &[])?;
        if let Some(mtu) = self.config.mtu {
            self.wire.set(NET_SET_MTU, &mtu.to_ne_bytes(), &[])?;
        }
        self.features = self.config.features;
        self.wire.set(SET_FEATURES, &self.features.to_ne_bytes(), &[])
    }

    fn has(&self, protocol_feature: u64) -> bool {
        self.protocol_features & protocol_feature != 0
    }

    /// The driver begins anew: empty rings, all receive buffers offered.
    fn reset_driver(&mut self) {
        for queue in &mut self.queues {
            queue.ring.reset(&self.memory, self.features);
            queue.started = false;
            if queue.index % 2 == 0 {
                queue.add_buffers(&self.memory);
                // The back-end looks by itself when it starts.
                queue.ring.publish(&self.memory);
            }
        }
    }

    fn tell_memory(&mut self) -> Result<()> {
        if self.has(PROTOCOL_MEM_SLOTS) {
            for at in self.told.clone() {
                self.tell_region(ADD_MEM_REG, at)?;
            }
            return Ok(());
        }
        self.tell_table()
    }

    fn tell_table(&mut self) -> Result<()> {
        let regions = self.told.iter().filter_map(|at| self.memory.regions().get(*at));
        let (table, files): (Vec<_>, Vec<_>) = regions.map(|region| (describe(region), region.file())).unzip();
        self.wire.set(SET_MEM_TABLE, &region_table(&table), &files)
    }

    fn tell_region(&mut self, request: u32, at: usize) -> Result<()> {
        let region = self.memory.regions().get(at).ok_or_else(|| Failure::new(format!("no region {at}")))?;
        let files: &[_] = if request == ADD_MEM_REG { &[region.file()] } else { &[] };
        self.wire.set(request, &single_region(&describe(region)), files)
    }

    fn tell_ring(&mut self, index: u16, base: u32) -> Result<()> {
        let Guest { queues, memory, wire, .. } = self;
        let queue = queues.get_mut(usize::from(index)).ok_or_else(|| Failure::new(format!("no ring {index}")))?;
        let (number, fd) = (u32::from(index), u64::from(index).to_ne_bytes());
        let (descriptors, used, available) = queue.ring.addrs();
        let user = |addr| memory.user_addr(addr);
        wire.set(SET_VRING_NUM, &vring_state(number, queue.ring.size().into()), &[])?;
        wire.set(SET_VRING_BASE, &vring_state(number, base), &[])?;
        wire.set(SET_VRING_ADDR, &vring_addr(number, user(descriptors), user(used), user(available)), &[])?;
        wire.set(SET_VRING_CALL, &fd, &[queue.call_fd()])?;
        wire.set(SET_VRING_KICK, &fd, &[queue.kick_fd()])?;
        queue.started = true;
        Ok(())
    }

    fn finish_start(&mut self) -> Result<()> {
        if self.features & PROTOCOL_FEATURES != 0 {
            for ring in 0..self.queues.len() {
                self.wire.set(SET_VRING_ENABLE, &vring_state(ring as u32, 1), &[])?;
            }
        }
        if self.has(PROTOCOL_STATUS) {
            let status = self.wire.get(GET_STATUS)?;
            // ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
            self.wire.set(SET_STATUS, &(status | 0xf).to_ne_bytes(), &[])?;
        }
        Ok(())
    }

    /// Stops all rings and closes the connection, as QEMU does when it ends in order.
    #[track_caller]
    pub fn disconnect(mut self) {
        for ring in 0..self.queues.len() {
            self.stop_ring(ring as u16);
        }
    }

    /// Closes the connection at once.
    pub fn vanish(self) {}

    /// Ends as a process does: its memory goes first, then its connection.
    pub fn exit(self) {
        let Guest { wire, memory, queues, .. } = self;
        drop((memory, queues));
        drop(wire);
    }

    /// Connects anew, as QEMU does when the back-end has gone: memory and rings are as they were.
    #[track_caller]
    pub fn reconnect(&mut self, socket: &Path) {
        must("reconnect", self.try_reconnect(socket));
    }

    /// Moves to another back-end, as QEMU does when the guest moves to another host: it stops the rings at the one and
    /// starts them at the other. Memory and rings stay as they are.
    #[track_caller]
    pub fn move_to(&mut self, socket: &Path) {
        for ring in 0..self.queues.len() {
            self.stop_ring(ring as u16);
        }
        self.reconnect(socket);
    }

    fn try_reconnect(&mut self, socket: &Path) -> Result<()> {
        self.wire = Wire::connect(socket)?;
        self.negotiate()?;
        self.tell_memory()?;
        for ring in 0..self.queues.len() {
            let base = self.queues[ring].ring.base(&self.memory);
            self.tell_ring(ring as u16, base)?;
        }
        self.finish_start()
    }
}

fn describe(region: &memory::Region) -> Vec<u8> {
    wire::region(region.guest_addr, region.size, region.user_addr, region.offset)
}

#[track_caller]
fn must<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|failure| panic!("{what}: {failure}"))
}
