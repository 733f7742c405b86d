//! The SFP+ module: what it is, and what the card's analog part needs for it.
//!
//! The EEPROM has a list of modules, and for each a list of values for CORECTL (82599, 6.3 and 3.7.1.1). The kernel's
//! driver loads them, and a device reset keeps them. But a card that was handed over at boot has had no such driver.
//! Modules of 1 Gbit/s are not for this driver.

use super::registers::*;
use super::{i2c, semaphore};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait::{self, MS, US};

/// Octets of the module's memory (SFF-8472, table 4.1): what it is, how it does 10 Gbit/s, what cable it is.
const IDENTIFIER: u8 = 0;
const COMPLIANCE_10G: u8 = 3;
const CABLE: u8 = 8;
const SFP: u8 = 3;
/// 10GBASE-SR and LR; passive and active copper.
const SR_LR: u8 = 0x30;
const PASSIVE: u8 = 0x04;
const ACTIVE: u8 = 0x08;
/// The EEPROM's word that says where the list of modules is, and what ends each list.
const MODULES: u16 = 0x2b;
const END: u16 = 0xffff;
/// The list's numbers for the first port; the second has the next.
const PASSIVE_COPPER: u16 = 3;
const OPTICAL: u16 = 5;
/// Most entries of a list that is believed.
const MOST: u16 = 64;

/// Loads what the module in the cage needs. True: there was something to load. A card without module, without list, or
/// with a module that nobody knows stays as it is.
pub fn load(bar: &impl Bar) -> Result<bool, Fault> {
    let second = wait::read(bar, STATUS)? & STATUS_LAN_ID != 0;
    let lines = if second { GSSR_PHY1 } else { GSSR_PHY0 };
    let Some(kind) = semaphore::with(bar, lines, module)? else { return Ok(false) };
    let Some(mut at) = list(bar, kind + u16::from(second))? else { return Ok(false) };
    semaphore::with(bar, GSSR_MAC_CSR, |bar| {
        for _ in 0..MOST {
            at = at.wrapping_add(1);
            match word(bar, at)? {
                END => break,
                value => bar.write(CORECTL, value.into()),
            }
        }
        Ok(true)
    })
}

/// The kind of the module in the cage.
fn module(bar: &impl Bar) -> Result<Option<u16>, Fault> {
    if i2c::read(bar, IDENTIFIER)? != Some(SFP) {
        return Ok(None);
    }
    let [cable, compliance] = [i2c::read(bar, CABLE)?.unwrap_or(0), i2c::read(bar, COMPLIANCE_10G)?.unwrap_or(0)];
    Ok(match (cable & (PASSIVE | ACTIVE), compliance & SR_LR) {
        (PASSIVE, _) => Some(PASSIVE_COPPER),
        // Active copper looks like optics to the card.
        (ACTIVE, _) | (0, 1..) => Some(OPTICAL),
        _ => None,
    })
}

/// Where the values for a kind of module begin: in front of the first.
fn list(bar: &impl Bar, kind: u16) -> Result<Option<u16>, Fault> {
    let list = word(bar, MODULES)?;
    if matches!(list, 0 | END) {
        return Ok(None);
    }
    for entry in 0..MOST {
        let at = list.wrapping_add(1 + 2 * entry);
        match word(bar, at)? {
            END => break,
            other if other == kind => {
                let values = word(bar, at.wrapping_add(1))?;
                return Ok((!matches!(values, 0 | END)).then_some(values));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// A word of the EEPROM.
fn word(bar: &impl Bar, at: u16) -> Result<u16, Fault> {
    bar.write(EERD, u32::from(at & 0x3fff) << 2 | EERD_START);
    let value = wait::until(bar, "EERD", EERD, 500 * US, |value| value & EERD_DONE != 0)?;
    Ok((value >> 16) as u16)
}

/// The link begins anew with the analog part as it is now: another mode of the link, and back.
pub fn restart(bar: &impl Bar, autoc: u32) -> Result<(), Fault> {
    bar.write(AUTOC, autoc ^ AUTOC_LMS_HIGH | AUTOC_RESTART);
    // A state machine that does not move is no reason to give up.
    match wait::until(bar, "ANLP1", ANLP1, 10 * MS, |value| value & ANLP1_STATE != 0) {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(Fault::Bad(_)) | Ok(_) => {}
    }
    bar.write(AUTOC, autoc | AUTOC_RESTART);
    Ok(())
}
