//! What a front-end asks of a back-end that serves it.

use super::feature::*;
use super::wire::*;
use super::{Guest, must};
use crate::failure::Result;

impl Guest {
    /// Stops a ring; its vring base. It must be that of the next used entry, since the device
    /// keeps no chain.
    #[track_caller]
    pub fn stop_ring(&mut self, ring: u16) -> u32 {
        let state = must("GET_VRING_BASE", self.wire.ask(GET_VRING_BASE, &vring_state(ring.into(), 0), &[]));
        let (index, base) = must("GET_VRING_BASE", parse_vring_state(&state));
        assert_eq!(index, u32::from(ring), "the base of another ring");
        let queue = &mut self.queues[usize::from(ring)];
        queue.started = false;
        assert_eq!(base, queue.ring.base(&self.memory), "the ring's base is not where it stopped");
        base
    }

    /// Starts a ring that was stopped at `base`.
    #[track_caller]
    pub fn start_ring(&mut self, ring: u16, base: u32) {
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

    /// Stops all rings and brings the device up with these features, as QEMU does when the back-end has no
    /// RESET_DEVICE.
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
            let base = self.queues[ring].ring.base(&self.memory);
            self.tell_ring(ring as u16, base)?;
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
