//! The physical function 8086:10fb: how its parts act on each other.

mod access;
mod intake;
#[cfg(test)]
mod tests;

use crate::eeprom::Eeprom;
use crate::function::{Function, padded};
use crate::interrupts::LSC;
use crate::link::Link;
use crate::registers::{self as reg, BAR_SIZE, Registers};
use crate::sfp::Sfp;
use crate::{Card, Memory};

/// Queues of each direction.
const QUEUES: usize = 128;
/// RXCTRL and DMATXCTL: the direction is on.
const ON: u32 = 1;

/// How the card is built and wired.
#[derive(Clone, Copy, Debug)]
pub struct PfSettings {
    /// Its address in the EEPROM.
    pub mac: [u8; 6],
    /// The wire is plugged in.
    pub link: bool,
}

impl Default for PfSettings {
    fn default() -> PfSettings {
        PfSettings { mac: [0x02, 0x82, 0x59, 0x90, 0x10, 0xFB], link: true }
    }
}

/// The physical function.
pub struct Pf {
    settings: PfSettings,
    function: Function,
    registers: Registers,
    link: Link,
    eeprom: Eeprom,
    sfp: Sfp,
    /// CTRL shows a reset that is under way at the next read.
    resetting: bool,
    timer: u32,
    /// The frame that comes now is damaged.
    damaged: bool,
}

impl Pf {
    /// A card that has just got power.
    pub fn new(settings: PfSettings) -> Pf {
        let mut it = Pf {
            settings,
            function: Function::new(QUEUES),
            registers: Registers::default(),
            link: Link::new(settings.link),
            eeprom: Eeprom::new(settings.mac),
            sfp: Sfp::default(),
            resetting: false,
            timer: 0,
            damaged: false,
        };
        it.reset_port();
        it
    }

    /// A frame comes that was damaged on the way: it is dropped, unless the driver wants to see such frames (FCTRL.SBP).
    pub fn receive_damaged(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        self.registers.count(reg::CRCERRS, 1);
        if self.registers.get(reg::FCTRL) & reg::SBP == 0 {
            return false;
        }
        self.damaged = true;
        let stored = self.receive(frame, memory);
        self.damaged = false;
        stored
    }

    /// A statistic for which the model has no cause: the register counts so many more.
    pub fn count(&mut self, at: u32, more: u32) {
        self.registers.count(at, more);
    }

    /// What a software reset does (data sheet, 4.2.1.6). The link stays, the EEPROM is read again.
    fn reset_port(&mut self) {
        self.registers.reset();
        self.function.reset();
        let mac = self.settings.mac;
        self.registers.set(reg::RAL, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        self.registers.set(reg::RAL + 4, u32::from(u16::from_le_bytes([mac[4], mac[5]])) | 1 << 31);
    }

    fn send(&mut self, queue: usize, memory: &mut dyn Memory) {
        if !self.function.paused {
            self.send_at_most(queue, u32::MAX, memory);
        }
    }

    fn send_at_most(&mut self, queue: usize, most: u32, memory: &mut dyn Memory) {
        if self.link.up() && self.registers.get(reg::DMATXCTL) & ON != 0 {
            self.function.send(queue, most, memory);
        }
    }

    fn send_all(&mut self, memory: &mut dyn Memory) {
        (0..QUEUES).for_each(|queue| self.send(queue, memory));
    }
}

impl Card for Pf {
    fn read(&mut self, at: u32, size: u8) -> u64 {
        if self.function.gone {
            return u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        }
        if size == 8 {
            return self.read(at, 4) | self.read(at.wrapping_add(4), 4) << 32;
        }
        let known = if size == 4 && at.is_multiple_of(4) && at < BAR_SIZE { self.read_register(at) } else { None };
        u64::from(known.unwrap_or_else(|| {
            self.function.complaints.add(format!("a read of {size} octets of {}", reg::name(at)));
            0
        }))
    }

    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory) {
        if self.function.gone {
            return;
        }
        if size == 8 {
            self.write(at, 4, value & 0xFFFF_FFFF, memory);
            return self.write(at.wrapping_add(4), 4, value >> 32, memory);
        }
        let valid = size == 4 && at.is_multiple_of(4) && at < BAR_SIZE;
        if !valid || !self.write_register(at, value as u32, memory) {
            self.function.complaints.add(format!("a write of {size} octets, {value:#x}, to {}", reg::name(at)));
        }
    }

    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        if self.function.gone || !self.link.up() || self.registers.get(reg::RXCTRL) & ON == 0 {
            return false;
        }
        padded(frame, |frame| self.intake(frame, memory))
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.function.sent.pop()
    }

    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        self.function.sent.take(to);
    }

    fn interrupts(&mut self) -> u32 {
        self.function.interrupts.take()
    }

    fn set_link(&mut self, up: bool, memory: &mut dyn Memory) {
        if self.link.plug(up) {
            self.function.interrupts.other(LSC);
        }
        self.send_all(memory);
    }

    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory) {
        self.function.paused = paused;
        self.send_all(memory);
    }

    fn send_some(&mut self, frames: u32, memory: &mut dyn Memory) {
        self.send_at_most(0, frames, memory);
    }

    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory) {
        self.function.bus_master = on;
        self.send_all(memory);
        self.retry(memory);
    }

    fn reset(&mut self) {
        self.reset_port();
        self.link.reset();
        self.resetting = false;
    }

    fn pull_out(&mut self) {
        self.function.gone = true;
    }

    fn link_losses(&self) -> u32 {
        self.link.losses()
    }

    fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory) {
        self.timer = self.timer.wrapping_add(microseconds);
        self.function.pass_time(microseconds, memory);
    }

    fn complaints(&self) -> &[String] {
        self.function.complaints.all()
    }
}
