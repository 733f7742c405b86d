//! What the card counts (data sheet, 8.2.3.23).

use crate::registers::Registers;

/// Octets of the check sequence, which all counters of octets count.
const CHECK: usize = 4;
/// Counters of the physical function: the first of each pair is what is received, the second what is sent.
const GOOD: [u32; 2] = [0x4074, 0x4080];
const GOOD_OCTETS: [u32; 2] = [0x4088, 0x4090];
const BROADCAST: [u32; 2] = [0x4078, 0x40F4];
const MULTICAST: [u32; 2] = [0x407C, 0x40F0];
const SIZES: [u32; 2] = [0x405C, 0x40D8];
const TOTAL: [u32; 2] = [0x40D0, 0x40D4];
/// Received in total, whether good or not: frames, octets, those that no filter has seen.
const TOTAL_OCTETS: u32 = 0x40C0;
const UNFILTERED: u32 = 0x41B0;
const UNFILTERED_OCTETS: u32 = 0x41B4;

/// Frames of one direction since the last look.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Frames.
    pub frames: u32,
    /// Their octets, with check sequences.
    pub octets: u64,
    /// Frames to all.
    pub broadcast: u32,
    /// Frames to groups, without those to all.
    pub multicast: u32,
    /// Frames of up to 64, 127, 255, 511, 1,023 octets, and longer ones.
    pub sizes: [u32; 6],
}

impl Tally {
    /// Counts a frame, which is here without its check sequence.
    #[inline]
    pub fn count(&mut self, frame: &[u8]) {
        let len = frame.len() + CHECK;
        self.frames += 1;
        self.octets += len as u64;
        if frame.first().is_some_and(|first| first & 1 != 0) {
            if frame.starts_with(&[0xFF; 6]) {
                self.broadcast += 1;
            } else {
                self.multicast += 1;
            }
        }
        let class = match len {
            0..=64 => 0,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        self.sizes[class] += 1;
    }

    /// Adds it to the registers: received frames, or sent ones.
    pub fn add(&self, registers: &mut Registers, sent: bool) {
        let way = usize::from(sent);
        registers.count(GOOD[way], self.frames);
        registers.count(TOTAL[way], self.frames);
        registers.count_octets(GOOD_OCTETS[way], self.octets);
        registers.count(BROADCAST[way], self.broadcast);
        registers.count(MULTICAST[way], self.multicast);
        for (at, count) in (0..).zip(self.sizes).filter(|(_, count)| *count > 0) {
            registers.count(SIZES[way] + 4 * at, count);
        }
        if !sent {
            registers.count_octets(TOTAL_OCTETS, self.octets);
            registers.count(UNFILTERED, self.frames);
            registers.count_octets(UNFILTERED_OCTETS, self.octets);
        }
    }
}

/// A frame came and was not for this card.
pub fn filtered(registers: &mut Registers, len: usize) {
    registers.count(TOTAL[0], 1);
    registers.count_octets(TOTAL_OCTETS, (len + CHECK) as u64);
    registers.count(UNFILTERED, 1);
    registers.count_octets(UNFILTERED_OCTETS, (len + CHECK) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_size_and_by_whom_they_are_for() {
        let mut tally = Tally::default();
        for (len, first) in [(60, 0x02), (61, 0xFF), (1514, 0x01), (9000, 0x02)] {
            let mut frame = vec![0x02; len];
            frame[..6].fill(first);
            tally.count(&frame);
        }
        let mut registers = Registers::default();
        tally.add(&mut registers, true);
        tally.add(&mut registers, true);
        let read = |at| registers.get(at);
        assert_eq!((read(0x4080), read(0x4090)), (8, 2 * (64 + 65 + 1518 + 9004)));
        assert_eq!((read(0x40F4), read(0x40F0)), (2, 2));
        assert_eq!([0, 1, 2, 3, 4, 5].map(|at| read(0x40D8 + 4 * at)), [2, 2, 0, 0, 0, 4]);
        assert_eq!(read(0x4074), 0);
    }
}
