//! The link (82599, 3.7).

use super::registers::*;
use super::sfp;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait;

/// Turns the laser of an optical module on: the kernel's driver turns it off when it leaves the card.
pub fn laser_on(bar: &impl Bar) -> Result<(), Fault> {
    let esdp = wait::read(bar, ESDP)?;
    if esdp & ESDP_SDP3 != 0 {
        bar.write(ESDP, esdp & !ESDP_SDP3);
    }
    Ok(())
}

/// Lets the card look for a link if it has none. The mode is that of the EEPROM: 10 Gbit/s serial for SFP+. `reset`: the
/// card was just reset, and may need what its module wants.
pub fn set_up(bar: &impl Bar, reset: bool) -> Result<(), Fault> {
    let autoc = wait::read(bar, AUTOC)? & !AUTOC_RESTART;
    // The X540 has no such register: its firmware and its PHY look for the link.
    if autoc == 0 || speed(bar)? != 0 {
        return Ok(());
    }
    if autoc & AUTOC_LMS != AUTOC_LMS_10G_SERIAL {
        bar.write(AUTOC, autoc | AUTOC_RESTART);
        return Ok(());
    }
    let autoc2 = wait::read(bar, AUTOC2)?;
    bar.write(AUTOC2, autoc2 & !(AUTOC2_10G_SERIAL | AUTOC2_LINK_DISABLE) | AUTOC2_10G_SFI);
    let loaded = if reset { sfp::load(bar) } else { Ok(false) };
    match loaded {
        Err(Fault::Gone) => Err(Fault::Gone),
        Ok(true) => sfp::restart(bar, autoc),
        // A module that cannot be asked may work all the same.
        Ok(false) | Err(Fault::Bad(_)) => {
            bar.write(AUTOC, autoc | AUTOC_RESTART);
            Ok(())
        }
    }
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
