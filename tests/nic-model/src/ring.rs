//! What rings of both directions have in common: base, length, head and tail (data sheet, 7.1.9 and 7.2.3.3).

use crate::Complaints;

/// Octets of a descriptor.
pub const DESCRIPTOR: u32 = 16;
/// RXDCTL and TXDCTL: the queue is enabled.
pub const ENABLE: u32 = 1 << 25;

/// One ring.
#[derive(Clone, Default)]
pub struct Ring {
    /// BAL and BAH.
    pub base: u64,
    /// Octets (LEN).
    pub len: u32,
    /// The next descriptor that the card uses.
    pub head: u32,
    /// The first descriptor that the card may not use.
    pub tail: u32,
    /// The queue is enabled.
    pub enabled: bool,
}

impl Ring {
    /// The register at `offset` of the queue, if the ring has it.
    pub fn read(&self, offset: u32) -> Option<u32> {
        Some(match offset {
            0x00 => self.base as u32,
            0x04 => (self.base >> 32) as u32,
            0x08 => self.len,
            0x10 => self.head,
            0x18 => self.tail,
            _ => return None,
        })
    }

    /// The driver writes the register. False: the ring does not have it. While the queue is enabled, only the tail moves.
    pub fn write(&mut self, offset: u32, value: u32, complaints: &mut Complaints) -> bool {
        if self.enabled && matches!(offset, 0x00 | 0x04 | 0x08 | 0x10) {
            complaints.add(format!("a write to register {offset:#04x} of a queue that is enabled"));
            return true;
        }
        match offset {
            0x00 => self.base = self.base >> 32 << 32 | u64::from(value & !0x7F),
            0x04 => self.base = u64::from(value) << 32 | self.base & 0xFFFF_FFFF,
            0x08 => self.set_len(value, complaints),
            0x10 => self.head = value & 0xFFFF,
            0x18 => self.set_tail(value & 0xFFFF, complaints),
            _ => return false,
        }
        if offset == 0x00 && value & 0x7F != 0 {
            complaints.add(format!("a ring at {value:#x}: not at a multiple of 128 (8.2.3.8.1)"));
        }
        true
    }

    fn set_len(&mut self, value: u32, complaints: &mut Complaints) {
        if !value.is_multiple_of(128) || value > 0x8_0000 {
            complaints.add(format!("a ring of {value} octets: not a multiple of 128 up to 512 KiB (8.2.3.8.3)"));
        }
        self.len = value & 0xF_FF80;
    }

    fn set_tail(&mut self, value: u32, complaints: &mut Complaints) {
        if self.enabled && value >= self.count() {
            complaints.add(format!("a tail of {value} in a ring of {} descriptors", self.count()));
            return;
        }
        if !self.enabled && value != 0 {
            complaints.add("a tail was moved before its queue was enabled (4.6.7.1, 4.6.8.1)".into());
        }
        self.tail = value;
    }

    /// Descriptors.
    pub fn count(&self) -> u32 {
        self.len / DESCRIPTOR
    }

    /// Descriptors that the card may use now.
    #[inline]
    pub fn ready(&self) -> u32 {
        match () {
            () if !self.enabled => 0,
            () if self.tail >= self.head => self.tail - self.head,
            () => (self.count() + self.tail).saturating_sub(self.head),
        }
    }

    /// Where a descriptor is.
    #[inline]
    pub fn address(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index * DESCRIPTOR))
    }

    /// The descriptor `more` behind `index`.
    #[inline]
    pub fn behind(&self, index: u32, more: u32) -> u32 {
        let at = index + more;
        if at >= self.count() { at - self.count() } else { at }
    }

    /// The card has used so many.
    #[inline]
    pub fn advance(&mut self, used: u32) {
        self.head = self.behind(self.head, used);
    }

    /// The enable bit was written. What the ring holds must make sense.
    pub fn enable(&mut self, on: bool, complaints: &mut Complaints) {
        if on && !self.enabled {
            if self.len == 0 {
                complaints.add("a queue without a ring was enabled".into());
                return;
            }
            if self.head >= self.count() || self.tail >= self.count() {
                complaints.add(format!("head {} or tail {} outside of the ring", self.head, self.tail));
                (self.head, self.tail) = (0, 0);
            }
        }
        self.enabled = on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(complaints: &mut Complaints) -> Ring {
        let mut it = Ring::default();
        assert!(it.write(0x00, 0x1000, complaints) && it.write(0x04, 1, complaints) && it.write(0x08, 256, complaints));
        it.enable(true, complaints);
        it
    }

    #[test]
    fn head_and_tail_go_round() {
        let mut complaints = Complaints::default();
        let mut it = ring(&mut complaints);
        assert_eq!((it.count(), it.ready()), (16, 0));
        it.write(0x18, 15, &mut complaints);
        it.advance(14);
        it.write(0x18, 3, &mut complaints);
        assert_eq!((it.head, it.ready()), (14, 5));
        assert_eq!(it.address(it.behind(it.head, 3)), 0x1_0000_1010);
        assert!(complaints.all().is_empty());
    }

    #[test]
    fn a_driver_that_moves_a_running_ring_is_told() {
        let mut complaints = Complaints::default();
        let mut it = ring(&mut complaints);
        it.write(0x00, 0x2000, &mut complaints);
        it.write(0x18, 16, &mut complaints);
        assert_eq!(complaints.all().len(), 2, "{:?}", complaints.all());
        assert_eq!(it.tail, 0);
    }
}
