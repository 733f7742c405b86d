//! The virtual function of the 82576, 8086:10ca (82576 data sheet, 7.8 and 8.14 to 8.27): the same parts as the 82599's,
//! behind registers at other places, with other messages and other bits in a received descriptor.

use crate::vf::{Vf, VfModel, VfSettings};
use crate::{Card, Memory, Pool};

/// VTSTATUS: full duplex, link up, 1,000 Mbit/s, the card masters the bus.
const STATUS: u32 = 0x0008;
const FULL_DUPLEX: u32 = 1;
const LINK_UP: u32 = 1 << 1;
const SPEED_1000: u32 = 1 << 7;
const MASTER: u32 = 1 << 19;
/// SRRCTL: frames without a descriptor are dropped, here and in the 82599.
const DROP: u32 = 1 << 31;
const DROP_82599: u32 = 1 << 28;
/// Timers of three vectors, in microseconds from bit 2 on.
const EITR: std::ops::Range<u32> = 0x1680..0x168C;

/// The virtual function.
pub struct IgbVf {
    vf: Vf,
    timers: [u32; 3],
}

impl IgbVf {
    /// A function of a physical one whose driver runs. Versions of messages and granted queues do not exist here.
    pub fn new(settings: VfSettings) -> IgbVf {
        IgbVf { vf: Vf::of(settings, VfModel::Igb), timers: [0; 3] }
    }

    /// What the physical function's driver knows of it.
    pub fn pool(&self) -> &Pool {
        self.vf.pool()
    }

    /// The physical function begins to reset.
    pub fn pf_resets(&mut self) {
        self.vf.pf_resets();
    }

    /// The physical function is back.
    pub fn pf_is_back(&mut self) {
        self.vf.pf_is_back();
    }
}

/// Where the 82599's virtual function has this register.
fn like(at: u32) -> Option<u32> {
    Some(match at {
        0x0000 => 0x0000,
        0x1048 => 0x0048,
        0x1520..=0x1530 => 0x0104 + at - 0x1520,
        0x1580 => 0x0100,
        0x1700 => 0x0120,
        0x1740 => 0x0140,
        // PSRTYPE.
        0x0F0C => 0x0300,
        0x0C40 => 0x02FC,
        0x0800..0x0840 => 0x0200 + at - 0x0800,
        0x2800..0x2A00 => 0x1000 + (at - 0x2800) / 0x100 * 0x40 + queue_offset(at, 0x14)?,
        0x3800..0x3A00 => 0x2000 + (at - 0x3800) / 0x100 * 0x40 + queue_offset(at, 0x30)?,
        0x0F10 => 0x101C,
        0x0F14 => 0x201C,
        0x0F18 => 0x1020,
        0x0F34 => 0x2020,
        0x0F3C => 0x1034,
        _ => return None,
    })
}

/// The offset in a queue; `control` is where SRRCTL is, which only receive queues have.
fn queue_offset(at: u32, control: u32) -> Option<u32> {
    match at % 0x100 {
        0x0C if control == 0x14 => Some(control),
        0x14 => Some(0x0C),
        offset @ (0x00..=0x08 | 0x10 | 0x18 | 0x28 | 0x38 | 0x3C) => Some(offset),
        _ => None,
    }
}

fn is_srrctl(at: u32) -> bool {
    matches!(at, 0x280C | 0x290C)
}

impl Card for IgbVf {
    fn read(&mut self, at: u32, size: u8) -> u64 {
        match at {
            _ if self.vf.is_gone() => self.vf.read(at, size),
            STATUS => {
                let up = if self.vf.link_is_up() { LINK_UP | SPEED_1000 } else { 0 };
                u64::from(FULL_DUPLEX | MASTER | up)
            }
            // Frames that went from one function to another: none.
            0x0F40 | 0x0F44 | 0x0F48 | 0x0F50 => 0,
            _ if EITR.contains(&at) => self.timers[(at - EITR.start) as usize / 4].into(),
            _ => match like(at) {
                Some(there) => {
                    let value = self.vf.read(there, size);
                    let drops = is_srrctl(at) && value & u64::from(DROP_82599) != 0;
                    value | if drops { u64::from(DROP) } else { 0 }
                }
                None => {
                    self.vf.complain(format!("a read of {at:#06x} of a virtual function of the 82576"));
                    0
                }
            },
        }
    }

    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory) {
        if EITR.contains(&at) {
            let timer = (at - EITR.start) as usize / 4;
            self.timers[timer] = value as u32 & 0x7FFC;
            let interval = (u64::from(self.timers[timer] >> 2) * 1000 / 2048).min(0x1FF);
            return self.vf.write(0x0820 + timer as u32 * 4, size, interval << 3, memory);
        }
        let drops = is_srrctl(at) && value & u64::from(DROP) != 0;
        let value = if drops { value & !u64::from(DROP) | u64::from(DROP_82599) } else { value };
        match like(at) {
            Some(there) => self.vf.write(there, size, value, memory),
            None => self.vf.complain(format!("a write of {value:#x} to {at:#06x} of a virtual function of the 82576")),
        }
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        self.vf.receive(frame, memory)
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.vf.sent()
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        self.vf.take_sent(to);
    }

    fn interrupts(&mut self) -> u32 {
        self.vf.interrupts()
    }

    fn set_link(&mut self, up: bool, memory: &mut dyn Memory) {
        self.vf.set_link(up, memory);
    }

    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory) {
        self.vf.set_paused(paused, memory);
    }

    fn send_some(&mut self, frames: u32, memory: &mut dyn Memory) {
        self.vf.send_some(frames, memory);
    }

    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory) {
        self.vf.set_bus_master(on, memory);
    }

    fn reset(&mut self) {
        self.vf.reset();
    }

    fn pull_out(&mut self) {
        self.vf.pull_out();
    }

    fn link_losses(&self) -> u32 {
        self.vf.link_losses()
    }

    fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory) {
        self.vf.pass_time(microseconds, memory);
    }

    fn complaints(&self) -> &[String] {
        self.vf.complaints()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ram;
    use crate::testing::{frame, packet};

    const BASE: u64 = 0x10_0000;

    struct Machine {
        card: IgbVf,
        ram: Ram,
    }

    impl Machine {
        fn get(&mut self, at: u32) -> u32 {
            self.card.read(at, 4) as u32
        }

        fn write(&mut self, at: u32, value: u32) {
            self.card.write(at, 4, value.into(), &mut self.ram);
        }

        fn ask(&mut self, words: &[u32]) -> [u32; 3] {
            self.write(0x0C40, 1 << 2);
            (0..).zip(words).for_each(|(at, word)| self.write(0x0800 + 4 * at, *word));
            self.write(0x0C40, 1);
            assert_eq!(self.get(0x0C40) & 0x30, 0x30);
            let answer = [0, 1, 2].map(|at| self.get(0x0800 + 4 * at));
            self.write(0x0C40, 1 << 1);
            answer
        }

        /// A function whose queue runs: eight descriptors each way, buffers of 2 KiB.
        fn running() -> Machine {
            let mut it = Machine { card: IgbVf::new(VfSettings::default()), ram: Ram::new(BASE, 1 << 20) };
            it.write(0x0000, 1 << 26);
            assert_eq!(it.ask(&[1])[0], 1 | 1 << 31);
            for (queue, at) in [(0x2800, BASE), (0x3800, BASE + 0x1000)] {
                it.write(queue, at as u32);
                it.write(queue + 8, 128);
            }
            it.write(0x280C, 1 << 25 | 2);
            for at in 0..8 {
                it.ram.write(BASE + at * 16, &u128::from(BASE + 0x1_0000 + at * 2048).to_le_bytes());
            }
            it.write(0x2828, 1 << 25);
            it.write(0x3828, 1 << 25);
            it.write(0x2818, 7);
            it
        }
    }

    fn own(mut frame: Vec<u8>, at: usize) -> Vec<u8> {
        frame[at..at + 6].copy_from_slice(&VfSettings::default().mac.unwrap());
        frame
    }

    #[test]
    fn frames_go_both_ways() {
        let mut it = Machine::running();
        assert!(it.card.receive(&own(frame(100), 0), &mut it.ram));
        assert_eq!(it.ram.at(BASE + 0x1_0000, 100).unwrap(), own(frame(100), 0));
        let sent = own(frame(77), 6);
        it.ram.write(BASE + 0x8000, &sent);
        let high = 77u128 | 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29 | 77 << 46;
        it.ram.write(BASE + 0x1000, &(high << 64 | u128::from(BASE + 0x8000)).to_le_bytes());
        it.write(0x3818, 1);
        assert_eq!(it.card.sent().unwrap(), sent);
        assert_eq!((it.get(0x0F10), it.get(0x0F14), it.get(0x3810)), (1, 1, 1));
        assert_eq!(it.card.complaints(), [] as [String; 0]);
    }

    #[test]
    fn errors_are_one_bit_lower_than_in_the_82599() {
        let mut it = Machine::running();
        let (mut udp, context) = packet(false, 0, 50, 0);
        crate::offload::insert(&mut udp, &context, true, true, &mut crate::Complaints::default());
        let udp = own(udp, 0);
        let mut wrong = udp.clone();
        wrong[60] ^= 1;
        let mut unchecked = udp.clone();
        unchecked[40..42].fill(0);
        for (at, (frame, expected)) in [(udp, 0x73), (wrong, 0x73 | 1 << 29), (unchecked, 0x43)].into_iter().enumerate()
        {
            assert!(it.card.receive(&frame, &mut it.ram));
            let status = it.ram.at(BASE + at as u64 * 16 + 8, 4).unwrap();
            assert_eq!(u32::from_le_bytes(status.try_into().unwrap()), expected, "frame {at}");
        }
    }

    #[test]
    fn messages_are_those_of_igb() {
        let mut it = Machine::running();
        assert_ne!(it.ask(&[8, 3])[0] & 1 << 30, 0, "no versions");
        assert_ne!(it.ask(&[6 | 1 << 16])[0] & 1 << 30, 0, "not promiscuous");
        assert_ne!(it.ask(&[6 | 2 << 16])[0] & 1 << 31, 0, "all groups");
        let mut group = frame(60);
        group[0] = 0x33;
        assert!(it.card.receive(&group, &mut it.ram));
        assert_eq!(it.get(STATUS) & 0xC2, LINK_UP | SPEED_1000);
    }
}
