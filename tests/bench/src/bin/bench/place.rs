//! Which processor runs what.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sv3_tests::failure::Result;

/// The processor of every switch.
pub const SWITCH: usize = 0;
/// The processor of the guests.
pub const GUESTS: usize = 1;

/// Both.
pub const ALL: [usize; 2] = [SWITCH, GUESTS];

/// Puts this thread, and what it will start, on one processor.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

/// Lets this thread, and what it will start, run on either processor.
pub fn everywhere() -> Result<()> {
    let mut cores = CpuSet::new();
    for core in ALL {
        cores.set(core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}
