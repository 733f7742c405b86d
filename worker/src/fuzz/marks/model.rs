//! Which octets a device wrote into the buffers that a ring gave back, by the specification (virtio 1.3, 2.7.8 and 2.8.5):
//! the first ones of a chain's writable buffers, as many as the used element says.

use sv3::virtio::*;

use super::PAGE;
use crate::port::vring::driver::Driver;

/// Whether and how a descriptor's fields lie in memory.
#[derive(Clone, Copy)]
pub enum Form {
    /// Of a split ring: flags, then the next one.
    Split,
    /// Of a packed ring: buffer id, then flags.
    Packed,
}

/// A descriptor as memory has it.
#[derive(Clone, Copy)]
pub struct Raw {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    /// The next one's index, or the buffer id.
    pub other: u16,
}

impl Raw {
    pub fn of(octets: &[u8], form: Form) -> Raw {
        let half = |at: usize| u16::from_le_bytes(octets[at..at + 2].try_into().unwrap());
        let (flags, other) = match form {
            Form::Split => (half(12), half(14)),
            Form::Packed => (half(14), half(12)),
        };
        let addr = u64::from_le_bytes(octets[..8].try_into().unwrap());
        Raw { addr, len: u32::from_le_bytes(octets[8..12].try_into().unwrap()), flags, other }
    }

    fn read(driver: &Driver, at: u64, form: Form) -> Raw {
        Raw::of(&driver.read(at, 16), form)
    }
}

/// Octets that are still to be found, and those that were.
pub struct Written {
    left: u64,
    pub ranges: Vec<(u64, u64)>,
}

impl Written {
    pub fn new(len: u32) -> Written {
        Written { left: len.into(), ranges: Vec::new() }
    }

    /// Takes what was written to a descriptor's buffer. False: that was all.
    pub fn take(&mut self, raw: Raw) -> bool {
        if self.left > 0 && raw.flags & VIRTQ_DESC_F_WRITE != 0 {
            let len = self.left.min(raw.len.into());
            self.ranges.push((raw.addr, len));
            self.left -= len;
        }
        self.left > 0
    }

    /// A chain of a split ring whose table is at `table`.
    pub fn split(&mut self, driver: &Driver, table: u64, head: u16) {
        let (mut table, mut index) = (table, head);
        while self.left > 0 {
            let raw = Raw::read(driver, table + u64::from(index) * 16, Form::Split);
            if raw.flags & VIRTQ_DESC_F_INDIRECT != 0 {
                (table, index) = (raw.addr, 0);
                continue;
            }
            self.take(raw);
            index = raw.other;
        }
    }

    /// A descriptor of a packed ring. False: that was all.
    pub fn packed(&mut self, driver: &Driver, raw: Raw) -> bool {
        if self.left == 0 || raw.flags & VIRTQ_DESC_F_INDIRECT == 0 {
            return self.take(raw);
        }
        (0..u64::from(raw.len / 16)).all(|entry| self.take(Raw::read(driver, raw.addr + entry * 16, Form::Packed)))
    }
}

/// The pages of a range.
pub fn pages(at: u64, len: u64) -> Vec<u64> {
    match len.checked_sub(1).and_then(|more| at.checked_add(more)) {
        Some(last) => (at / PAGE..=last / PAGE).collect(),
        None => Vec::new(),
    }
}
