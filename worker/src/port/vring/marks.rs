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
//! published, or published and not marked, lies in the ring's own areas or in chains that are available. So a ring that
//! starts with a log marks these areas, and the chains that are available ([`Marks::LONGEST`] octets of each), as many as a
//! burst can have used ([`STEPS_AT_START`]). A log that comes while the ring runs finds no burst under way, so the areas are
//! enough then: what a client may repeat at will costs little.

use sv3::frame::MAX_FRAME;
use sv3::ipc::Settings;
use sv3::virtio::{NET_HDR_LEN, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::chain::entry;
use super::descriptor::{Descriptor, Table};
use crate::memory::dirty_log::DirtyLog;
use crate::memory::guest_memory::GuestMemory;
use crate::port::batch::MAX_SLICES;

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
        Marks { log, memory: memory.clone(), device_area, descriptors }
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

    /// The first `len` octets of a chain were written, or may have been. `steps` is how many descriptors may still be read.
    pub fn written<'a>(&'a self, len: u64, steps: &'a mut usize) -> Written<'a> {
        Written { marks: self, left: len.min(Marks::LONGEST), steps }
    }
}

/// Octets of a chain that are to be marked.
pub struct Written<'a> {
    marks: &'a Marks,
    left: u64,
    steps: &'a mut usize,
}

impl Written<'_> {
    /// Marks the chain of a split ring that begins at `head`.
    pub fn chain(&mut self, table: &impl Table, head: u16) {
        let mut next = table.descriptor(head);
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

    /// Marks a buffer. False: nothing is left.
    fn buffer(&mut self, descriptor: &Descriptor) -> bool {
        let Some(left) = self.steps.checked_sub(1) else { return false };
        *self.steps = left;
        if descriptor.flags & VIRTQ_DESC_F_WRITE != 0 {
            let len = self.left.min(descriptor.len.into());
            self.marks.log.mark(descriptor.addr, len);
            self.left -= len;
        }
        self.left > 0
    }
}

#[cfg(test)]
mod tests;
