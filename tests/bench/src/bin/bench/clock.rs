//! Time in cycles of the time stamp counter, which runs at the same pace whatever the processor does.
#![allow(unsafe_code)] // the counter is an intrinsic

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The counter.
#[inline(always)]
pub fn cycles() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and reading it has no effect.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Cycles in a second, measured once.
pub fn per_second() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, first) = (Instant::now(), cycles());
        while start.elapsed() < Duration::from_millis(50) {}
        (cycles() - first) as f64 / start.elapsed().as_secs_f64()
    })
}

/// Cycles that pass in a time.
pub fn cycles_of(time: Duration) -> u64 {
    (time.as_secs_f64() * per_second()) as u64
}
