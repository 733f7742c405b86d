//! How a card's queues and the card as a whole are stopped (82599, 4.6.3, 4.6.7.1, 4.6.8.1, 5.2.5.3.2).

use super::registers::*;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::queue_registers::{QueueRegisters, SETTLE, SWFLSH};
use crate::nic::wait::{self, MS, US};

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
    wait::clear(bar, DMATXCTL, DMATXCTL_TE)?;
    // What a queue has under way comes to its end (4.6.7.1.2).
    wait::pause(bar, SETTLE);
    Ok(())
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

/// What the card has asked of memory does not come: its bus master was turned off in between. Frames go nowhere meanwhile
/// (5.2.5.3.2).
fn forget_requests(bar: &impl Bar) -> Result<(), Fault> {
    wait::set(bar, HLREG0, HLREG0_LPBK)?;
    wait::pause(bar, 3 * MS);
    wait::set(bar, GCR_EXT, GCR_EXT_BUFFERS_CLEAR)?;
    wait::pause(bar, 20 * US);
    wait::clear(bar, GCR_EXT, GCR_EXT_BUFFERS_CLEAR)?;
    wait::clear(bar, HLREG0, HLREG0_LPBK)
}

/// Resets all of the card but the link and its PHY. It takes 11 to 70 ms.
pub fn reset(bar: &impl Bar) -> Result<(), Fault> {
    mask_all(bar);
    // What the card has asked of memory comes back first. If it does not, it is forgotten, and a second reset is needed.
    wait::set(bar, CTRL, CTRL_GIO_DIS)?;
    let calm = wait::until(bar, "STATUS", STATUS, 10 * MS, |value| value & STATUS_GIO == 0);
    let resets = match calm {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(Fault::Bad(_)) => {
            forget_requests(bar)?;
            2
        }
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
