//! The primitives of shared state, in one place so that the models can replace them ([`crate::sync::models`]).

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicU32, Ordering, Ordering::Relaxed};
pub use std::sync::{Mutex, MutexGuard};

/// How often a thread tries to get a lease, and how long it pauses between two tries: some microseconds in all, about
/// the time of a burst.
pub const TRIES: u32 = 32;
/// See [`TRIES`].
pub const PAUSES: u32 = 16;
