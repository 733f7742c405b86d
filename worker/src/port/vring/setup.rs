//! The values that a ring is started with.

use sv3::ipc::RingAddr;
use sv3::ledger::{PublishJournal, RingPosition};
use sv3::virtio::VIRTIO_F_RING_PACKED;

/// Addresses of a ring, what the client said of it, and its part of the ledger.
#[derive(Clone, Copy)]
pub struct RingSetup {
    /// Number of descriptors.
    pub size: u16,
    /// Addresses of its parts.
    pub addr: RingAddr,
    /// See [`sv3::ipc::Command::RingStart`].
    pub base: u16,
    /// See [`sv3::ipc::Command::RingStart`].
    pub run: u32,
    /// Its position in the ledger.
    pub position: &'static RingPosition,
    /// Its publish journal.
    pub journal: &'static PublishJournal,
}

impl RingSetup {
    /// Address and octets of each of the ring's three parts.
    pub fn areas(&self, features: u64) -> [(u64, u64); 3] {
        let (entries, RingAddr { desc, avail, used }) = (u64::from(self.size), self.addr);
        match VIRTIO_F_RING_PACKED.of(features) {
            true => [(desc, 16 * entries), (avail, 4), (used, 4)],
            false => [(desc, 16 * entries), (avail, 4 + 2 * entries), (used, 4 + 8 * entries)],
        }
    }
}
