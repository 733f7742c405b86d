//! What only a hostile guest does: descriptors and indices by hand, messages of any kind.

use std::time::Instant;

use super::Guest;
use super::memory::Memory;
use super::queue::Queue;
use super::split::{Descriptor, Used};
use super::wire::Wire;
use crate::patience::PATIENCE;

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
        self.queues[usize::from(ring)].ring.split_mut().take_descriptors(count)
    }

    /// Writes a descriptor.
    #[track_caller]
    pub fn describe(&self, ring: u16, index: u16, descriptor: Descriptor) {
        self.queues[usize::from(ring)].ring.split().describe(&self.memory, index, descriptor);
    }

    /// Writes a descriptor of a table at any guest address.
    #[track_caller]
    pub fn describe_in(&self, table: u64, index: u16, descriptor: Descriptor) {
        self.queues[0].ring.split().describe_in(&self.memory, table, index, descriptor);
    }

    /// Makes a chain available that was written by [`Guest::describe`], and kicks.
    #[track_caller]
    pub fn offer(&mut self, ring: u16, head: u16) {
        let queue = &mut self.queues[usize::from(ring)];
        queue.ring.split_mut().offer(&self.memory, head, u32::MAX);
        queue.publish(&self.memory);
    }

    /// Sets `avail.idx` to anything, and kicks.
    pub fn claim(&mut self, ring: u16, index: u16) {
        let queue = &self.queues[usize::from(ring)];
        queue.ring.split().claim(&self.memory, index);
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
