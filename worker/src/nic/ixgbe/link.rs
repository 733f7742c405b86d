//! The link (82599, 3.7).

use super::registers::*;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait;

/// Lets the card look for a link if it has none. The mode is that of the EEPROM: 10 Gbit/s serial for SFP+.
pub fn set_up(bar: &impl Bar) -> Result<(), Fault> {
    // The kernel's driver turns the laser off when it leaves the card.
    let esdp = wait::read(bar, ESDP)?;
    if esdp & ESDP_SDP3 != 0 {
        bar.write(ESDP, esdp & !ESDP_SDP3);
    }
    let autoc = wait::read(bar, AUTOC)?;
    // The X540 has no such register: its firmware and its PHY look for the link.
    if autoc != 0 && speed(bar)? == 0 {
        if autoc & AUTOC_LMS == AUTOC_LMS_10G_SERIAL {
            let autoc2 = wait::read(bar, AUTOC2)?;
            bar.write(AUTOC2, autoc2 & !AUTOC2_10G_SERIAL | AUTOC2_10G_SFI);
        }
        bar.write(AUTOC, autoc | AUTOC_RESTART);
    }
    Ok(())
}

/// Speed of the link in Mbit/s; 0: no link.
pub fn speed(bar: &impl Bar) -> Result<u32, Fault> {
    // The first reading tells whether the link was down since the last one, the second how it is.
    wait::read(bar, LINKS)?;
    let links = wait::read(bar, LINKS)?;
    Ok(match links & LINKS_UP {
        0 => 0,
        _ => [10, 100, 1_000, 10_000][((links & LINKS_SPEED) >> 28) as usize & 3],
    })
}
