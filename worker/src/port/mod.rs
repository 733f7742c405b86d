//! Ports and their rings, as all threads see them.
//!
//! What a burst needs of a ring is in the ring: whoever has its lease has its memory as well, which no command can take
//! away before the lease is given back. So a command is obeyed ring by ring, and when it is done, nothing of the port
//! is under way that it forbids.
//!
//! A place for a port is made when its slot is first used and then stays for ever, for the next client.

pub mod vring;

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sv3::ipc::RingFault;
use sv3::virtio::{NET_HDR_LEN, NET_HDR_LEN_LEGACY, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};
use sv3::{MAX_PORTS, MAX_QUEUE_PAIRS, MAX_RINGS};

use crate::memory::guest_memory::GuestMemory;
use crate::poll::bits::Bits;
use crate::poll::lease::{Lease, Leased};
use crate::poll::pause::WaitBudget;
use crate::port::vring::queue::Queue;
use crate::port::vring::setup::RingSetup;

/// Places for all ports.
pub struct Ports {
    slots: Box<[OnceLock<Box<Port>>]>,
    /// Ports that frames are flooded to: those with a receive ring that runs. A bit for each slot.
    up: [AtomicU64; MAX_PORTS / 64],
}

/// One place. Its slot is its index.
pub struct Port {
    /// Slot.
    pub slot: u16,
    /// Queue pairs whose receive rings run, a bit for each.
    receivers: AtomicU32,
    /// Queue pairs whose transmit rings are to be polled though nobody has kicked, a bit for each.
    wake: Bits,
    /// Rings that broke and are to be stopped, a bit for each.
    broken: Bits,
    /// Receive ring and transmit ring of each queue pair that was ever used: a place stays, so it is to be small.
    pairs: [OnceLock<Box<[Leased<Ring>; 2]>>; MAX_QUEUE_PAIRS],
}

/// One ring and how to wake and be woken.
#[derive(Default)]
pub struct Ring {
    /// The ring itself, while started.
    pub queue: Option<Queue>,
    /// Its port's memory table, for its buffers, while started.
    pub memory: GuestMemory,
    /// The port's negotiated virtio features, while started.
    pub features: u64,
    /// Its place, while started, for looking it up in a new memory table.
    pub place: Option<RingSetup>,
    /// Frames pass.
    pub enabled: bool,
    /// Why it does not run though it is started.
    pub fault: Option<RingFault>,
    /// Where kicks come in.
    pub kick: Option<OwnedFd>,
    /// They wake the ring's thread.
    pub is_watched: bool,
    /// Where to signal the guest.
    pub call: Option<OwnedFd>,
    /// What it cost to publish it the last time, see [`crate::poll::cost`].
    pub cost: u64,
    /// How long a transmit ring may still be held.
    pub wait_budget: WaitBudget,
    /// A transmit ring is held by its thread, and was not stopped since.
    pub is_paused: bool,
    /// Where a receive ring stood when it was waited for in vain.
    pub futile_at: Option<u16>,
}

/// Whether the guest transmits on vring `ring`.
pub fn transmits(ring: u16) -> bool {
    ring % 2 == 1
}

impl Ring {
    /// Started and enabled, and not broken.
    #[inline]
    pub fn runs(&self) -> bool {
        self.enabled && self.fault.is_none() && self.queue.is_some()
    }

    /// Octets of the header in front of each frame (virtio 1.3, 5.1.6.1).
    #[inline]
    pub fn header_len(&self) -> usize {
        let modern = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_MRG_RXBUF.mask();
        if self.features & modern != 0 { NET_HDR_LEN } else { NET_HDR_LEN_LEGACY }
    }

    /// Looks the ring up in memory and begins; with kicks suppressed.
    pub fn begin(&mut self, memory: &GuestMemory, features: u64) -> Result<(), RingFault> {
        let Some(place) = &self.place else { return Ok(()) };
        let queue = Queue::new(memory, place, features)?;
        (self.queue, self.memory, self.features) = (Some(queue), memory.clone(), features);
        self.fault = None;
        Ok(())
    }

    /// Lets go of memory.
    pub fn end(&mut self) -> Option<Queue> {
        self.memory = GuestMemory::default();
        self.fault = None;
        self.is_paused = false;
        self.queue.take()
    }
}

impl Ports {
    /// No ports.
    pub fn new() -> Ports {
        let slots = std::iter::repeat_with(OnceLock::new).take(MAX_PORTS).collect();
        Ports { slots, up: [const { AtomicU64::new(0) }; MAX_PORTS / 64] }
    }

    /// The place of that slot, if it was ever used.
    #[inline]
    pub fn get(&self, slot: u16) -> Option<&Port> {
        self.slots.get(usize::from(slot))?.get().map(Box::as_ref)
    }

    /// The place of that slot, for the control thread, which alone makes some; `None`: there is no such slot.
    pub fn make(&self, slot: u16) -> Option<&Port> {
        Some(self.slots.get(usize::from(slot))?.get_or_init(|| Box::new(Port::new(slot))))
    }

    /// All places that were ever used.
    pub fn all(&self) -> impl Iterator<Item = &Port> {
        self.slots.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }

    /// The ports that receive.
    #[inline]
    pub fn receivers(&self) -> impl Iterator<Item = u16> {
        (0..).step_by(64).zip(&self.up).flat_map(|(first, word)| {
            let mut bits = word.load(Relaxed);
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(first + bit as u16)
            })
        })
    }

    /// Notes whether a receive ring runs; after it changed.
    pub fn note_receiver(&self, slot: u16, ring: u16, runs: bool) {
        let Some(port) = self.get(slot) else { return };
        set(&port.receivers, ring / 2, runs);
        let receives = port.receivers.load(Relaxed) != 0;
        if let Some(word) = self.up.get(usize::from(slot / 64)) {
            let bit = 1 << (slot % 64);
            if receives {
                word.fetch_or(bit, Relaxed)
            } else {
                word.fetch_and(!bit, Relaxed)
            };
        }
    }
}

fn set(bits: &AtomicU32, bit: u16, value: bool) {
    let bit = 1u32.checked_shl(bit.into()).unwrap_or(0);
    if value {
        bits.fetch_or(bit, Relaxed)
    } else {
        bits.fetch_and(!bit, Relaxed)
    };
}

/// The bits that are set.
fn bits(mut word: u32) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let bit = word.checked_ilog2()?;
        word &= !(1 << bit);
        Some(bit as u16)
    })
}

impl Port {
    fn new(slot: u16) -> Port {
        let (receivers, wake, broken) = Default::default();
        Port { slot, receivers, wake, broken, pairs: [const { OnceLock::new() }; MAX_QUEUE_PAIRS] }
    }

    /// A ring by its vring index: even, the guest receives; odd, the guest transmits. `None`: it was never used.
    #[inline]
    pub fn ring(&self, ring: u16) -> Option<&Leased<Ring>> {
        self.pairs.get(usize::from(ring / 2))?.get()?.get(usize::from(ring % 2))
    }

    /// The same for the control thread, which alone makes rings; `None`: there is no such ring.
    pub fn make_ring(&self, ring: u16) -> Option<&Leased<Ring>> {
        let pair = self.pairs.get(usize::from(ring / 2))?;
        pair.get_or_init(|| Box::new(std::array::from_fn(|_| Leased::new(Ring::default())))).get(usize::from(ring % 2))
    }

    /// The rings of the queue pairs that were ever used.
    pub fn used(&self) -> impl Iterator<Item = u16> {
        let pairs = (0..).zip(&self.pairs).filter(|(_, pair)| pair.get().is_some());
        pairs.flat_map(|(pair, _)| [2 * pair, 2 * pair + 1])
    }

    /// The receive ring for frames of `flow`, which stay in order.
    #[inline]
    pub fn receiver(&self, flow: u16) -> Option<u16> {
        let running = self.receivers.load(Relaxed);
        match running.count_ones() {
            0 => None,
            1 => Some(running.trailing_zeros() as u16 * 2),
            count => {
                let mut rest = running;
                for _ in 0..u32::from(flow) % count {
                    rest &= rest - 1;
                }
                Some(rest.trailing_zeros() as u16 * 2)
            }
        }
    }

    /// Has a transmit ring polled by its thread, which is to be nudged.
    pub fn wake(&self, ring: u16) {
        self.wake.set(ring / 2);
    }

    /// The transmit rings of these queue pairs (a bit for each) that are to be polled; they are no more.
    pub fn woken(&self, pairs: u32) -> impl Iterator<Item = u16> + use<> {
        bits(self.wake.take(pairs)).map(|pair| 2 * pair + 1)
    }

    /// Has a ring that broke stopped by the control thread, which is to be nudged.
    pub fn break_ring(&self, ring: u16) {
        self.broken.set(ring);
    }

    /// The rings that broke; they are no more.
    pub fn broken(&self) -> impl Iterator<Item = u16> + use<> {
        bits(self.broken.take(u32::MAX))
    }
}

/// A ring of a place that stays for ever.
pub type RingLease = Lease<Ring>;

const _: () = assert!(MAX_QUEUE_PAIRS <= 32 && MAX_RINGS <= 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_has_one_receiver_and_all_receivers_have_flows() {
        let ports = Ports::new();
        let port = ports.make(70).unwrap();
        assert_eq!(port.receiver(0), None);
        for ring in [0, 4, 30] {
            ports.note_receiver(70, ring, true);
        }
        let rings: Vec<_> = (0..6).filter_map(|flow| port.receiver(flow)).collect();
        assert_eq!(rings, [0, 4, 30, 0, 4, 30]);
        ports.make(3);
        ports.note_receiver(3, 0, true);
        assert_eq!(ports.receivers().collect::<Vec<_>>(), [3, 70]);
        for ring in [0, 4, 30] {
            ports.note_receiver(70, ring, false);
        }
        assert_eq!(ports.receivers().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn each_thread_takes_what_it_is_woken_for() {
        let ports = Ports::new();
        let port = ports.make(0).unwrap();
        [1, 3, 31].into_iter().for_each(|ring| port.wake(ring));
        assert_eq!(port.woken(0b10).collect::<Vec<_>>(), [3]);
        assert_eq!(port.woken(u32::MAX).collect::<Vec<_>>(), [31, 1]);
        assert_eq!(port.woken(u32::MAX).count(), 0);
        port.break_ring(31);
        assert_eq!((port.broken().collect::<Vec<_>>(), port.broken().count()), (vec![31], 0));
    }
}
