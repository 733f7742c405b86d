//! Which part of the physical function answers for a register.

use super::{ON, Pf};
use crate::Memory;
use crate::interrupts::LSC;
use crate::registers::{self as reg, Kind, QUEUE};

/// CTRL: the card masters no more, the link is reset, all is reset.
const GIO_DIS: u32 = 1 << 2;
const LNK_RST: u32 = 1 << 3;
const RST: u32 = 1 << 26;
/// Registers that the model keeps without doing what they ask for.
const FDIRCTRL: u32 = 0xEE00;
const FDIRCMD: u32 = 0xEE2C;
const MSCA: u32 = 0x425C;
const MSRWD: u32 = 0x4260;
const PSRTYPE_LOW: u32 = 0x5480;
const PSRTYPE: u32 = 0xEA00;
const VT_CTL: u32 = 0x51B0;

/// The receive queue whose register is at `at`, and the offset in it.
fn receive_at(at: u32) -> Option<(usize, u32)> {
    let (queue, offset) = match at {
        0x1000..0x2000 => ((at - reg::RECEIVE) / QUEUE, at % QUEUE),
        0xD000..0xE000 => ((at - reg::RECEIVE_HIGH) / QUEUE + 64, at % QUEUE),
        0x2100..0x2140 => ((at - reg::SRRCTL) / 4, 0x14),
        0x2200..0x2240 => ((at - reg::DCA_RXCTRL) / 4, 0x0C),
        _ => return None,
    };
    Some((queue as usize, offset))
}

/// The transmit queue whose register is at `at`, and the offset in it.
fn transmit_at(at: u32) -> Option<(usize, u32)> {
    (0x6000..0x8000).contains(&at).then(|| (((at - reg::TRANSMIT) / QUEUE) as usize, at % QUEUE))
}

impl Pf {
    /// The driver reads a register; none if the model does not know it.
    pub(super) fn read_register(&mut self, at: u32) -> Option<u32> {
        if let Some((queue, offset)) = receive_at(at) {
            let queues = &mut self.function.receiver.queues;
            // QPRDC of queue n is where QPRC of queue 16 + n would be (8.2.3.23.72).
            if offset == 0x30 && (16..32).contains(&queue) {
                return queues.get_mut(queue - 16).map(|queue| std::mem::take(&mut queue.dropped));
            }
            return queues.get_mut(queue)?.read(offset);
        }
        if let Some((queue, offset)) = transmit_at(at) {
            return self.function.transmit.get_mut(queue)?.read(offset);
        }
        match self.registers.kind(at) {
            Kind::Unknown => None,
            Kind::Stored | Kind::Fixed => Some(self.registers.get(at)),
            Kind::Counts => Some(self.take_count(at)),
            Kind::Own => self.read_own(at),
        }
    }

    fn take_count(&mut self, at: u32) -> u32 {
        let tallies = std::mem::take(&mut self.function.tallies);
        tallies[0].add(&mut self.registers, false);
        tallies[1].add(&mut self.registers, true);
        let value = self.registers.get(at);
        self.registers.set(at, 0);
        value
    }

    fn read_own(&mut self, at: u32) -> Option<u32> {
        let own = match at {
            reg::CTRL if std::mem::take(&mut self.resetting) => Some(self.registers.get(at) | RST),
            reg::STATUS => Some(self.status()),
            reg::I2CCTL => Some(self.sfp.read()),
            reg::FRTIMER => Some(self.tick()),
            0x5400..0x5480 => Some(self.registers.get(at - reg::RAL_LOW + reg::RAL)),
            FDIRCTRL => Some(self.registers.get(at) | 1 << 3),
            FDIRCMD => Some(self.registers.get(at) & !3),
            _ => None,
        };
        own.or_else(|| self.function.interrupts.read(at))
            .or_else(|| self.link.read(at))
            .or_else(|| self.eeprom.read(at))
            .or_else(|| Some(self.registers.get(at)))
    }

    fn tick(&mut self) -> u32 {
        self.timer = self.timer.wrapping_add(1);
        self.timer
    }

    fn status(&self) -> u32 {
        let master = self.registers.get(reg::CTRL) & GIO_DIS == 0;
        u32::from(self.link.up()) << 7 | u32::from(master) << 19
    }

    /// The driver writes a register. False: the model does not know it.
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
            if offset == 0x28 && it.ring.enabled && self.registers.get(reg::DMATXCTL) & ON == 0 {
                self.function.complaints.add("TXDCTL.ENABLE is set before DMATXCTL.TE (4.6.8)".into());
            }
            if matches!(offset, 0x18 | 0x28) {
                self.send(queue, memory);
            }
            return known;
        }
        match self.registers.kind(at) {
            Kind::Unknown => return false,
            Kind::Counts | Kind::Fixed => {}
            Kind::Stored => self.registers.set(at, value),
            Kind::Own => self.write_own(at, value, memory),
        }
        self.function.flags = [self.registers.get(reg::DTXTCPFLGL), self.registers.get(reg::DTXTCPFLGH)];
        true
    }

    fn write_own(&mut self, at: u32, value: u32, memory: &mut dyn Memory) {
        match at {
            reg::CTRL => return self.control(value),
            reg::QDE => return self.queue_drop(value),
            reg::I2CCTL => return self.sfp.write(value),
            0x5400..0x5480 => return self.registers.set(at - reg::RAL_LOW + reg::RAL, value),
            reg::RDRXCTL => return self.registers.set(at, value | 1 << 3),
            reg::STATUS | reg::FRTIMER => return,
            _ => {}
        }
        if let Some(lost) = self.link.write(at, value) {
            if lost {
                self.function.interrupts.other(LSC);
            }
            return;
        }
        if self.eeprom.write(at, value) || self.function.interrupts.write(at, value, &mut self.function.complaints) {
            return;
        }
        self.registers.set(at, value);
        match at {
            reg::DMATXCTL => self.send_all(memory),
            reg::RXCTRL if value & ON != 0 => self.doubt_receive(),
            // A command to a PHY that is not there is done at once.
            MSCA => {
                self.registers.set(at, value & !(1 << 30));
                self.registers.set(MSRWD, 0xFFFF_0000);
            }
            reg::MRQC if value & 0xF > 1 => self.function.complaints.add(format!("MRQC is {value:#x}: DCB or VMDq")),
            VT_CTL if value & 1 != 0 => self.function.complaints.add("VT_CTL: the model has no pools".into()),
            _ => {}
        }
    }

    fn control(&mut self, value: u32) {
        if value & (RST | LNK_RST) != 0 {
            self.reset_port();
            self.resetting = true;
        }
        if value & LNK_RST != 0 {
            self.link.reset();
        }
        self.registers.set(reg::CTRL, value & !(RST | LNK_RST));
    }

    /// QDE: ENABLE 0, IDX 8 to 14, WE 16.
    fn queue_drop(&mut self, value: u32) {
        let queue = (value >> 8 & 0x7F) as usize;
        if value & 1 << 16 != 0
            && let Some(queue) = self.function.receiver.queues.get_mut(queue)
        {
            queue.drops = value & 1 != 0;
        }
    }

    /// What must hold when reception begins (data sheet, 4.6.7).
    fn doubt_receive(&mut self) {
        let strips = [self.registers.get(reg::HLREG0), self.registers.get(reg::RDRXCTL)].map(|it| it & 2 != 0);
        if strips[0] != strips[1] {
            self.function.complaints.add("HLREG0.RXCRCSTRP is unlike RDRXCTL.CRCSTRIP (8.2.3.7.8)".into());
        }
        if self.function.receiver.queues.iter().any(|queue| queue.rscctl & 1 != 0) {
            self.doubt_joining(strips[0]);
        }
    }

    /// What must hold for queues that join segments (data sheet, 4.6.7.2).
    fn doubt_joining(&mut self, strips: bool) {
        let control = self.registers.get(reg::RDRXCTL);
        if control & 1 << 25 == 0 || control >> 17 & 0x1F != 0 || !strips {
            let why = "RSC with an RDRXCTL without RSCACKC and CRCSTRIP, or with a RSCFRSTSIZE";
            self.function.complaints.add(format!("{why}: {control:#x}"));
        }
        if (self.registers.get(PSRTYPE_LOW) | self.registers.get(PSRTYPE)) & 1 << 4 == 0 {
            self.function.complaints.add("RSC without PSR_type4 (TCP) in PSRTYPE".into());
        }
        for queue in self.function.receiver.queues.iter().filter(|queue| queue.rscctl & 1 != 0) {
            let most = [1, 4, 8, 16][(queue.rscctl >> 2 & 3) as usize] * queue.buffer();
            if most > 65_535 || queue.srrctl >> 8 & 0x3F < 2 {
                let why = "RSC of more than 65,535 octets, or with a BSIZEHEADER below 128";
                self.function.complaints.add(format!("{why}: {most}, SRRCTL {:#x}", queue.srrctl));
            }
        }
    }
}
