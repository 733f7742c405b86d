//! A vring as its thread leases it: the queue, the memory of its buffers, and how the guest and the worker signal
//! each other.
//!
//! A vring contains all that a burst needs of it. A thread that has its lease also has its memory, and no command can
//! remove that memory before the lease is given back.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;
use sv3::virtio::{NET_HDR_LEN, NET_HDR_LEN_LEGACY, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};

use super::held::Held;
use super::marks::Marks;
use super::queue::{Queue, either};
use super::setup::RingSetup;
use super::virtqueue::Virtqueue;
use crate::memory::dirty_log::DirtyLog;
use crate::memory::guest_memory::GuestMemory;
use crate::nic::transmit_queue::Progress;
use crate::port::cost::{RING, SIGNAL};
use crate::port::counting::Counting;
use crate::port::kind::{Kind, WhenEmpty};
use crate::process::crash_points::{CrashPoint, pass};

/// One vring.
#[derive(Default)]
pub struct Vring {
    /// The virtqueue, while started.
    pub queue: Option<Queue>,
    /// The port's memory table, while started. Buffers are looked up in it.
    pub memory: GuestMemory,
    /// The port's negotiated virtio features, while started.
    pub features: u64,
    /// The values that it was started with, to look it up in a new memory table.
    pub setup: Option<RingSetup>,
    /// The run ([`RingSetup::run`]) that this worker began last; 0: none.
    pub begun: u32,
    /// The client has enabled it.
    pub enabled: bool,
    /// Why it does not run although it is started.
    pub fault: Option<RingFault>,
    /// The eventfd of kicks from the guest.
    pub kick: Option<OwnedFd>,
    /// Kicks wake the vring's thread.
    pub is_watched: bool,
    /// The eventfd of calls to the guest.
    pub call: Option<OwnedFd>,
    /// The client's log, while pages are marked in it.
    pub log: Option<DirtyLog>,
    /// Where the device area is in the log, by guest address ([`sv3::ipc::Command::RingLog`]).
    pub log_addr: Option<u64>,
    /// The guest transmits by it.
    pub transmits: bool,
    /// The cost of the last publication.
    pub cost: u64,
    /// What a card still reads of it. `None`: no card reads the port's memory.
    pub held: Option<Box<Held>>,
}

impl Vring {
    /// Looks the virtqueue up in memory and begins to use it, with kicks suppressed.
    pub fn begin(&mut self, memory: &GuestMemory, features: u64) -> Result<(), RingFault> {
        let Some(setup) = &self.setup else { return Ok(()) };
        let RingSetup { run, position, .. } = *setup;
        let of_another = position.run.load(Acquire) == run && self.begun != run;
        let queue = Queue::new(memory, setup, features)?;
        position.used.store(u64::from(queue.position()), Relaxed);
        position.run.store(run, Release);
        self.begun = run;
        (self.queue, self.memory, self.features) = (Some(queue), memory.clone(), features);
        self.fault = None;
        if self.log.is_some() {
            self.mark();
            // A worker that died may have written to chains.
            if let Some(queue) = self.queue.as_ref().filter(|_| of_another) {
                queue.mark_available();
            }
        }
        Ok(())
    }

    /// Marks pages in the log that it has now, or no more.
    pub fn mark(&mut self) {
        let Vring { queue: Some(queue), setup: Some(setup), memory, log, log_addr, transmits, .. } = self else {
            return;
        };
        let mut marks = log.clone().map(|log| Box::new(Marks::new(log, memory, *log_addr, setup.addr.desc)));
        marks.iter_mut().for_each(|marks| marks.only_reads = *transmits);
        queue.set_marks(marks);
    }

    /// Releases the memory.
    pub fn end(&mut self) -> Option<Queue> {
        self.memory = GuestMemory::default();
        self.fault = None;
        self.queue.take()
    }

    /// Completes chains that a card has read. Returns how many.
    pub fn release(&mut self, progress: &Progress, now_ns: u64) -> usize {
        let (Some(held), Some(queue)) = (self.held.as_deref_mut(), &mut self.queue) else { return 0 };
        let mut count = 0;
        either!(queue, queue => while queue.has_room(1) && let Some(chain) = held.next_done(progress) {
            queue.complete(&chain, 0);
            count += 1;
        });
        held.looked(now_ns, count > 0);
        count
    }

    /// Signals the guest. EAGAIN means that the counter is full, which is a signal already.
    #[inline]
    pub fn signal(&self) -> bool {
        let Some(call) = &self.call else { return false };
        let _ = nix::unistd::write(call, &1u64.to_ne_bytes());
        true
    }
}

impl Kind for Vring {
    #[inline]
    fn runs(&self) -> bool {
        self.enabled && self.fault.is_none() && self.queue.is_some()
    }

    #[inline]
    fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn break_with(&mut self, fault: RingFault) {
        self.fault = Some(fault);
    }

    #[inline]
    fn features(&self) -> u64 {
        self.features
    }

    #[inline]
    fn header_len(&self) -> usize {
        let modern = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_MRG_RXBUF.mask();
        if self.features & modern != 0 { NET_HDR_LEN } else { NET_HDR_LEN_LEGACY }
    }

    /// A ring that waits for a card is looked at again without a kick.
    fn arm(&mut self) -> bool {
        if self.held.as_ref().is_some_and(|held| !held.is_empty()) {
            return true;
        }
        self.queue.as_mut().is_some_and(Queue::arm)
    }

    fn disarm(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.disarm();
        }
    }

    #[inline]
    fn when_empty(&self) -> WhenEmpty {
        self.held.as_ref().map_or(WhenEmpty::Lingers, |held| held.when_empty())
    }

    #[inline]
    fn publish(&mut self, counters: &PortCounters, index: u16, counting: Counting) {
        let Some(queue) = &mut self.queue else { return };
        self.cost = RING;
        let wants_signal = queue.publish();
        if self.log.is_some() {
            self.cost += queue.take_marks_cost();
        }
        pass(CrashPoint::Published);
        if let Some(position) = counters.rings.get(usize::from(index)) {
            position.used.store(u64::from(queue.position()), Relaxed);
        }
        pass(CrashPoint::Noted);
        if wants_signal && self.signal() {
            counting.add(&counters.calls, 1);
            self.cost += SIGNAL;
        }
    }

    #[inline]
    fn publish_cost(&self) -> u64 {
        self.cost
    }
}
