//! How a card's queues and the card as a whole are stopped (82599, 4.6.3, 4.6.7.1, 4.6.8.1, 5.2.5.3.2).

use super::registers::*;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::queue_registers::{QueueRegisters, SWFLSH};
use crate::nic::wait::{self, MS};

/// Masks all interrupts and turns off the receiver, the first `pairs` queue pairs and the transmitter. It ends with the
/// first of them that does not stop.
pub fn stop(bar: &impl Bar, pairs: u16) -> Result<(), Fault> {
    mask_all(bar);
    set_receiver(bar, false)?;
    let began = bar.now_ns();
    for pair in 0..u32::from(pairs) {
        QueueRegisters::at(receive_queue(pair), 0).disable(bar, "RXDCTL", 0, began)?;
        QueueRegisters::at(transmit_queue(pair), 0).disable(bar, "TXDCTL", SWFLSH, began)?;
    }
    wait::clear(bar, DMATXCTL, DMATXCTL_TE)
}

fn mask_all(bar: &impl Bar) {
    bar.write(EIMC, !(1 << 31));
    bar.write(EIMC_EX, u32::MAX);
    bar.write(EIMC_EX + 4, u32::MAX);
}

/// Turns the receiver on or off, between two frames.
pub fn set_receiver(bar: &impl Bar, on: bool) -> Result<(), Fault> {
    wait::set(bar, SECRXCTRL, SECRXCTRL_RX_DIS)?;
    // A path that does not become empty is no reason to go on receiving.
    match wait::until(bar, "SECRXSTAT", SECRXSTAT, MS, |value| value & SECRXSTAT_SECRX_RDY != 0) {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(Fault::Bad(_)) | Ok(_) => {}
    }
    match on {
        true => wait::set(bar, RXCTRL, RXCTRL_RXEN)?,
        false => wait::clear(bar, RXCTRL, RXCTRL_RXEN)?,
    }
    wait::clear(bar, SECRXCTRL, SECRXCTRL_RX_DIS)
}

/// Resets all of the card but the link and its PHY. It takes 11 to 60 ms.
pub fn reset(bar: &impl Bar) -> Result<(), Fault> {
    mask_all(bar);
    // What the card has asked of memory comes back first. If it does not, the first reset drops it, and a second one is
    // needed (5.2.5.3.2).
    wait::set(bar, CTRL, CTRL_GIO_DIS)?;
    let calm = wait::until(bar, "STATUS", STATUS, 10 * MS, |value| value & STATUS_GIO == 0);
    let resets = match calm {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(Fault::Bad(_)) => 2,
        Ok(_) => 1,
    };
    for _ in 0..resets {
        wait::set(bar, CTRL, CTRL_RST)?;
        wait::pause(bar, MS);
        wait::until(bar, "CTRL", CTRL, 10 * MS, |value| value & CTRL_RST == 0)?;
    }
    wait::pause(bar, 10 * MS);
    wait::until(bar, "EEC", EEC, 20 * MS, |value| value & EEC_ARD != 0)?;
    wait::until(bar, "RDRXCTL", RDRXCTL, 10 * MS, |value| value & RDRXCTL_DMAIDONE != 0)?;
    mask_all(bar);
    Ok(())
}
