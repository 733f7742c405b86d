//! One virtqueue: ring, buffers and the two eventfds.
//!
//! Each chain has a slot of the queue's memory, by the number of its head. The pieces of a chain lie apart in the slot,
//! so that a device that runs over a piece's end is seen to have done so.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::memory::Memory;
use super::ring::Ring;
use super::split::{Piece, Used};

/// Octets between two pieces.
const GAP: u64 = 16;
/// Octets that the device must not write.
const CANARY: u8 = 0xa5;

/// How a chain is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape<'a> {
    /// Octets of the pieces; what is left over is one more piece. A piece may be empty.
    pub pieces: &'a [u32],
    /// The pieces stand in an indirect table.
    pub indirect: bool,
}

/// A virtqueue.
pub struct Queue {
    /// Vring index; even: the guest receives.
    pub index: u16,
    /// The ring.
    pub ring: Ring,
    /// The back-end has been told to run it.
    pub started: bool,
    kick: EventFd,
    call: EventFd,
    slots: u64,
    slot: u64,
    tables: u64,
    table: u64,
    /// Octets of the pieces of receive buffers.
    rx_shape: (Vec<u32>, bool),
    rx_buffer: u32,
    guarded: bool,
    pieces: Vec<Piece>,
}

/// What a queue needs to know when it is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Entries of the ring.
    pub size: u16,
    /// Most octets of one buffer.
    pub buffer: u32,
    /// Most pieces of one chain.
    pub pieces: u16,
    /// Octets of the pieces of receive buffers, and whether they stand in an indirect table.
    pub rx_shape: (Vec<u32>, bool),
    /// Look after octets that the device should not write.
    pub guarded: bool,
}

impl Plan {
    fn slot(&self) -> u64 {
        (u64::from(self.buffer) + GAP * (u64::from(self.pieces) + 1)).next_multiple_of(64)
    }

    fn table(&self) -> u64 {
        (16 * u64::from(self.pieces)).next_power_of_two()
    }

    /// Octets of memory that the queue takes, but for its ring.
    pub fn octets(&self) -> u64 {
        u64::from(self.size) * (self.slot() + self.table()) + 4096
    }
}

impl Queue {
    /// A queue whose ring lies at `ring`; its buffers are allocated.
    pub fn new(memory: &Memory, index: u16, ring: u64, plan: &Plan) -> Queue {
        let eventfd =
            || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("an eventfd can be made");
        let entries = u64::from(plan.size);
        let mut queue = Queue {
            index,
            ring: Ring::new(plan.size, ring),
            started: false,
            kick: eventfd(),
            call: eventfd(),
            slots: memory.allocate(entries * plan.slot(), 64),
            slot: plan.slot(),
            tables: 0,
            table: plan.table(),
            rx_shape: plan.rx_shape.clone(),
            rx_buffer: plan.buffer,
            guarded: plan.guarded,
            pieces: Vec::new(),
        };
        // A table is a power of two long and so never lies across regions, which end on pages.
        queue.tables = memory.allocate(entries * plan.table(), plan.table().min(4096));
        queue
    }

    /// The fd that kicks go to.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// The fd that calls come by.
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Kicks, whether the device wants it or not.
    pub fn kick(&self) {
        self.kick.write(1).expect("an eventfd can be written");
    }

    /// Shows the device what was added, and kicks it if it wants that.
    #[inline]
    pub fn publish(&mut self, memory: &Memory) {
        if self.ring.publish(memory) {
            self.kick();
        }
    }

    /// Forgets calls that have come. True: there were some.
    pub fn clear_calls(&self) -> bool {
        self.call.read().is_ok()
    }

    /// Adds a chain with these octets for the device to read. False: too few descriptors are free.
    #[track_caller]
    pub fn add_octets(&mut self, memory: &Memory, parts: [&[u8]; 2], shape: Shape<'_>) -> bool {
        let total = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let descriptors = if shape.indirect { 1 } else { shape.pieces.len() + 1 };
        let Some(head) = self.ring.next_head(descriptors) else { return false };
        self.lay_out(head, total, shape.pieces);
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let mut part = parts.next().unwrap_or_default();
        for piece in &self.pieces {
            let (mut addr, mut left) = (piece.addr, piece.len as usize);
            while left > 0 {
                let (now, rest) = part.split_at(part.len().min(left));
                memory.write(addr, now);
                addr += now.len() as u64;
                left -= now.len();
                part = if rest.is_empty() { parts.next().unwrap_or_default() } else { rest };
            }
        }
        self.ring.add(memory, &self.pieces, false, self.table_of(head, shape.indirect)).is_some()
    }

    /// Adds receive buffers while descriptors are free.
    #[track_caller]
    pub fn add_buffers(&mut self, memory: &Memory) {
        let (shape, indirect) = std::mem::take(&mut self.rx_shape);
        let descriptors = if indirect { 1 } else { shape.len() + 1 };
        while let Some(head) = self.ring.next_head(descriptors) {
            self.lay_out(head, self.rx_buffer, &shape);
            if self.guarded {
                memory.write(self.slot_of(head), &vec![CANARY; self.slot as usize]);
            }
            self.ring.add(memory, &self.pieces, true, self.table_of(head, indirect));
        }
        self.rx_shape = (shape, indirect);
    }

    /// Appends what the device wrote into a receive buffer that came back.
    #[track_caller]
    pub fn read_buffer(&mut self, memory: &Memory, used: Used, into: &mut Vec<u8>) {
        let shape = std::mem::take(&mut self.rx_shape);
        self.lay_out(used.head, self.rx_buffer, &shape.0);
        self.rx_shape = shape;
        let mut left = used.len;
        for piece in &self.pieces {
            let now = piece.len.min(left);
            memory.read(piece.addr, now as usize, into);
            left -= now;
        }
        if self.guarded {
            self.check_canaries(memory, used);
        }
    }

    #[track_caller]
    fn check_canaries(&self, memory: &Memory, used: Used) {
        let slot = self.slot_of(used.head);
        let mut left = used.len;
        let mut clean = slot;
        let expect = |from: u64, to: u64| {
            let octets = memory.octets(from, (to - from) as usize);
            let at = octets.iter().position(|octet| *octet != CANARY);
            assert!(
                at.is_none(),
                "octet {} of the slot of {used:?} was written, pieces {:?}",
                from - slot,
                self.pieces
            );
        };
        for piece in &self.pieces {
            expect(clean, piece.addr);
            let now = piece.len.min(left);
            left -= now;
            clean = piece.addr + u64::from(now);
        }
        expect(clean, slot + self.slot);
    }

    fn lay_out(&mut self, head: u16, total: u32, shape: &[u32]) {
        let mut addr = self.slot_of(head) + GAP;
        let mut left = total;
        self.pieces.clear();
        for wanted in shape.iter().copied().chain([u32::MAX]) {
            let len = wanted.min(left);
            self.pieces.push(Piece { addr, len });
            left -= len;
            addr += u64::from(len) + GAP;
        }
        // Nothing left over is no piece more.
        if self.pieces.len() > 1 && self.pieces.last().is_some_and(|last| last.len == 0) {
            self.pieces.pop();
        }
    }

    fn slot_of(&self, head: u16) -> u64 {
        self.slots + u64::from(head) * self.slot
    }

    fn table_of(&self, head: u16, indirect: bool) -> Option<u64> {
        indirect.then_some(self.tables + u64::from(head) * self.table)
    }
}
