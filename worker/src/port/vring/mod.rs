//! Ports of guests: virtqueues (virtio 1.3, 2.7 and 2.8) in memory that both sides write.

pub mod chain;
pub mod descriptor;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(dead_code, clippy::unwrap_used, reason = "for tests; fuzzers use some of it")]
pub mod driver;
pub mod held;
pub mod marks;
pub mod packed;
pub mod queue;
pub mod receive;
pub mod setup;
pub mod split;
mod state;
pub mod staying;
pub mod transmit;
pub mod virtqueue;

pub use receive::Workspace;
pub use state::Vring;
pub(crate) use transmit::each_source;
