//! What work costs, so that the loop can share its time fairly whatever guests send ([`crate::poll::fair_share`]).
//!
//! Costs are counted in octets that could be copied instead, about an eighth of a nanosecond each. They need be right
//! only so far as no way to spend a turn is much cheaper than it costs.

/// A frame, to its sender: taken, looked up, given back.
pub const FRAME: u64 = 192;
/// A frame, for each receiver, beside its octets.
pub const DELIVERY: u64 = 256;
/// A descriptor that was looked at, of sender or receiver.
pub const DESCRIPTOR: u64 = 96;
/// A ring that was delivered to or taken from, to be published.
pub const RING: u64 = 1024;
/// A signal to a guest: a system call, and somebody to be woken.
pub const SIGNAL: u64 = 8 * 1024;
