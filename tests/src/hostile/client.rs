//! A front-end that behaves as well as an attack needs.

use std::path::Path;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::guest::feature::*;
use crate::guest::memory::Memory;
use crate::guest::wire::*;
use crate::hostile::ring::{self, Descriptor, Ring, WRITE};

/// Vring index: the guest receives.
pub const RX: u16 = 0;
/// Vring index: the guest transmits.
pub const TX: u16 = 1;

/// Virtio features that it takes where they are offered. EVENT_IDX is not among them: it always kicks.
const WANTED: u64 = (LINUX & !(EVENT_IDX | MQ)) | PROTOCOL_FEATURES;

/// Octets of a region; rings lie in the first one, buffers in the second.
const REGION: u64 = 1 << 20;
const RX_BUFFER: u32 = 2048;
/// Octets of the valid frame with its header.
pub const GOOD: u32 = 12 + 60;

/// A connection with the memory and rings that it may announce.
pub struct Client {
    /// The connection.
    pub wire: Wire,
    /// Two regions, adjacent for the guest, of a file each.
    pub memory: Memory,
    /// The receive ring and the transmit ring.
    pub rings: [Ring; 2],
    /// Offered virtio features.
    pub offered: u64,
    /// Acknowledged virtio features.
    pub features: u64,
    /// Offered protocol features.
    pub offered_protocol: u64,
    /// Guest address of octets in the second region, whose page begins with a valid frame.
    pub page: u64,
}

impl Client {
    /// Connects and sends nothing.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client> {
        let wire = Wire::connect_within(socket, patience)?;
        let memory = Memory::new(2, REGION);
        let rings = [
            Ring::new(memory.allocate_whole(ring::OCTETS, 4096))?,
            Ring::new(memory.allocate_whole(ring::OCTETS, 4096))?,
        ];
        memory.leave_first_region();
        let page = memory.allocate_whole(64 << 10, 4096);
        memory.write(page, &good_frame());
        Ok(Client { wire, memory, rings, offered: 0, features: 0, offered_protocol: 0, page })
    }

    /// Negotiates: all virtio features that are offered and wanted, REPLY_ACK, and these protocol features. False: one
    /// of them is not offered.
    pub fn negotiate(&mut self, protocol_features: u64) -> Result<bool> {
        self.wire.acknowledged = false;
        self.offered = self.wire.get(GET_FEATURES)?;
        self.features = self.offered & WANTED;
        let mut accepted = 0;
        if self.offered & PROTOCOL_FEATURES != 0 {
            self.offered_protocol = self.wire.get(GET_PROTOCOL_FEATURES)?;
            accepted = self.offered_protocol & (protocol_features | PROTOCOL_REPLY_ACK);
            self.wire.set(SET_PROTOCOL_FEATURES, &accepted.to_ne_bytes(), &[])?;
            self.wire.acknowledged = accepted & PROTOCOL_REPLY_ACK != 0;
        }
        self.wire.set(SET_OWNER, &[], &[])?;
        self.tell_features()?;
        Ok(accepted & protocol_features == protocol_features)
    }

    /// Tells the acknowledged features, which may have been changed.
    pub fn tell_features(&mut self) -> Result<()> {
        self.wire.set(SET_FEATURES, &self.features.to_ne_bytes(), &[])
    }

    /// Tells the memory table.
    pub fn tell_memory(&mut self) -> Result<()> {
        let regions = self.memory.regions();
        let (table, files): (Vec<_>, Vec<_>) =
            regions.iter().map(|r| (region(r.guest_addr, r.size, r.user_addr, r.offset), r.file())).unzip();
        self.wire.set(SET_MEM_TABLE, &region_table(&table), &files)
    }

    /// Tells where a ring is and starts it.
    pub fn start_ring(&mut self, index: u16) -> Result<()> {
        let (number, fd) = (u32::from(index), u64::from(index).to_ne_bytes());
        let Some(ring) = self.rings.get(usize::from(index)) else { return Err(Failure::new("no such ring")) };
        let user = |addr| self.memory.user_addr(addr);
        let addrs = vring_addr(number, user(ring.descriptors), user(ring.used), user(ring.available));
        let base = ring.used_index(&self.memory);
        self.wire.set(SET_VRING_NUM, &vring_state(number, ring::SIZE.into()), &[])?;
        self.wire.set(SET_VRING_BASE, &vring_state(number, base.into()), &[])?;
        self.wire.set(SET_VRING_ADDR, &addrs, &[])?;
        self.wire.set(SET_VRING_CALL, &fd, &[ring.call_fd()])?;
        self.wire.set(SET_VRING_KICK, &fd, &[ring.kick_fd()])?;
        Ok(())
    }

    /// Lets frames pass.
    pub fn enable_rings(&mut self) -> Result<()> {
        if self.features & PROTOCOL_FEATURES != 0 {
            for ring in [RX, TX] {
                self.wire.set(SET_VRING_ENABLE, &vring_state(ring.into(), 1), &[])?;
            }
        }
        Ok(())
    }

    /// Everything after the features: memory, receive buffers, rings.
    pub fn start(&mut self) -> Result<()> {
        self.tell_memory()?;
        self.offer_rx_buffers(|client, n| client.page + 4096 + u64::from(n % 8) * u64::from(RX_BUFFER));
        for ring in [RX, TX] {
            self.start_ring(ring)?;
        }
        self.enable_rings()
    }

    /// Makes receive buffers available at the addresses that `place` says, in all of the ring.
    pub fn offer_rx_buffers(&mut self, place: impl Fn(&Client, u16) -> u64) {
        for n in 0..ring::SIZE {
            let descriptor = Descriptor::of(place(self, n), RX_BUFFER).with(WRITE);
            let [rx, _] = &mut self.rings;
            rx.describe(&self.memory, n, descriptor);
            rx.enter(&self.memory, n);
        }
        let [rx, _] = &self.rings;
        rx.claim(&self.memory, rx.index);
    }

    /// Writes a chain into the transmit ring's first descriptors and offers it; `next` counts from there.
    pub fn transmit(&mut self, chain: &[Descriptor]) {
        let [_, tx] = &mut self.rings;
        for (at, descriptor) in (0..).zip(chain) {
            tx.describe(&self.memory, at, *descriptor);
        }
        tx.offer(&self.memory, 0);
    }

    /// Offers one valid frame and waits until it is taken.
    pub fn transmit_good(&mut self, patience: Duration) -> bool {
        self.transmit(&[Descriptor::of(self.page, GOOD)]);
        self.rings[1].await_all(&self.memory, patience)
    }
}

/// A broadcast of the ethertype for local experiments, with an empty header in front.
pub fn good_frame() -> Vec<u8> {
    let mut octets = vec![0; 12];
    octets.extend([0xff; 6]);
    octets.extend([0x52, 0x54, 0, 0x73, 0x76, 0x33, 0x88, 0xb5]);
    octets.resize(GOOD as usize, 0);
    octets
}
