//! One guest's memory and rings. Everything read here was written by somebody who may wish us ill.

pub mod chain;
pub mod memory;
pub mod packed;
pub mod queue;
pub mod shared;
pub mod slices;
pub mod split;

#[cfg(any(test, feature = "fuzzing"))]
#[allow(dead_code, clippy::unwrap_used, reason = "for tests; fuzzers use some of it")]
pub mod driver;
