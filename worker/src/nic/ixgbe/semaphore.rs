//! What software and the card's firmware, and the two ports of a card, share (82599, 10.5.4): a resource is taken by its
//! bit in GSSR, and GSSR by two bits in SWSM.

use super::registers::*;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::wait::{self, MS};

/// How long somebody may have SWSM, and how long a resource, in nanoseconds.
const LIMIT: u64 = 5 * MS;
/// The firmware's bit of a resource, from software's.
const FIRMWARE: u32 = 5;

/// Does `work` while no other has the resource. The bits go back whatever it says.
pub fn with<B: Bar, T>(bar: &B, resource: u32, work: impl FnOnce(&B) -> Result<T, Fault>) -> Result<T, Fault> {
    let start = bar.now_ns();
    while !take(bar, resource)? {
        if bar.now_ns().wrapping_sub(start) > LIMIT {
            return Err(Fault::Bad("GSSR"));
        }
    }
    let done = work(bar);
    locked(bar, || wait::clear(bar, GSSR, resource))?;
    done
}

fn take(bar: &impl Bar, resource: u32) -> Result<bool, Fault> {
    locked(bar, || {
        let gssr = wait::read(bar, GSSR)?;
        let is_free = gssr & (resource | resource << FIRMWARE) == 0;
        if is_free {
            bar.write(GSSR, gssr | resource);
        }
        Ok(is_free)
    })
}

/// Does `work` while GSSR is ours.
fn locked<T>(bar: &impl Bar, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // Who reads SMBI as 0 has set it.
    wait::until(bar, "SWSM.SMBI", SWSM, LIMIT, |value| value & SWSM_SMBI == 0)?;
    wait::set(bar, SWSM, SWSM_SWESMBI)?;
    let firmware = wait::until(bar, "SWSM.SWESMBI", SWSM, LIMIT, |value| value & SWSM_SWESMBI != 0);
    let done = firmware.and_then(|_| work());
    wait::clear(bar, SWSM, SWSM_SMBI | SWSM_SWESMBI)?;
    done
}
