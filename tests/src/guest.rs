//! A guest in software: a vhost-user front-end and a virtio-net driver in one, in this process.
//!
//! It is written from the specifications and shares no code with the switch, so that what both do wrong in the same way
//! is less likely. It checks all that a device owes a driver (see [`split`] and [`Guest::receive`]), and panics where a
//! scenario's line breaks that. It sleeps by the call eventfd, so that a signal that is owed and does not come is a
//! failure, and kicks only when asked to.

mod config;
pub mod feature;
mod header;
pub mod memory;
pub mod queue;
pub mod split;
pub mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use config::Config;
use feature::*;
pub use header::*;
use memory::Memory;
use queue::Queue;
pub use queue::Shape;
use split::{Descriptor, Used};
use wire::*;

use crate::failure::{Failure, Result};
use crate::patience::PATIENCE;

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

/// A guest. When it is dropped its connection closes without a word.
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

    /// How a guest shall be built.
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
            self.tell_ring(ring as u16, 0)?;
        }
        self.finish_start()
    }

    /// What QEMU says before the guest's driver is there, and the features.
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

    fn tell_ring(&mut self, index: u16, base: u16) -> Result<()> {
        let Guest { queues, memory, wire, .. } = self;
        let queue = queues.get_mut(usize::from(index)).ok_or_else(|| Failure::new(format!("no ring {index}")))?;
        let (number, fd) = (u32::from(index), u64::from(index).to_ne_bytes());
        let (descriptors, used, available) = queue.ring.addrs();
        let user = |addr| memory.user_addr(addr);
        wire.set(SET_VRING_NUM, &vring_state(number, queue.ring.size().into()), &[])?;
        wire.set(SET_VRING_BASE, &vring_state(number, base.into()), &[])?;
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

    /// Connects anew, as QEMU does when the back-end has gone: memory and rings are as they were.
    #[track_caller]
    pub fn reconnect(&mut self, socket: &Path) {
        must("reconnect", self.try_reconnect(socket));
    }

    fn try_reconnect(&mut self, socket: &Path) -> Result<()> {
        self.wire = Wire::connect(socket)?;
        self.negotiate()?;
        self.tell_memory()?;
        for ring in 0..self.queues.len() {
            let base = self.queues[ring].ring.used_index(&self.memory);
            self.tell_ring(ring as u16, base)?;
        }
        self.finish_start()
    }
}

/// Frames.
impl Guest {
    /// Sends a frame by the first queue pair.
    #[track_caller]
    #[inline]
    pub fn send(&mut self, frame: &[u8]) {
        self.send_on(0, &NetHdr::default(), frame, Shape::default());
    }

    /// Sends a frame with a header, in a chain of this shape, by the first queue pair.
    #[track_caller]
    pub fn send_with(&mut self, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) {
        self.send_on(0, hdr, frame, shape);
    }

    /// Sends a frame by any queue pair. Waits while the ring is full.
    #[track_caller]
    pub fn send_on(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) {
        assert!(self.try_send_on(pair, hdr, frame, shape) || self.wait_and_send(pair, hdr, frame, shape), "{STUCK}");
        self.publish(2 * pair + 1);
    }

    #[track_caller]
    fn wait_and_send(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.await_used(&[2 * pair + 1], deadline).is_some() {
            self.reap(pair);
            if self.try_send_on(pair, hdr, frame, shape) {
                return true;
            }
        }
        false
    }

    /// Adds a frame that the device does not see before [`Guest::publish`]. False: the ring is full.
    #[track_caller]
    #[inline]
    pub fn try_send_on(&mut self, pair: u16, hdr: &NetHdr, frame: &[u8], shape: Shape<'_>) -> bool {
        self.reap(pair);
        let hdr = hdr.octets();
        let hdr = hdr.get(..self.header_len()).unwrap_or(&hdr);
        let Some(queue) = self.queues.get_mut(usize::from(2 * pair + 1)) else { return false };
        let added = queue.add_octets(&self.memory, [hdr, frame], shape);
        self.sent += u64::from(added);
        added
    }

    /// Shows the device what was added to a ring, and kicks it if it wants that.
    #[inline]
    pub fn publish(&mut self, ring: u16) {
        let queue = &mut self.queues[usize::from(ring)];
        queue.publish(&self.memory);
    }

    /// Takes back chains that were sent.
    #[track_caller]
    #[inline]
    fn reap(&mut self, pair: u16) {
        let Some(queue) = self.queues.get_mut(usize::from(2 * pair + 1)) else { return };
        while let Some(used) = queue.ring.take(&self.memory) {
            assert_eq!(used.len, 0, "the device says that it wrote to a buffer that it may only read");
        }
    }

    /// Waits until every chain that was sent has come back.
    #[track_caller]
    pub fn await_sent(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for pair in 0..self.queues.len() as u16 / 2 {
            self.reap(pair);
            while self.queues[usize::from(2 * pair + 1)].ring.in_flight() > 0 {
                assert!(self.await_used(&[2 * pair + 1], deadline).is_some(), "{STUCK}");
                self.reap(pair);
            }
        }
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Receives a frame by any queue pair; there must be one.
    #[track_caller]
    pub fn receive(&mut self) -> Received {
        match self.receive_within(PATIENCE) {
            Some(received) => received,
            None => panic!("no frame came in {PATIENCE:?}"),
        }
    }

    /// The frame that is received next, which must have no offloads left to do.
    #[track_caller]
    pub fn receive_frame(&mut self) -> Vec<u8> {
        let received = self.receive();
        let plain = NetHdr { num_buffers: received.hdr.num_buffers, ..NetHdr::default() };
        assert_eq!(received.hdr, plain);
        received.frame
    }

    /// Receives a frame by any queue pair, if one comes in time.
    #[track_caller]
    pub fn receive_within(&mut self, patience: Duration) -> Option<Received> {
        let rings: Vec<u16> = self.queues.iter().filter(|queue| queue.started).map(|queue| queue.index).collect();
        let rings: Vec<u16> = rings.into_iter().filter(|ring| ring % 2 == 0).collect();
        let ring = self.await_used(&rings, Instant::now() + patience)?;
        self.try_receive_on(ring / 2)
    }

    /// Receives a frame that is there already, by the first queue pair.
    #[track_caller]
    pub fn try_receive(&mut self) -> Option<Received> {
        self.try_receive_on(0)
    }

    /// Receives a frame that is there already.
    #[track_caller]
    pub fn try_receive_on(&mut self, pair: u16) -> Option<Received> {
        let mut octets = Vec::new();
        let (hdr, buffers) = self.receive_into(pair, &mut octets)?;
        let frame = octets.split_off(self.header_len());
        Some(Received { hdr, frame, pair, buffers })
    }

    /// Receives a frame that is there already into `octets`, behind its header. Returns the header and the number of
    /// buffers, which are offered to the device again.
    #[track_caller]
    #[inline]
    pub fn receive_into(&mut self, pair: u16, octets: &mut Vec<u8>) -> Option<(NetHdr, usize)> {
        let header_len = self.header_len();
        let (features, memory) = (self.features, &self.memory);
        let queue = self.queues.get_mut(usize::from(2 * pair))?;
        let first = queue.ring.take(memory)?;
        octets.clear();
        queue.read_buffer(memory, first, octets);
        assert!(octets.len() >= header_len, "{first:?} is too short for a header");
        let hdr = NetHdr::parse(&octets[..header_len]);
        check_header(&hdr, features);
        let buffers = if features & MRG_RXBUF != 0 { usize::from(hdr.num_buffers) } else { 1 };
        for at in 1..buffers {
            // 5.1.6.4: the driver may take it for granted that all of them are there.
            let next = queue.ring.take(memory);
            let next = next.unwrap_or_else(|| panic!("a frame has {buffers} buffers, but only {at} came back"));
            assert!(next.len > 0, "buffer {at} of {buffers} is empty");
            queue.read_buffer(memory, next, octets);
        }
        queue.add_buffers(memory);
        queue.publish(memory);
        Some((hdr, buffers))
    }

    /// Waits for a buffer to come back on one of the rings, and says on which.
    #[track_caller]
    fn await_used(&mut self, rings: &[u16], deadline: Instant) -> Option<u16> {
        loop {
            for ring in rings {
                let queue = &mut self.queues[usize::from(*ring)];
                if queue.ring.has_used(&self.memory) || queue.ring.want_calls(&self.memory, true) {
                    queue.ring.want_calls(&self.memory, false);
                    return Some(*ring);
                }
            }
            let queues = rings.iter().map(|ring| &self.queues[usize::from(*ring)]);
            let mut fds: Vec<_> = queues.map(|queue| PollFd::new(queue.call_fd(), PollFlags::POLLIN)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let called = poll(&mut fds, timeout).expect("poll");
            let queues = || rings.iter().map(|ring| &self.queues[usize::from(*ring)]);
            if called == 0 {
                for queue in queues() {
                    let back = queue.ring.has_used(&self.memory);
                    assert!(!back, "ring {}: buffers came back, but the call that is due did not", queue.index);
                }
                return None;
            }
            for queue in queues() {
                queue.clear_calls();
            }
        }
    }

    /// Octets of the header in front of each frame (5.1.6.1).
    #[inline]
    pub fn header_len(&self) -> usize {
        if self.features & (MRG_RXBUF | VERSION_1) != 0 { 12 } else { 10 }
    }
}

const STUCK: &str = "chains that were sent do not come back";

#[track_caller]
fn check_header(hdr: &NetHdr, features: u64) {
    let partial = hdr.flags & NEEDS_CSUM != 0;
    let needed = match hdr.gso_type & !GSO_ECN {
        GSO_NONE if hdr.gso_type == GSO_NONE => 0,
        GSO_TCPV4 => GUEST_TSO4,
        GSO_TCPV6 => GUEST_TSO6,
        _ => panic!("{hdr:?} is of an unknown type"),
    };
    let ecn = if hdr.gso_type & GSO_ECN != 0 { GUEST_ECN } else { 0 };
    let csum = if hdr.flags != 0 { GUEST_CSUM } else { 0 };
    let missing = (needed | ecn | csum) & !features;
    assert_eq!(missing, 0, "{hdr:?} has what was not negotiated");
    assert!(hdr.flags & !(NEEDS_CSUM | DATA_VALID) == 0, "{hdr:?} has unknown flags");
    assert!(hdr.gso_type == GSO_NONE || (partial && hdr.gso_size > 0), "{hdr:?}");
    if features & MRG_RXBUF != 0 {
        assert!(hdr.num_buffers > 0, "{hdr:?} in no buffer");
    } else if features & VERSION_1 != 0 {
        assert_eq!(hdr.num_buffers, 1, "5.1.6.4.1: without MRG_RXBUF");
    }
}

/// Requests.
impl Guest {
    /// Stops a ring; the index of the next available entry. It must be that of the next used entry, since the device
    /// keeps no chain.
    #[track_caller]
    pub fn stop_ring(&mut self, ring: u16) -> u16 {
        let state = must("GET_VRING_BASE", self.wire.ask(GET_VRING_BASE, &vring_state(ring.into(), 0), &[]));
        let (index, base) = must("GET_VRING_BASE", parse_vring_state(&state));
        assert_eq!(index, u32::from(ring), "the base of another ring");
        let queue = &mut self.queues[usize::from(ring)];
        queue.started = false;
        assert_eq!(base, u32::from(queue.ring.used_index(&self.memory)), "the ring's base is not where it stopped");
        base as u16
    }

    /// Starts a ring that was stopped at `base`.
    #[track_caller]
    pub fn start_ring(&mut self, ring: u16, base: u16) {
        must("start a ring", self.tell_ring(ring, base));
    }

    /// Enables a ring, or disables it.
    #[track_caller]
    pub fn enable_ring(&mut self, ring: u16, enable: bool) {
        let state = vring_state(ring.into(), enable.into());
        must("SET_VRING_ENABLE", self.wire.set(SET_VRING_ENABLE, &state, &[]));
    }

    /// Resets the device and brings it up with these features, as when another driver is bound.
    #[track_caller]
    pub fn reset_device(&mut self, features: u64) {
        must("RESET_DEVICE", self.wire.set(RESET_DEVICE, &[], &[]));
        must("bring up after a reset", self.begin_anew(features));
    }

    /// Stops all rings and brings the device up with these features, as QEMU does when the back-end has no RESET_DEVICE.
    #[track_caller]
    pub fn renegotiate(&mut self, features: u64) {
        for ring in 0..self.queues.len() {
            self.stop_ring(ring as u16);
        }
        must("bring up with other features", self.begin_anew(features));
    }

    fn begin_anew(&mut self, features: u64) -> Result<()> {
        self.features = features | PROTOCOL_FEATURES;
        self.wire.set(SET_FEATURES, &self.features.to_ne_bytes(), &[])?;
        self.reset_driver();
        for ring in 0..self.queues.len() {
            self.tell_ring(ring as u16, 0)?;
        }
        self.finish_start()
    }

    /// Tells the back-end the whole memory table anew.
    #[track_caller]
    pub fn set_mem_table(&mut self) {
        must("SET_MEM_TABLE", self.tell_table());
    }

    /// Makes a region of memory and plugs it in; its index.
    #[track_caller]
    pub fn add_region(&mut self, octets: u64) -> usize {
        let at = self.memory.add(octets);
        self.plug(at);
        at
    }

    /// Tells the back-end of a region.
    #[track_caller]
    pub fn plug(&mut self, at: usize) {
        self.told.push(at);
        must(
            "plug memory in",
            if self.has(PROTOCOL_MEM_SLOTS) { self.tell_region(ADD_MEM_REG, at) } else { self.tell_table() },
        );
    }

    /// Takes a region away from the back-end. It stays mapped here.
    #[track_caller]
    pub fn unplug(&mut self, at: usize) {
        self.told.retain(|told| *told != at);
        must(
            "unplug memory",
            if self.has(PROTOCOL_MEM_SLOTS) { self.tell_region(REM_MEM_REG, at) } else { self.tell_table() },
        );
    }

    /// Asks for a RARP in the guest's name.
    #[track_caller]
    pub fn send_rarp(&mut self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        must("SEND_RARP", self.wire.set(SEND_RARP, &[a, b, c, d, e, f, 0, 0], &[]));
    }

    /// Negotiated virtio features.
    pub fn features(&self) -> u64 {
        self.features
    }
}

/// What no honest guest does.
impl Guest {
    /// The connection, for any message.
    pub fn raw(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A virtqueue.
    pub fn queue(&self, ring: u16) -> &Queue {
        &self.queues[usize::from(ring)]
    }

    /// Descriptors of a ring, for chains that a scenario writes by itself.
    #[track_caller]
    pub fn take_descriptors(&mut self, ring: u16, count: usize) -> Vec<u16> {
        self.queues[usize::from(ring)].ring.take_descriptors(count)
    }

    /// Writes a descriptor.
    #[track_caller]
    pub fn describe(&self, ring: u16, index: u16, descriptor: Descriptor) {
        self.queues[usize::from(ring)].ring.describe(&self.memory, index, descriptor);
    }

    /// Writes a descriptor of a table at any guest address.
    #[track_caller]
    pub fn describe_in(&self, table: u64, index: u16, descriptor: Descriptor) {
        self.queues[0].ring.describe_in(&self.memory, table, index, descriptor);
    }

    /// Makes a chain available that was written by [`Guest::describe`], and kicks.
    #[track_caller]
    pub fn offer(&mut self, ring: u16, head: u16) {
        let queue = &mut self.queues[usize::from(ring)];
        queue.ring.offer(&self.memory, head, u32::MAX);
        queue.publish(&self.memory);
    }

    /// Sets `avail.idx` to anything, and kicks.
    pub fn claim(&mut self, ring: u16, index: u16) {
        let queue = &self.queues[usize::from(ring)];
        queue.ring.claim(&self.memory, index);
        queue.kick();
    }

    /// Kicks, wanted or not.
    pub fn kick(&self, ring: u16) {
        self.queues[usize::from(ring)].kick();
    }

    /// The next buffer that comes back on a ring, sent or received.
    #[track_caller]
    pub fn take_used(&mut self, ring: u16) -> Used {
        let due = self.await_used(&[ring], Instant::now() + PATIENCE);
        let used = due.and_then(|ring| self.queues[usize::from(ring)].ring.take(&self.memory));
        used.unwrap_or_else(|| panic!("nothing comes back on ring {ring}"))
    }
}

fn describe(region: &memory::Region) -> Vec<u8> {
    wire::region(region.guest_addr, region.size, region.user_addr, region.offset)
}

#[track_caller]
fn must<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|failure| panic!("{what}: {failure}"))
}
