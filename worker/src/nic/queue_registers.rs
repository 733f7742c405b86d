//! Where the registers of a queue are, and what differs between the families in their values.

use sv3::card::CardSettings;

use super::bar::Bar;
use super::fault::Fault;
use super::wait;

/// RXDCTL and TXDCTL: the queue is on. It reads back as written when the card has done it.
pub const ENABLE: u32 = 1 << 25;
/// TXDCTL of the 82599: write back what is done (8.2.3.9.10).
pub const SWFLSH: u32 = 1 << 26;
/// How long the card may take to turn a queue on or off, in nanoseconds. The data sheet has no number.
pub const LIMIT: u64 = 10 * wait::MS;
/// How long a queue that is off may still write what it had under way, in nanoseconds (82599, 4.6.7.1.2).
pub const SETTLE: u64 = 100 * wait::US;

/// SRRCTL.DESCTYPE: advanced descriptors with one buffer.
const DESCTYPE_ADVANCED: u32 = 1 << 25;
/// SRRCTL.BSIZEHEADER in units of 64 octets. RSC needs 128 octets at least, though headers are not split (82599,
/// 8.2.3.8.7).
const BSIZEHEADER: u32 = 4 << 8;

/// Registers of a queue, as offsets in the BAR. All families have them in the same order, at the same distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRegisters {
    /// RDBAL or TDBAL: the ring's address, low word.
    pub base_low: u32,
    /// RDBAH or TDBAH: the high word.
    pub base_high: u32,
    /// RDLEN or TDLEN: octets of the ring.
    pub length: u32,
    /// RDH or TDH: the next descriptor that the card uses.
    pub head: u32,
    /// RDT or TDT: the doorbell, the first descriptor that the card may not use.
    pub tail: u32,
    /// RXDCTL or TXDCTL.
    pub control: u32,
    /// TDWBAL, of transmit queues: where the card writes its head, low word; bit 0 turns that on.
    pub write_back_low: u32,
    /// TDWBAH: the high word.
    pub write_back_high: u32,
    /// What RXDCTL or TXDCTL is to hold, without [`ENABLE`]. WTHRESH is 0, which writing back of the head needs.
    pub control_value: u32,
}

impl QueueRegisters {
    /// Those of the queue whose RDBAL or TDBAL is at `base`.
    pub fn at(base: u32, control_value: u32) -> QueueRegisters {
        QueueRegisters {
            base_low: base,
            base_high: base + 0x4,
            length: base + 0x8,
            head: base + 0x10,
            tail: base + 0x18,
            control: base + 0x28,
            write_back_low: base + 0x38,
            write_back_high: base + 0x3c,
            control_value,
        }
    }

    /// Tells the card where the ring is. The queue is off, and begins with the first descriptor.
    pub fn place(&self, bar: &impl Bar, address: u64, octets: u32) {
        bar.write(self.base_high, (address >> 32) as u32);
        bar.write(self.base_low, address as u32);
        bar.write(self.length, octets);
        bar.write(self.head, 0);
        bar.write(self.tail, 0);
    }

    /// Turns the queue on, and waits until it is. Its ring is known to the card. `name` is that of `control`.
    pub fn enable(&self, bar: &impl Bar, name: &'static str) -> Result<(), Fault> {
        bar.write(self.control, self.control_value | ENABLE);
        wait::until(bar, name, self.control, LIMIT, |value| value & ENABLE != 0).map(drop)
    }

    /// Turns the queue off, and waits until it is. `flush` is set meanwhile ([`SWFLSH`] or 0). `began` is when the first
    /// of a card's queues was turned off: all together have the same limit.
    pub fn disable(&self, bar: &impl Bar, name: &'static str, flush: u32, began: u64) -> Result<(), Fault> {
        let value = wait::read(bar, self.control)?;
        if value & ENABLE != 0 {
            bar.write(self.control, value & !ENABLE | flush);
            let limit = LIMIT.saturating_sub(bar.now_ns().wrapping_sub(began));
            wait::until(bar, name, self.control, limit, |value| value & ENABLE == 0)?;
        }
        Ok(())
    }
}

/// What SRRCTL is to hold. `drop_en` is the bit SRRCTL.DROP_EN of the family.
pub fn split_value(settings: &CardSettings, drop_en: u32) -> u32 {
    // A queue without descriptors holds up the others of the card. If there is one queue only, the card's own buffer is
    // used to the end first.
    let drop = if settings.pairs > 1 { drop_en } else { 0 };
    u32::from(settings.buffer / 1024) | BSIZEHEADER | DESCTYPE_ADVANCED | drop
}
