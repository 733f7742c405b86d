//! A card that lies: what fuzzers put in front of a driver.
//!
//! # Theory of operation
//!
//! An honest card does the work. Each answer to a read, each of its writes to memory and each of its interrupts takes an
//! octet of the seed: most values let it pass, some make it wrong. From time to time the card writes to an address that it
//! has used before, or near it, as a card does that goes on after a reset, or that is bent on harm. A seed that is used up
//! reads as zeroes, so a short one is a card that comes to its senses.

use crate::{Card, Memory};

/// Octets from here on are lies.
const LIES: u8 = 0xF0;
/// Addresses that the card remembers.
const REMEMBERED: usize = 64;

/// The octets that decide.
struct Seed {
    octets: Vec<u8>,
    at: usize,
}

impl Seed {
    fn next(&mut self) -> u8 {
        let octet = self.octets.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        octet
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.next(), self.next(), self.next(), self.next()])
    }
}

/// Addresses that the card has used, the latest last.
struct Known {
    addresses: [u64; REMEMBERED],
    next: usize,
}

/// A card that lies.
pub struct Lying<C: Card> {
    card: C,
    seed: Seed,
    known: Known,
}

impl<C: Card> Lying<C> {
    /// A card that lies when `seed` says so.
    pub fn new(card: C, seed: Vec<u8>) -> Lying<C> {
        let known = Known { addresses: [0; REMEMBERED], next: 0 };
        Lying { card, seed: Seed { octets: seed, at: 0 }, known }
    }

    /// The card behind the lies.
    pub fn honest(&mut self) -> &mut C {
        &mut self.card
    }

    /// All octets of the seed are used: the card is honest from now on.
    pub fn is_honest(&self) -> bool {
        self.seed.at >= self.seed.octets.len()
    }

    /// Does something with memory that is lied about, and then perhaps writes where nobody asked for it.
    fn with<R>(&mut self, memory: &mut dyn Memory, act: impl FnOnce(&mut C, &mut dyn Memory) -> R) -> R {
        let mut lying = LyingMemory { memory, seed: &mut self.seed, known: &mut self.known };
        let result = act(&mut self.card, &mut lying);
        lying.scribble();
        result
    }
}

/// Memory behind a card that lies.
struct LyingMemory<'a> {
    memory: &'a mut dyn Memory,
    seed: &'a mut Seed,
    known: &'a mut Known,
}

impl LyingMemory<'_> {
    fn remember(&mut self, iova: u64) {
        self.known.addresses[self.known.next % REMEMBERED] = iova;
        self.known.next += 1;
    }

    /// Writes eight octets at an address that was used before, or near it.
    fn scribble(&mut self) {
        if self.seed.next() < LIES {
            return;
        }
        let place = usize::from(self.seed.next()) % REMEMBERED;
        let near = u64::from(self.seed.next()) * 8;
        let octets = [self.seed.word().to_le_bytes(), self.seed.word().to_le_bytes()].concat();
        self.memory.write(self.known.addresses[place].wrapping_add(near), &octets);
    }
}

impl Memory for LyingMemory<'_> {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool {
        self.remember(iova);
        self.memory.read(iova, to)
    }

    /// A write of the card's is done, is not done, is done twice, or has a wrong word. Frames pass, descriptors do not.
    fn write(&mut self, iova: u64, from: &[u8]) -> bool {
        self.remember(iova);
        if from.len() > 16 {
            return self.memory.write(iova, from);
        }
        match self.seed.next() {
            0..LIES => self.memory.write(iova, from),
            0xF0..=0xF1 => true,
            0xF2..=0xF3 => self.memory.write(iova, from) && self.memory.write(iova.wrapping_add(16), from),
            octet => {
                let mut wrong = [0; 16];
                let wrong = &mut wrong[..from.len()];
                wrong.copy_from_slice(from);
                let at = usize::from(octet) * 4 % from.len().max(1);
                let word = self.seed.word().to_le_bytes();
                wrong.iter_mut().skip(at).zip(word).for_each(|(to, from)| *to = from);
                self.memory.write(iova, wrong)
            }
        }
    }
}

impl<C: Card> Card for Lying<C> {
    fn read(&mut self, at: u32, size: u8) -> u64 {
        let honest = self.card.read(at, size);
        match self.seed.next() {
            0..LIES => honest,
            0xF0..=0xF2 => u64::from(u32::MAX),
            0xF3..=0xF5 => 0,
            0xF6..=0xFA => honest ^ 1 << (self.seed.next() % 32),
            _ => self.seed.word().into(),
        }
    }

    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory) {
        self.with(memory, |card, memory| card.write(at, size, value, memory));
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        self.with(memory, |card, memory| card.receive(frame, memory))
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.card.sent()
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        self.card.take_sent(to);
    }

    fn interrupts(&mut self) -> u32 {
        let honest = self.card.interrupts();
        match self.seed.next() {
            0..LIES => honest,
            0xF0..=0xF7 => 0,
            _ => self.seed.word(),
        }
    }

    fn set_link(&mut self, up: bool, memory: &mut dyn Memory) {
        self.with(memory, |card, memory| card.set_link(up, memory));
    }

    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory) {
        self.with(memory, |card, memory| card.set_paused(paused, memory));
    }

    fn send_some(&mut self, frames: u32, memory: &mut dyn Memory) {
        self.with(memory, |card, memory| card.send_some(frames, memory));
    }

    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory) {
        // Without the bus, no lie reaches memory.
        self.card.set_bus_master(on, memory);
    }

    fn reset(&mut self) {
        self.card.reset();
    }

    fn pull_out(&mut self) {
        self.card.pull_out();
    }

    fn link_losses(&self) -> u32 {
        self.card.link_losses()
    }

    fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory) {
        self.with(memory, |card, memory| card.pass_time(microseconds, memory));
    }

    fn complaints(&self) -> &[String] {
        self.card.complaints()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, frame};
    use crate::{Pf, PfSettings};

    fn lying(seed: Vec<u8>) -> Driver<Lying<Pf>> {
        Driver::of(Lying::new(Pf::new(PfSettings::default()), seed), [0x1000, 0x6000])
    }

    #[test]
    fn a_seed_of_zeroes_is_an_honest_card() {
        let mut driver = lying(Vec::new());
        driver.start();
        assert!(driver.arrives(&frame(100)));
        assert_eq!(driver.received().unwrap().frame, frame(100));
        assert_eq!(driver.sends(&frame(100)).unwrap(), frame(100));
        driver.content();
    }

    #[test]
    fn registers_and_descriptors_are_as_the_seed_says() {
        let mut driver = lying(vec![0xF0, 0xF6, 7, 0xFF, 1, 2, 3, 4]);
        assert_eq!([driver.get(0x8), driver.get(0x8), driver.get(0x8)], [u32::MAX, 1 << 19, 0x0403_0201]);
        let mut driver = lying(Vec::new());
        driver.start();
        // The descriptor of the frame is lost, then something is written where the ring begins.
        driver.card.seed = Seed { octets: vec![0xF0], at: 0 };
        assert!(driver.arrives(&frame(60)));
        assert_eq!(driver.received(), None);
    }
}
