//! Time from CLOCK_MONOTONIC, which all workers of a host share.

use nix::time::{ClockId, clock_gettime};

/// Time in nanoseconds.
pub fn now_ns() -> u64 {
    match clock_gettime(ClockId::CLOCK_MONOTONIC) {
        Ok(time) => (time.tv_sec() as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec() as u64),
        Err(_) => 0,
    }
}
