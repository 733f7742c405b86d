//! The driver's half of a split ring (virtio 1.3, 2.7), without checks: it writes what the case says, and never relies
//! on what the device does.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::failure::Result;
use crate::guest::memory::Memory;

/// Entries of a ring.
pub const SIZE: u16 = 256;
/// Octets of a ring, from a page's begin.
pub const OCTETS: u64 = 16 * SIZE as u64 + 4096 * 2;

/// Descriptor flags (2.7.5).
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

const STEP: Duration = Duration::from_millis(1);

/// A descriptor as it stands in a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Octets.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

impl Descriptor {
    /// Octets that the device reads.
    pub fn of(addr: u64, len: u32) -> Descriptor {
        Descriptor { addr, len, ..Descriptor::default() }
    }

    /// With another one behind.
    pub fn then(self, next: u16) -> Descriptor {
        Descriptor { flags: self.flags | NEXT, next, ..self }
    }

    /// With these flags too.
    pub fn with(self, flags: u16) -> Descriptor {
        Descriptor { flags: self.flags | flags, ..self }
    }
}

/// A ring with its eventfds.
pub struct Ring {
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// `avail.idx` as written last.
    pub index: u16,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    /// A ring at a page's begin; the memory is taken to be all zeroes.
    pub fn new(addr: u64) -> Result<Ring> {
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let available = addr + 16 * u64::from(SIZE);
        Ok(Ring { descriptors: addr, available, used: available + 4096, index: 0, kick: eventfd()?, call: eventfd()? })
    }

    /// The fd that kicks go to.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// The fd that calls come by.
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// Kicks.
    pub fn kick(&self) {
        // One that is full is a kick.
        let _ = self.kick.write(1);
    }

    /// Writes a descriptor of the table.
    pub fn describe(&self, memory: &Memory, index: u16, descriptor: Descriptor) {
        describe_in(memory, self.descriptors, index, descriptor);
    }

    /// Makes a head available, and kicks.
    pub fn offer(&mut self, memory: &Memory, head: u16) {
        self.enter(memory, head);
        self.claim(memory, self.index);
    }

    /// Writes an entry of the available ring that the device is not told of.
    pub fn enter(&mut self, memory: &Memory, head: u16) {
        memory.store16(self.available + 4 + 2 * u64::from(self.index % SIZE), head);
        self.index = self.index.wrapping_add(1);
    }

    /// Sets `avail.idx`, and kicks.
    pub fn claim(&self, memory: &Memory, index: u16) {
        memory.store16(self.available + 2, index);
        self.kick();
    }

    /// `used.idx`.
    pub fn used_index(&self, memory: &Memory) -> u16 {
        memory.load16(self.used + 2)
    }

    /// Waits until all that is available has been used.
    pub fn await_all(&self, memory: &Memory, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.used_index(memory) != self.index {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(STEP);
        }
        true
    }
}

/// Writes a descriptor of a table anywhere.
pub fn describe_in(memory: &Memory, table: u64, index: u16, descriptor: Descriptor) {
    memory.write(table + 16 * u64::from(index), &octets(descriptor));
}

/// A descriptor as it stands in memory.
pub fn octets(descriptor: Descriptor) -> [u8; 16] {
    let Descriptor { addr, len, flags, next } = descriptor;
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&addr.to_le_bytes());
    octets[8..12].copy_from_slice(&len.to_le_bytes());
    octets[12..14].copy_from_slice(&flags.to_le_bytes());
    octets[14..].copy_from_slice(&next.to_le_bytes());
    octets
}
