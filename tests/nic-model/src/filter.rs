//! Which frames the card takes (data sheet, 7.1.1).

use crate::registers::{self as reg, Registers};

/// FCTRL.
const MULTICAST: u32 = 1 << 8;
const UNICAST: u32 = 1 << 9;
const BROADCAST: u32 = 1 << 10;
/// HLREG0: frames longer than 1,518 octets.
const JUMBO: u32 = 1 << 2;
/// Octets of the check sequence.
const CHECK: usize = 4;

/// A frame has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Its address is one of the card's, or broadcast.
    Exact,
    /// By a hash, or since all pass.
    Inexact,
}

/// How long the frame may be, with its tag and without check sequence.
pub fn fits(registers: &Registers, len: usize, tagged: bool) -> bool {
    let tag = if tagged { 4 } else { 0 };
    let most = match registers.get(reg::HLREG0) & JUMBO {
        0 => 1518,
        _ => (registers.get(reg::MAXFRS) >> 16) as usize,
    };
    len + CHECK <= most + tag
}

/// The frame's addresses pass. `None`: they do not.
pub fn passes(registers: &Registers, frame: &[u8], vlan: Option<u16>) -> Option<Pass> {
    let destination: [u8; 6] = frame.get(..6)?.try_into().ok()?;
    let control = registers.get(reg::FCTRL);
    if registers.get(reg::VLNCTRL) & 1 << 30 != 0 && vlan.is_some_and(|tag| !vlan_passes(registers, tag)) {
        return None;
    }
    if destination == [0xFF; 6] {
        return (control & BROADCAST != 0).then_some(Pass::Exact);
    }
    if is_own(registers, destination) {
        return Some(Pass::Exact);
    }
    let promiscuous = if destination[0] & 1 != 0 { MULTICAST } else { UNICAST };
    (control & promiscuous != 0 || hashed(registers, destination)).then_some(Pass::Inexact)
}

fn is_own(registers: &Registers, destination: [u8; 6]) -> bool {
    let [a, b, c, d, e, f] = destination;
    let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([e, f])) | 1 << 31);
    (0..128)
        .any(|at| registers.get(reg::RAL + 8 * at) == low && registers.get(reg::RAL + 8 * at + 4) & 0x8000_FFFF == high)
}

/// The multicast table (data sheet, 8.2.3.7.7): twelve bits of the address are the place of a bit.
fn hashed(registers: &Registers, destination: [u8; 6]) -> bool {
    let control = registers.get(reg::MCSTCTRL);
    if destination[0] & 1 == 0 || control & 1 << 2 == 0 {
        return false;
    }
    let place = u32::from(hash(destination, control & 3));
    registers.get(reg::MTA + place / 32 * 4) & 1 << (place % 32) != 0
}

/// Twelve bits of a group's address; `offset` is MCSTCTRL.MO.
pub fn hash(destination: [u8; 6], offset: u32) -> u16 {
    let last = u16::from_le_bytes([destination[4], destination[5]]);
    match offset {
        0 => last >> 4,
        1 => last >> 3 & 0xFFF,
        2 => last >> 2 & 0xFFF,
        _ => last & 0xFFF,
    }
}

fn vlan_passes(registers: &Registers, tag: u16) -> bool {
    let id = u32::from(tag & 0xFFF);
    registers.get(reg::VFTA + id / 32 * 4) & 1 << (id % 32) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Registers {
        let mut it = Registers::default();
        it.set(reg::RAL + 8 * 3, 0x4433_2202);
        it.set(reg::RAL + 8 * 3 + 4, 0x6655 | 1 << 31);
        it
    }

    const OWN: [u8; 6] = [0x02, 0x22, 0x33, 0x44, 0x55, 0x66];
    const OTHER: [u8; 6] = [0x02, 0x22, 0x33, 0x44, 0x55, 0x67];
    const GROUP: [u8; 6] = [0x01, 0x00, 0x5E, 0x00, 0x12, 0x34];

    #[test]
    fn own_addresses_pass_and_others_by_promiscuity() {
        let mut it = card();
        assert_eq!(passes(&it, &OWN, None), Some(Pass::Exact));
        assert_eq!(
            (passes(&it, &OTHER, None), passes(&it, &GROUP, None), passes(&it, &[0xFF; 6], None)),
            (None, None, None)
        );
        it.set(reg::FCTRL, UNICAST);
        assert_eq!((passes(&it, &OTHER, None), passes(&it, &GROUP, None)), (Some(Pass::Inexact), None));
        it.set(reg::FCTRL, MULTICAST | BROADCAST);
        assert_eq!((passes(&it, &OTHER, None), passes(&it, &GROUP, None)), (None, Some(Pass::Inexact)));
        assert_eq!(passes(&it, &[0xFF; 6], None), Some(Pass::Exact));
        it.set(reg::RAL + 8 * 3 + 4, 0x6655);
        assert_eq!(passes(&it, &OWN, None), None);
    }

    #[test]
    fn groups_pass_by_their_hash() {
        let mut it = card();
        // Bits 36 to 47 of the address: 0x341.
        it.set(reg::MTA + 0x341 / 32 * 4, 1 << (0x341 % 32));
        assert_eq!(passes(&it, &GROUP, None), None);
        it.set(reg::MCSTCTRL, 1 << 2);
        assert_eq!(passes(&it, &GROUP, None), Some(Pass::Inexact));
    }

    #[test]
    fn tags_pass_by_the_table_if_it_is_used() {
        let mut it = card();
        assert_eq!(passes(&it, &OWN, Some(0x2005)), Some(Pass::Exact));
        it.set(reg::VLNCTRL, 0x8100 | 1 << 30);
        assert_eq!(passes(&it, &OWN, Some(0x2005)), None);
        it.set(reg::VFTA, 1 << 5);
        assert_eq!(passes(&it, &OWN, Some(0x2005)), Some(Pass::Exact));
    }

    #[test]
    fn longer_frames_pass_only_if_the_driver_says_how_long() {
        let mut it = card();
        assert!(fits(&it, 1514, false) && !fits(&it, 1515, false) && fits(&it, 1518, true));
        it.set(reg::HLREG0, it.get(reg::HLREG0) | JUMBO);
        it.set(reg::MAXFRS, 9018 << 16);
        assert!(fits(&it, 9014, false) && !fits(&it, 9015, false));
    }
}
