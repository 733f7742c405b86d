//! Which pages a ring marks in its client's log while the guest migrates ([`crate::memory::dirty_log`]).
//!
//! # Theory of operation
//!
//! Deliveries know nothing of the log. When a ring publishes, it goes once more through the chains that it is about to give
//! back, whose lengths it has noted, and marks as many octets of each as were written. A guest that changes a descriptor
//! meanwhile spoils its own migration. So a frame costs nothing while there is no log, and a look at its descriptors while
//! there is one.
//!
//! The order is: write the buffers, mark them, publish, mark what publishing wrote. The client stops the rings before it
//! looks at the log for the last time, and the worker stops a ring between two bursts.
//!
//! A worker may die between any two of these steps. What it has published of buffers is marked. What it has written and not
//! published, or published and not marked, lies in the ring's own areas or in chains that are available. So a worker that
//! takes over a ring with a log marks these areas, and the chains that are available ([`Marks::LONGEST`] octets of each), as
//! many as a burst can have used ([`STEPS_AT_START`]). It does so once. A ring that the client starts itself, and a log that
//! comes while the ring runs, find no burst under way, so the areas are enough then: what a client may repeat at will costs
//! little.
//!
//! What lies outside of the client's memory was not written, and is not marked, whatever a descriptor says.

use std::cell::Cell;

use sv3::frame::MAX_FRAME;
use sv3::ipc::Settings;
use sv3::virtio::{NET_HDR_LEN, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::chain::entry;
use super::descriptor::{Descriptor, Table};
use crate::memory::dirty_log::{DirtyLog, LogView};
use crate::memory::guest_memory::{GuestMemory, RegionCache};
use crate::port::batch::MAX_SLICES;
use crate::port::cost::DESCRIPTOR;

/// What a ring must know to mark pages.
pub struct Marks {
    log: DirtyLog,
    /// For tables of descriptors.
    memory: GuestMemory,
    /// Guest address of the device area, if the client wants it logged: a split ring's used ring, a packed ring's device
    /// event suppression.
    device_area: Option<u64>,
    /// The same of a packed ring's descriptors, which have no address of their own in the protocol.
    descriptors: Option<u64>,
    /// The guest only transmits by the ring: buffers are not written.
    pub only_reads: bool,
    /// Cost of looks at chains, as in [`crate::port::cost`].
    cost: Cell<u64>,
}

/// Most descriptors that one look at chains reads: as many as the chains of one burst have at most.
pub const STEPS: usize = Settings::MAX_BATCH as usize * MAX_SLICES;
/// The same at the start of a ring, where the chains of a dead worker's burst are looked for: as many as frames of a burst
/// have in buffers of a page. A guest whose chains have more of them, each of a few octets, can spoil its own migration by
/// that, and does not stop the worker.
pub const STEPS_AT_START: usize = Settings::MAX_BATCH as usize * 64;

impl Marks {
    /// Most octets that are written to one chain.
    pub const LONGEST: u64 = (NET_HDR_LEN + MAX_FRAME) as u64;

    /// Marks in `log`. `device_area` is what the client gave as the ring's log address, `desc` the front-end's address of
    /// the descriptors.
    pub fn new(log: DirtyLog, memory: &GuestMemory, device_area: Option<u64>, desc: u64) -> Marks {
        let descriptors = device_area.and_then(|_| memory.guest_addr_of_user(desc));
        Marks { log, memory: memory.clone(), device_area, descriptors, only_reads: false, cost: Cell::new(0) }
    }

    /// What looks at chains have cost since the last call.
    pub fn take_cost(&self) -> u64 {
        self.cost.take()
    }

    fn charge(&self, descriptors: usize) {
        self.cost.set(self.cost.get().saturating_add(descriptors as u64 * DESCRIPTOR));
    }

    /// Marks a part of the device area.
    pub fn device_area(&self, offset: u64, len: u64) {
        self.mark_at(self.device_area, offset, len);
    }

    /// Marks some of a packed ring's descriptors.
    pub fn descriptors(&self, index: u64, count: u64) {
        self.mark_at(self.descriptors, index * Descriptor::SIZE as u64, count * Descriptor::SIZE as u64);
    }

    fn mark_at(&self, area: Option<u64>, offset: u64, len: u64) {
        if let Some(at) = area.and_then(|area| area.checked_add(offset)) {
            self.log.mark(at, len);
        }
    }

    /// Begins to look at chains that were written to, of which at most `steps` descriptors are to be read.
    #[inline]
    pub fn look(&self, steps: usize) -> Look<'_> {
        DirtyLog::order();
        Look { marks: self, log: self.log.view(), region: self.memory.last_region(), left: 0, steps, most: steps }
    }
}

/// A look at chains.
pub struct Look<'a> {
    marks: &'a Marks,
    log: LogView<'a>,
    /// Where the last buffer was.
    region: RegionCache<'a>,
    /// Octets of the current chain that are to be marked.
    left: u64,
    /// How many descriptors may still be read, and how many could be at first.
    steps: usize,
    most: usize,
}

impl Drop for Look<'_> {
    #[inline]
    fn drop(&mut self) {
        self.marks.charge(self.most - self.steps);
    }
}

impl Look<'_> {
    /// Whether no further descriptor may be read.
    pub fn is_over(&self) -> bool {
        self.steps == 0
    }

    /// Marks the first `len` octets, not 0, of the kind of chain that most chains are: one buffer in the same region as the
    /// last one. False: it is another kind.
    #[inline(always)]
    pub fn plain(&mut self, descriptor: &Descriptor, len: u32) -> bool {
        let kind = descriptor.flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT);
        if kind != VIRTQ_DESC_F_WRITE
            || len > descriptor.len.min(Marks::LONGEST as u32)
            || self.region.slice(descriptor.addr, len).is_none()
        {
            return false;
        }
        self.steps = self.steps.saturating_sub(1);
        self.log.mark(descriptor.addr, len.into());
        true
    }

    /// Marks the first `len` octets of a split ring's chain, which begins with this descriptor.
    #[inline(never)]
    pub fn chain(&mut self, table: &impl Table, first: Descriptor, len: u64) {
        self.begin(len);
        let mut next = Some(first);
        for _ in 0..table.size().min(MAX_SLICES as u16) {
            let Some(descriptor) = next else { return };
            if descriptor.flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return self.table(&descriptor);
            }
            if !self.buffer(&descriptor) || descriptor.flags & VIRTQ_DESC_F_NEXT == 0 {
                return;
            }
            next = table.descriptor(descriptor.next);
        }
    }

    fn table(&mut self, table: &Descriptor) {
        let mut index = 0;
        for _ in 0..self.entries(table) {
            let Some(descriptor) = self.entry(table, index) else { return };
            if !self.buffer(&descriptor) || descriptor.flags & VIRTQ_DESC_F_NEXT == 0 {
                return;
            }
            index = descriptor.next;
        }
    }

    /// The first `len` octets of a chain were written, or may have been: its descriptors follow ([`Look::packed`]).
    pub fn begin(&mut self, len: u64) {
        self.left = len.min(Marks::LONGEST);
    }

    /// Marks what a descriptor of a packed ring names. False: nothing is left to be marked.
    pub fn packed(&mut self, descriptor: &Descriptor) -> bool {
        if descriptor.flags & VIRTQ_DESC_F_INDIRECT == 0 {
            return self.buffer(descriptor);
        }
        for index in 0..self.entries(descriptor) as u16 {
            let Some(buffer) = self.entry(descriptor, index).map(Descriptor::as_packed) else { break };
            if !self.buffer(&buffer) {
                break;
            }
        }
        false
    }

    fn entries(&self, table: &Descriptor) -> usize {
        (table.len as usize / Descriptor::SIZE).min(MAX_SLICES)
    }

    fn entry(&self, table: &Descriptor, index: u16) -> Option<Descriptor> {
        entry(&self.marks.memory.slice(table.addr, table.len.into())?, index)
    }

    /// Marks a buffer, as far as it lies in the client's memory. False: nothing is left.
    fn buffer(&mut self, descriptor: &Descriptor) -> bool {
        let Some(left) = self.steps.checked_sub(1) else { return false };
        self.steps = left;
        if descriptor.flags & VIRTQ_DESC_F_WRITE != 0 {
            let (mut addr, mut len) = (descriptor.addr, self.left.min(descriptor.len.into()));
            self.left -= len;
            while len > 0
                && let Some(piece) = self.marks.memory.piece(addr, len)
            {
                let octets = piece.len() as u64;
                self.log.mark(addr, octets);
                (addr, len) = (addr.wrapping_add(octets), len - octets);
            }
            self.region = self.marks.memory.last_region();
        }
        self.left > 0
    }
}

#[cfg(test)]
mod tests;
