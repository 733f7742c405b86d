//! A reference device: the device's half of a split ring by rust-vmm's `virtio-queue`, with its own copy of memory.

use sv3::ipc::RingAddr;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::port::vring::driver::{BASE, REGION};

/// A chain as the reference device saw it.
pub struct ReferenceChain {
    /// Its head.
    pub head: u16,
    /// Guest addresses and lengths of its buffers, without empty ones. `false`: device-readable.
    pub buffers: Vec<(u64, u32, bool)>,
    /// The last descriptor ends the chain, not an error.
    pub whole: bool,
}

/// The queue.
pub struct ReferenceQueue {
    memory: GuestMemoryMmap,
    queue: Queue,
}

impl ReferenceQueue {
    /// A ring at `base` in the same place. `addr` counts from the beginning of memory.
    pub fn new(size: u16, addr: &RingAddr) -> ReferenceQueue {
        let ranges = [0, 1].map(|at| (GuestAddress(BASE + at * REGION), REGION as usize));
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let mut queue = Queue::new(size).unwrap();
        let place = |offset: u64| (Some((BASE + offset) as u32), Some(((BASE + offset) >> 32) as u32));
        let ((d0, d1), (a0, a1), (u0, u1)) = (place(addr.desc), place(addr.avail), place(addr.used));
        queue.set_desc_table_address(d0, d1);
        queue.set_avail_ring_address(a0, a1);
        queue.set_used_ring_address(u0, u1);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        ReferenceQueue { memory, queue }
    }

    /// Writes octets at a guest address.
    pub fn write(&self, addr: u64, octets: &[u8]) {
        self.memory.write_slice(octets, GuestAddress(addr)).unwrap();
    }

    /// Reads octets at a guest address.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.memory.read_slice(&mut out, GuestAddress(addr)).unwrap();
        out
    }

    /// The next chain. An error: the driver claims too many entries.
    pub fn pop(&mut self) -> Result<Option<ReferenceChain>, ()> {
        let Some(chain) = self.queue.iter(&self.memory).map_err(drop)?.next() else { return Ok(None) };
        let (head, mut buffers, mut whole) = (chain.head_index(), Vec::new(), false);
        for descriptor in chain {
            whole = !descriptor.has_next();
            if descriptor.len() > 0 {
                buffers.push((descriptor.addr().0, descriptor.len(), descriptor.is_write_only()));
            }
        }
        Ok(Some(ReferenceChain { head, buffers, whole }))
    }

    /// Completes a chain.
    pub fn complete(&mut self, head: u16, len: u32) {
        self.queue.add_used(&self.memory, head, len).unwrap();
    }

    /// After a batch: whether the driver asks for a signal.
    pub fn signals(&mut self) -> bool {
        self.queue.needs_notification(&self.memory).unwrap()
    }

    /// Continues where a new device would.
    pub fn restart(&mut self, position: u16, event_idx: bool) {
        let size = self.queue.size();
        let (desc, avail, used) = (self.queue.desc_table(), self.queue.avail_ring(), self.queue.used_ring());
        let mut queue = Queue::new(size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(desc)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(avail)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.set_next_avail(position);
        queue.set_next_used(position);
        self.queue = queue;
    }
}
