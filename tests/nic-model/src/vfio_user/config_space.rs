//! The configuration space of the card's function (PCI 3.0, section 6; PCI Express 3.0, section 7; the 82599's data
//! sheet, section 9): header, power management, MSI-X, PCI Express. No extended capabilities.

use super::Function;

/// Octets of it.
pub const SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const BARS: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const POWER: usize = 0x40;
const MSIX: usize = 0x70;
const EXPRESS: usize = 0xa0;

const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const CAPABILITY_LIST: u16 = 1 << 4;
const BAR_64: u32 = 0b100;
/// PBA of MSI-X, behind its table.
const PENDING: u32 = 0x2000;
const DEVICE_CONTROL: usize = EXPRESS + 8;
const FUNCTION_LEVEL_RESET: u16 = 1 << 15;

/// What a function has there, and which bits can be written.
pub struct ConfigSpace {
    octets: Vec<u8>,
    writable: Vec<u8>,
}

impl ConfigSpace {
    /// As after a reset.
    pub fn new(function: Function) -> ConfigSpace {
        let mut space = ConfigSpace { octets: vec![0; SIZE], writable: vec![0; SIZE] };
        space.header(function);
        space.capabilities(function);
        space
    }

    fn header(&mut self, function: Function) {
        self.set16(0, 0x8086);
        self.set16(2, function.device_id());
        // INTx is off as there is no pin for it.
        self.allow16(COMMAND, MEMORY_SPACE | BUS_MASTER | 1 << 6 | 1 << 8 | 1 << 10);
        self.set16(STATUS, CAPABILITY_LIST);
        // An Ethernet controller.
        self.set32(REVISION, 0x0200_0001);
        self.set16(SUBSYSTEM, 0x8086);
        self.set16(SUBSYSTEM + 2, 0x0003);
        self.set16(CAPABILITIES, POWER as u16);
        for bar in [0, function.msix_bar()] {
            let at = BARS + 4 * bar;
            let size = function.bar_size(bar) as u32;
            self.set32(at, BAR_64);
            self.allow32(at, !(size - 1));
            self.allow32(at + 4, !0);
        }
    }

    fn capabilities(&mut self, function: Function) {
        self.set16(POWER, 0x01 | (MSIX as u16) << 8);
        self.set16(POWER + 2, 3);
        // No soft reset on the way from D3hot to D0.
        self.set16(POWER + 4, 1 << 3);
        self.allow16(POWER + 4, 0b11);

        self.set16(MSIX, 0x11 | (EXPRESS as u16) << 8);
        self.set16(MSIX + 2, function.vectors() - 1);
        self.allow16(MSIX + 2, 0b11 << 14);
        self.set32(MSIX + 4, function.msix_bar() as u32);
        self.set32(MSIX + 8, PENDING | function.msix_bar() as u32);

        // Version 2, an endpoint: 512 octets of payload, function-level reset; a link of 8 lanes at 5 GT/s.
        self.set16(EXPRESS, 0x10);
        self.set16(EXPRESS + 2, 2);
        self.set32(EXPRESS + 4, 1 << 28 | 1 << 15 | 0b010);
        self.set16(DEVICE_CONTROL, 0x2810);
        self.allow16(DEVICE_CONTROL, 0x7fff);
        self.set32(EXPRESS + 12, 8 << 4 | 2);
        self.set16(EXPRESS + 18, 8 << 4 | 2);
    }

    /// Reads octets; zeroes behind the end.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        for (octet, at) in to.iter_mut().zip(at..) {
            *octet = self.octets.get(at).copied().unwrap_or_default();
        }
    }

    /// Writes what can be written. True: the function is to be reset.
    pub fn write(&mut self, at: usize, from: &[u8]) -> bool {
        let mut reset = false;
        for (written, at) in from.iter().zip(at..) {
            let mask = self.writable.get(at).copied().unwrap_or_default();
            if let Some(octet) = self.octets.get_mut(at) {
                *octet = (*octet & !mask) | (written & mask);
            }
            reset |= at == DEVICE_CONTROL + 1 && written & (FUNCTION_LEVEL_RESET >> 8) as u8 != 0;
        }
        reset
    }

    /// The function may start transactions.
    pub fn is_bus_master(&self) -> bool {
        self.octets.get(COMMAND).is_some_and(|octet| octet & BUS_MASTER as u8 != 0)
    }

    fn set16(&mut self, at: usize, value: u16) {
        put(&mut self.octets, at, &value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        put(&mut self.octets, at, &value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        put(&mut self.writable, at, &mask.to_le_bytes());
    }

    fn allow32(&mut self, at: usize, mask: u32) {
        put(&mut self.writable, at, &mask.to_le_bytes());
    }
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    let places = octets.get_mut(at..).unwrap_or_default();
    places.iter_mut().zip(value).for_each(|(place, octet)| *place = *octet);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_its_size() {
        let mut space = ConfigSpace::new(Function::Physical);
        space.write(BARS, &[0xff; 8]);
        let mut octets = [0; 8];
        space.read(BARS, &mut octets);
        assert_eq!(!(u64::from_le_bytes(octets) & !0xf) + 1, Function::Physical.bar_size(0));
    }

    #[test]
    fn capabilities_are_a_chain() {
        for function in [Function::Physical, Function::Virtual] {
            let space = ConfigSpace::new(function);
            let (mut at, mut ids) = (usize::from(space.octets[CAPABILITIES]), Vec::new());
            while at != 0 {
                ids.push(space.octets[at]);
                at = usize::from(space.octets[at + 1]);
            }
            assert_eq!(ids, [0x01, 0x11, 0x10]);
        }
    }

    #[test]
    fn the_bus_master_and_a_reset_are_told() {
        let mut space = ConfigSpace::new(Function::Virtual);
        assert!(!space.is_bus_master());
        assert!(!space.write(COMMAND, &6_u16.to_le_bytes()) && space.is_bus_master());
        assert!(space.write(DEVICE_CONTROL, &0xa810_u16.to_le_bytes()));
        assert!(!space.write(0, &[0; 4]) && space.octets[..2] == 0x8086_u16.to_le_bytes());
    }
}
