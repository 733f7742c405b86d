//! A port: one client's memory, features and rings.

use std::os::fd::OwnedFd;

use sv3::MAX_RINGS;
use sv3::ipc::RingFault;
use sv3::virtio::{NET_HDR_LEN, NET_HDR_LEN_LEGACY, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};

use crate::guest::memory::GuestMemory;
use crate::guest::queue::{Place, Queue};

/// One client. Its slot is its index in the fabric.
pub struct Port {
    /// Slot.
    pub slot: u16,
    /// Negotiated virtio features.
    pub features: u64,
    /// Memory table in force.
    pub memory: GuestMemory,
    /// Memory table being collected.
    pub staged: GuestMemory,
    /// Rings by vring index: even, the guest receives; odd, the guest transmits.
    pub rings: Vec<Ring>,
    /// Vring indices of the receive rings that run and are enabled.
    receivers: Vec<u16>,
}

/// One ring and how to wake and be woken.
#[derive(Default)]
pub struct Ring {
    /// The ring itself, while started.
    pub queue: Option<Queue>,
    /// Its place, while started, for looking it up in a new memory table.
    pub place: Option<Place>,
    /// Frames pass.
    pub enabled: bool,
    /// Where kicks come in.
    pub kick: Option<OwnedFd>,
    /// Where to signal the guest.
    pub call: Option<OwnedFd>,
    /// The ring is in the list of rings that are polled.
    pub polled: bool,
    /// The ring has completed entries that the burst is to publish.
    pub touched: bool,
    /// What it cost to publish it the last time, see [`crate::cost`].
    pub cost: u64,
}

impl Ring {
    /// Started and enabled.
    pub fn runs(&self) -> bool {
        self.enabled && self.queue.is_some()
    }
}

/// Whether the guest transmits on vring `ring`.
pub fn transmits(ring: u16) -> bool {
    ring % 2 == 1
}

impl Port {
    /// A port without memory and rings.
    pub fn new(slot: u16) -> Port {
        Port {
            slot,
            features: 0,
            memory: GuestMemory::default(),
            staged: GuestMemory::default(),
            rings: std::iter::repeat_with(Ring::default).take(MAX_RINGS).collect(),
            receivers: Vec::with_capacity(MAX_RINGS / 2),
        }
    }

    /// Octets of the header in front of each frame (virtio 1.3, 5.1.6.1).
    #[inline]
    pub fn header_len(&self) -> usize {
        let modern = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_MRG_RXBUF.mask();
        if self.features & modern != 0 { NET_HDR_LEN } else { NET_HDR_LEN_LEGACY }
    }

    /// The receive ring for frames that came by queue pair `pair`: one pair's frames stay in order.
    #[inline]
    pub fn receiver(&self, pair: u16) -> Option<u16> {
        match self.receivers.len() {
            0 => None,
            1 => self.receivers.first().copied(),
            n => self.receivers.get(usize::from(pair) % n).copied(),
        }
    }

    /// Brings the list of receivers up to date; after a ring changed its state.
    pub fn count_receivers(&mut self) {
        self.receivers.clear();
        let running = (0u16..).zip(&self.rings).filter(|(at, ring)| !transmits(*at) && ring.runs());
        self.receivers.extend(running.map(|(at, _)| at));
    }

    /// Looks all running rings up again, in a table that has changed. Those that are not in it any more stop; their
    /// faults are returned with their vring indices.
    pub fn relocate(&mut self) -> Vec<(u16, RingFault)> {
        let mut faults = Vec::new();
        for (at, ring) in (0u16..).zip(&mut self.rings) {
            let Some(place) = ring.place else { continue };
            if ring.queue.is_none() {
                continue;
            }
            match Queue::new(&self.memory, &place, self.features) {
                Ok(queue) => ring.queue = Some(queue),
                Err(fault) => {
                    ring.queue = None;
                    faults.push((at, fault));
                }
            }
        }
        self.count_receivers();
        faults
    }
}
