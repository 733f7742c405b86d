//! Waits for a card, each of them bounded.
//!
//! The worker may not sleep by a syscall here, and other ports wait meanwhile. So limits are short, and all waits of one
//! command together stay below what the supervisor's watchdog takes for a hang (450 ms).

use super::bar::{Bar, GONE};
use super::fault::Fault;

/// Nanoseconds of a microsecond.
pub const US: u64 = 1_000;
/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000 * US;
/// Most looks of one wait, if the clock stands still. One takes about 20 ns without, and 1 µs with a card's register.
pub const LOOKS: u32 = 10_000_000;

/// Reads the register `name` at `at` until `done` says so of its value, for `limit` nanoseconds. A value of all ones ends
/// the wait: the card is gone.
pub fn until(
    bar: &impl Bar,
    name: &'static str,
    at: u32,
    limit: u64,
    done: impl Fn(u32) -> bool,
) -> Result<u32, Fault> {
    let start = bar.now_ns();
    for _ in 0..LOOKS {
        // The clock is read first: however late the thread runs, the register has one look after the limit.
        let late = bar.now_ns().wrapping_sub(start) > limit;
        match bar.read(at) {
            GONE => return Err(Fault::Gone),
            value if done(value) => return Ok(value),
            _ if late => break,
            _ => std::hint::spin_loop(),
        }
    }
    Err(Fault::Bad(name))
}

/// Reads a register that is never all ones.
pub fn read(bar: &impl Bar, at: u32) -> Result<u32, Fault> {
    match bar.read(at) {
        GONE => Err(Fault::Gone),
        value => Ok(value),
    }
}

/// Lets `time` nanoseconds pass.
pub fn pause(bar: &impl Bar, time: u64) {
    let start = bar.now_ns();
    for _ in 0..LOOKS {
        if bar.now_ns().wrapping_sub(start) >= time {
            break;
        }
        std::hint::spin_loop();
    }
}

/// Sets bits of a register and leaves the others.
pub fn set(bar: &impl Bar, at: u32, bits: u32) -> Result<(), Fault> {
    bar.write(at, read(bar, at)? | bits);
    Ok(())
}

/// Clears bits of a register and leaves the others.
pub fn clear(bar: &impl Bar, at: u32, bits: u32) -> Result<(), Fault> {
    bar.write(at, read(bar, at)? & !bits);
    Ok(())
}
