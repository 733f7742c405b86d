//! A guest for measurements: a vhost-user front-end and a driver that does only what the switch needs.
//!
//! One queue pair. The guest polls its rings and asks for no calls; it kicks the device only if the device asks for it.
//! It allocates nothing and makes no syscall for a frame: buffers stay where they are and are used in turn.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::wire::*;

use crate::frame::{HEADER, Shape, Station};
use crate::memory::Memory;
use crate::ring::{Place, Ring, Shelf};

/// Most frames that are sent or received at a time, as DPDK has it.
pub const BATCH: u32 = 32;

/// How a guest is built.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Frames that it sends.
    pub shape: Shape,
    /// Entries of each ring.
    pub entries: u16,
    /// Octets of a receive buffer, and how many there are.
    pub rx_buffer: usize,
    /// As many as the ring has entries, or a smaller power of two that suffices.
    pub rx_buffers: usize,
    /// Its memory is of huge pages.
    pub huge: bool,
}

/// Rings, buffers and a connection.
pub struct Guest<R> {
    /// All of its memory.
    pub memory: Memory,
    /// The ring that it receives by.
    pub rx: R,
    /// The ring that it sends by.
    pub tx: R,
    /// Kicks that were asked for and made.
    pub kicks: u64,
    shape: Shape,
    kick: [EventFd; 2],
    call: [EventFd; 2],
    wire: Option<Wire>,
}

/// What was received of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its number.
    pub number: u32,
    /// The first of its buffers, as the ring counts.
    pub first: u32,
    /// Octets with the net header.
    pub octets: u32,
}

impl<R: Ring> Guest<R> {
    /// A guest that is not connected yet; all receive buffers are offered.
    pub fn new(plan: Plan) -> Result<Guest<R>> {
        let sends = Shelf { count: plan.shape.buffers(plan.entries), room: plan.shape.total() };
        let receives = Shelf { count: plan.rx_buffers, room: plan.rx_buffer };
        let ring = Place::ring_octets(plan.entries).next_multiple_of(4096);
        let buffers = 2 * ring;
        let memory = Memory::new(buffers + sends.octets() + receives.octets(), plan.huge)?;
        let tx = Place::new(plan.entries, 0, buffers, sends);
        let rx = Place::new(plan.entries, ring, buffers + sends.octets(), receives);
        for slot in 0..sends.count {
            plan.shape.fill(&memory, tx.buffer(slot as u32), slot);
        }
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let mut guest = Guest {
            rx: R::new(&memory, rx, true),
            tx: R::new(&memory, tx, false),
            memory,
            kicks: 0,
            shape: plan.shape,
            kick: [eventfd()?, eventfd()?],
            call: [eventfd()?, eventfd()?],
            wire: None,
        };
        for _ in 0..plan.entries {
            guest.rx.put(&guest.memory, rx.shelf.room as u32);
        }
        guest.rx.publish(&guest.memory);
        Ok(guest)
    }

    /// Connects, as QEMU does when the guest's driver is up, with these features beside the least.
    pub fn connect(&mut self, socket: &Path, features: u64) -> Result<()> {
        let mut wire = Wire::connect(socket)?;
        let wanted = R::FEATURES | VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES | features;
        let missing = wanted & !wire.get(GET_FEATURES)?;
        if missing != 0 {
            return Err(Failure::new(format!("the back-end has no features {missing:#x}")));
        }
        let protocol_features = wire.get(GET_PROTOCOL_FEATURES)? & PROTOCOL_REPLY_ACK;
        wire.set(SET_PROTOCOL_FEATURES, &protocol_features.to_ne_bytes(), &[])?;
        wire.set(SET_OWNER, &[], &[])?;
        wire.set(SET_FEATURES, &wanted.to_ne_bytes(), &[])?;
        let (addr, octets) = (self.memory.addr(0), self.memory.len() as u64);
        let table = region_table(&[region(addr, octets, addr, 0)]);
        wire.acknowledged = protocol_features != 0;
        wire.set(SET_MEM_TABLE, &table, &[self.memory.file()])?;
        for (index, ring) in [(0, &self.rx), (1, &self.tx)] {
            let place = ring.place();
            let [descriptors, driver, device] =
                [place.descriptors, place.driver, place.device].map(|at| self.memory.addr(at));
            let fd = u64::from(index).to_ne_bytes();
            let [kick, call] = [&self.kick, &self.call].map(|fds| fds[index as usize].as_fd());
            wire.set(SET_VRING_NUM, &vring_state(index, place.size.into()), &[])?;
            wire.set(SET_VRING_BASE, &vring_state(index, R::BASE), &[])?;
            wire.set(SET_VRING_ADDR, &vring_addr(index, descriptors, device, driver), &[])?;
            wire.set(SET_VRING_CALL, &fd, &[call])?;
            wire.set(SET_VRING_KICK, &fd, &[kick])?;
        }
        for index in [0, 1] {
            wire.set(SET_VRING_ENABLE, &vring_state(index, 1), &[])?;
        }
        // One request that is answered: all before it were executed.
        wire.get(GET_FEATURES)?;
        self.wire = Some(wire);
        Ok(())
    }

    /// Sends frames, at most a batch and no more than there is room for: all of them if any. `between` names receiver
    /// and sender of a frame by its number. Returns how many.
    #[inline(always)]
    pub fn send(&mut self, wanted: u32, between: impl Fn(u32) -> (Station, Station)) -> u32 {
        let sent = self.stage(wanted, between);
        if sent > 0 {
            self.show();
        }
        sent
    }

    /// As [`Guest::send`], but that the switch does not see them before [`Guest::show`].
    #[inline(always)]
    pub fn stage(&mut self, wanted: u32, between: impl Fn(u32) -> (Station, Station)) -> u32 {
        let Guest { memory, tx, shape, .. } = self;
        if tx.free() < wanted {
            let ready = tx.ready(memory);
            for _ in 0..ready {
                tx.take(memory);
            }
            if tx.free() < wanted {
                return 0;
            }
        }
        let place = *tx.place();
        let first = tx.put_count();
        for ahead in 0..wanted {
            memory.prefetch_to_write(place.buffer(first.wrapping_add(ahead)));
        }
        for ahead in 0..wanted {
            let number = first.wrapping_add(ahead);
            shape.compose(memory, place.buffer(number), between(number), number);
            tx.put(memory, place.shelf.room as u32);
        }
        wanted
    }

    /// Shows the switch what was staged.
    #[inline(always)]
    pub fn show(&mut self) {
        if self.tx.publish(&self.memory) {
            self.kicks += 1;
            self.kick(1);
        }
    }

    /// Receives frames, at most about a batch, shows each, and offers its buffers again. Returns how many.
    #[inline(always)]
    pub fn receive(&mut self, mut show: impl FnMut(&Memory, &Place, Arrival)) -> u32 {
        let Guest { memory, rx, shape, .. } = self;
        let ready = rx.ready(memory).min(BATCH);
        if ready == 0 {
            return 0;
        }
        let place = *rx.place();
        let begin = rx.back_count();
        for ahead in 0..ready {
            memory.prefetch(place.buffer(begin.wrapping_add(ahead)));
        }
        let number_at = shape.number_at();
        let mut frames = 0;
        while rx.back_count().wrapping_sub(begin) < ready {
            let first = rx.back_count();
            let at = place.buffer(first);
            let mut octets = rx.take(memory);
            let buffers = (memory.word64(at + 8).load(Relaxed) >> 16 & 0xffff).max(1) as u32;
            for _ in 1..buffers {
                octets += rx.take(memory);
            }
            let number = memory.word64(at + number_at).load(Relaxed) as u32;
            show(memory, &place, Arrival { number, first, octets });
            frames += 1;
        }
        for _ in 0..rx.back_count().wrapping_sub(begin) {
            rx.put(memory, place.shelf.room as u32);
        }
        if rx.publish(memory) {
            self.kicks += 1;
            self.kick(0);
        }
        frames
    }

    /// How often the back-end did not use buffers in order.
    pub fn strange(&self) -> u64 {
        self.rx.strange() + self.tx.strange()
    }

    #[cold]
    fn kick(&self, ring: usize) {
        // A full eventfd has not been read, and wakes its reader anyway.
        let _ = self.kick[ring & 1].write(1);
    }
}

impl Arrival {
    /// Whether it is whole and as it was sent by a guest with rings of the same size.
    pub fn is_as_sent(&self, memory: &Memory, place: &Place, shape: Shape) -> bool {
        let slot = self.number as usize & (shape.buffers(place.size) - 1);
        let room = place.shelf.room;
        let begins = shape.number_at() / 8 + 1;
        // The last words that are not whole are left out.
        let right = (begins..shape.total() / 8).all(|word| {
            let (buffer, at) = (8 * word / room, 8 * word % room);
            let at = place.buffer(self.first.wrapping_add(buffer as u32)) + at;
            memory.word64(at).load(Relaxed) == shape.word(slot, word)
        });
        right && self.octets as usize == shape.octets + HEADER
    }
}
