//! No driver breaks the model, whatever it writes: the model is in front of whole operating systems.

use crate::testing::packet;
use crate::{Card, Lying, Pf, PfSettings, Ram, Vf, VfSettings};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as u32) % most
    }
}

/// Rings lie in memory that is full of numbers, registers of queues are written more often than others.
fn abuse(card: &mut dyn Card, queues: [u32; 2], seed: u64) {
    let mut numbers = Numbers(seed);
    let mut ram = Ram::new(0, 1 << 16);
    ram.octets.iter_mut().for_each(|octet| *octet = numbers.below(256) as u8);
    // Advanced descriptors, so that more than the first check is seen.
    for at in (0..ram.octets.len()).step_by(16).filter(|at| at % 48 != 0) {
        ram.octets[at + 2..at + 8].fill(0);
        ram.octets[at + 10] = ram.octets[at + 10] & 0xF | [0x20, 0x30][at / 16 % 2];
        ram.octets[at + 11] |= 1 << 5;
    }
    let (frame, _) = packet(false, 1, 500, 0);
    for _ in 0..3000 {
        let queue = queues[numbers.below(2) as usize];
        let at = match numbers.below(4) {
            0 => numbers.below(0x2_0000 / 4) * 4,
            1 => [0x5818, 0x4A80, 0x3000, 0x4240, 0x5080, 0x2FC, 0x200, 0x0][numbers.below(8) as usize],
            _ => queue + numbers.below(16) * 4,
        };
        let value = match numbers.below(5) {
            0 => u32::MAX,
            1 => 1 << numbers.below(32),
            2 => numbers.below(64),
            3 => 128 << numbers.below(10),
            _ => numbers.below(u32::MAX),
        };
        match numbers.below(8) {
            0 => drop(card.read(at, 4)),
            1 => drop(card.receive(&frame[..numbers.below(frame.len() as u32) as usize], &mut ram)),
            2 => card.pass_time(numbers.below(300), &mut ram),
            3 => drop(card.sent()),
            _ => card.write(at, 4, value.into(), &mut ram),
        }
    }
    card.take_sent(&mut |_| {});
    card.interrupts();
}

#[test]
fn no_driver_breaks_a_physical_function() {
    for seed in 0..16 {
        abuse(&mut Pf::new(PfSettings::default()), [0x1000, 0x6000], seed);
    }
}

#[test]
fn no_driver_breaks_a_virtual_function() {
    for seed in 0..16 {
        let mut card = Vf::new(VfSettings { slow: 1, ..VfSettings::default() });
        abuse(&mut card, [0x1000, 0x2000], seed);
    }
}

#[test]
fn no_driver_breaks_a_card_that_lies() {
    for seed in 0..16 {
        let mut numbers = Numbers(seed + 1000);
        let octets = (0..3000).map(|_| numbers.below(256) as u8).collect();
        abuse(&mut Lying::new(Pf::new(PfSettings::default()), octets), [0x1000, 0x6000], seed);
    }
}
