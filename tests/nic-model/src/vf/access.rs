//! Which part of the virtual function answers for a register (data sheet, 8.3).

use super::Vf;
use crate::{Card, Memory};

/// LINKS: up, at 10 Gbit/s.
pub(super) const LINKS_UP: u32 = 1 << 30 | 3 << 28;
/// Registers of interrupts, and where the physical function has the same.
const INTERRUPTS: [(u32, u32); 6] =
    [(0x100, 0x800), (0x104, 0x808), (0x108, 0x880), (0x10C, 0x888), (0x110, 0x810), (0x114, 0x890)];
pub(super) const VTIVAR_MISC: u32 = 0x0140;
pub(super) const VFCTRL: u32 = 0x0000;
pub(super) const RST: u32 = 1 << 26;

impl Vf {
    pub(super) fn counters(&mut self) -> &[u64; 5] {
        let [received, sent] = std::mem::take(&mut self.function.tallies);
        let new = [received.frames.into(), received.octets, sent.frames.into(), sent.octets, received.multicast.into()];
        self.counts.iter_mut().zip(new).for_each(|(count, new)| *count += new);
        &self.counts
    }

    /// The driver reads a register; none if there is none.
    pub(super) fn read_register(&mut self, at: u32) -> Option<u32> {
        let counted = match at {
            0x101C => Some((0, 0)),
            0x1020 => Some((1, 0)),
            0x1024 => Some((1, 32)),
            0x201C => Some((2, 0)),
            0x2020 => Some((3, 0)),
            0x2024 => Some((3, 32)),
            0x1034 => Some((4, 0)),
            _ => None,
        };
        if let Some((index, shift)) = counted {
            let mask = if shift == 32 { 0xF } else { u32::MAX };
            return Some((self.counters()[index] >> shift) as u32 & mask);
        }
        if let Some((queue, offset)) = receive_at(at) {
            return self.function.receiver.queues.get_mut(queue)?.read(offset);
        }
        if let Some((queue, offset)) = transmit_at(at) {
            return self.function.transmit.get_mut(queue)?.read(offset);
        }
        if let Some(at) = interrupt_at(at) {
            return self.function.interrupts.read(at);
        }
        if let Some(word) = self.mailbox.read(at, &mut self.pool, self.link) {
            return Some(word);
        }
        Some(match at {
            VFCTRL => 0,
            // VFSTATUS: the card masters the bus.
            0x0008 => 1 << 19,
            0x0010 => LINKS_UP * u32::from(self.link),
            0x0048 => {
                self.timer = self.timer.wrapping_add(1);
                self.timer
            }
            VTIVAR_MISC => self.stored[1],
            0x0300 => self.stored[0],
            0x3190 => 0,
            _ => return None,
        })
    }

    /// The driver writes a register. False: there is none.
    pub(super) fn write_register(&mut self, at: u32, value: u32, memory: &mut dyn Memory) -> bool {
        if let Some((queue, offset)) = receive_at(at) {
            let known = self.function.receiver.write(queue, offset, value, &mut self.function.complaints);
            if offset == 0x18 {
                self.retry(memory);
            }
            return known;
        }
        if let Some((queue, offset)) = transmit_at(at) {
            let Some(it) = self.function.transmit.get_mut(queue) else { return false };
            let known = it.write(offset, value, &mut self.function.complaints);
            if matches!(offset, 0x18 | 0x28) {
                self.send(queue, u32::MAX, memory);
            }
            return known;
        }
        let (pool, complaints) = (&mut self.pool, &mut self.function.complaints);
        if let Some(at) = interrupt_at(at) {
            return self.function.interrupts.write(at, value, complaints);
        }
        if self.mailbox.write(at, value, pool, self.link, complaints) {
            self.notify();
            return true;
        }
        match at {
            VFCTRL if value & RST != 0 => self.reset(),
            VFCTRL => {}
            VTIVAR_MISC => self.stored[1] = value,
            0x0300 => self.stored[0] = value,
            // VTRSCINT.
            0x0180..0x0200 => {}
            _ => return false,
        }
        true
    }
}

fn receive_at(at: u32) -> Option<(usize, u32)> {
    // QPRC and its like are the physical function's.
    let queue = (0x1000..0x1200).contains(&at).then(|| ((at as usize - 0x1000) / 0x40, at % 0x40));
    queue.filter(|(_, at)| *at < 0x30)
}

fn transmit_at(at: u32) -> Option<(usize, u32)> {
    let queue = (0x2000..0x2200).contains(&at).then(|| ((at as usize - 0x2000) / 0x40, at % 0x40));
    queue.filter(|(_, at)| !matches!(at, 0x2C..0x38))
}

/// The physical function's register of interrupts that is like this one.
fn interrupt_at(at: u32) -> Option<u32> {
    match at {
        0x0120..0x0130 => Some(at - 0x0120 + 0x0900),
        0x0820..0x082C => Some(at),
        _ => INTERRUPTS.iter().find_map(|(own, other)| (*own == at).then_some(*other)),
    }
}
