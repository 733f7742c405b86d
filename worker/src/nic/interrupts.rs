//! Interrupts: one vector for each queue pair, and one for the link and all else.
//!
//! # Theory of operation
//!
//! A vector of a queue pair masks itself when its message goes out (EIAM), and its cause is cleared (EIAC). So a thread
//! that polls is not interrupted and writes no register. Before it sleeps it does this, in this order:
//! [`Interrupts::acknowledge`], [`Interrupts::unmask`], a last look at the ring. What arrives behind the look finds the
//! vector open. What arrived before [`Interrupts::acknowledge`] is seen by the look, and raises no needless message.
//!
//! Writes to registers are posted: the card may get them after the look (PCI Express, 2.4.1). If it got the
//! acknowledgement so late, that would clear the cause of a frame that the look has not seen, and the thread would sleep
//! over it. So the acknowledgement ends with a read, whose answer comes behind all that the card has written before.
//! A late unmasking does no harm: what is pending by then is raised.
//!
//! EITR bounds how many messages a vector sends in a second.

use super::bar::Bar;

/// The registers of a card's vectors. It is a value that each thread has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupts {
    /// Queue pairs; also the number of the vector that is no pair's.
    pub pairs: u16,
    /// The mask's set register, a bit for each vector of a pair.
    pub set: u32,
    /// The mask's clear register.
    pub clear: u32,
    /// The cause register; writing ones clears.
    pub cause: u32,
    /// The throttle of vector 0; others follow at 4 octets.
    pub throttle: u32,
    /// How the throttle counts.
    pub unit: Unit,
    /// The set register and the bits of the causes that are no pair's.
    pub other: (u32, u32),
    /// Messages are spaced even if no limit is asked for, because RSC ends with the interval (82599, 7.11.5).
    pub always: bool,
}

/// How a throttle register counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 82599 (8.2.3.5.12): 2 µs from bit 3 on, 9 bits; bit 31 leaves the counter as it is.
    TwoMicroseconds,
    /// 82576 (8.8.12): 1 µs from bit 2 on, 13 bits; bit 31 leaves the counter as it is.
    Microsecond,
}

const LEAVE_COUNTER: u32 = 1 << 31;

impl Interrupts {
    /// Interrupts of `vector` are held back. A pair's vector does this by itself when its message goes out.
    #[inline]
    pub fn mask(&self, bar: &impl Bar, vector: u16) {
        if vector < self.pairs {
            bar.write(self.clear, 1 << vector);
        }
    }

    /// Interrupts of `vector` come again; at once, if one is pending.
    #[inline]
    pub fn unmask(&self, bar: &impl Bar, vector: u16) {
        match vector < self.pairs {
            true => bar.write(self.set, 1 << vector),
            false => bar.write(self.other.0, self.other.1),
        }
    }

    /// Forgets what is pending of a pair's vector. When it returns, the card has done so, and memory has all frames of
    /// which it has forgotten the cause.
    #[inline]
    pub fn acknowledge(&self, bar: &impl Bar, vector: u16) {
        if vector < self.pairs {
            bar.write(self.cause, 1 << vector);
            // The mask: a register whose reading changes nothing. If the card is gone, others find out.
            bar.read(self.set);
        }
    }

    /// At most so many messages of `vector` in a second, rounded to what the card can do; 0: no limit.
    #[inline]
    pub fn set_rate(&self, bar: &impl Bar, vector: u16, per_second: u32) {
        if vector <= self.pairs {
            bar.write(self.throttle + 4 * u32::from(vector), self.interval(per_second));
        }
    }

    fn interval(&self, per_second: u32) -> u32 {
        let least = if self.always { 1 } else { 0 };
        let microseconds = 1_000_000u32.checked_div(per_second).unwrap_or(0);
        LEAVE_COUNTER
            | match self.unit {
                Unit::TwoMicroseconds => (microseconds / 2).clamp(4 * least, 0x1ff) << 3,
                Unit::Microsecond => microseconds.clamp(least, 0x1fff) << 2,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupts(unit: Unit, always: bool) -> Interrupts {
        Interrupts { pairs: 1, set: 0, clear: 0, cause: 0, throttle: 0, unit, other: (0, 0), always }
    }

    #[test]
    fn rates_become_intervals_of_the_family() {
        let interval = |unit, always, rate| interrupts(unit, always).interval(rate) & !LEAVE_COUNTER;
        assert_eq!(interval(Unit::TwoMicroseconds, false, 8_000), 62 << 3, "125 µs");
        assert_eq!(interval(Unit::Microsecond, false, 8_000), 125 << 2);
        assert_eq!(interval(Unit::TwoMicroseconds, false, 1), 0x1ff << 3, "the longest, 1 ms");
        assert_eq!(interval(Unit::TwoMicroseconds, false, 0), 0, "no limit");
        // RSC_DELAY is 4 µs, and the interval has to be longer (82599, 8.2.3.5.18).
        assert_eq!(interval(Unit::TwoMicroseconds, true, 0), 4 << 3, "RSC needs an interval");
        assert_eq!(interval(Unit::TwoMicroseconds, true, u32::MAX), 4 << 3);
    }
}
