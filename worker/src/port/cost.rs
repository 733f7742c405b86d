//! The cost of work, by which the loop shares its time fairly whatever guests send ([`crate::poll::fair_share`]).
//!
//! The unit of cost is one copied octet, about an eighth of a nanosecond. Costs need only be accurate enough that no
//! way to spend a turn takes much longer than its cost says.

/// A frame, for its sender: to take it, look it up and give it back.
pub const FRAME: u64 = 192;
/// A frame, for each receiver, in addition to its octets.
pub const DELIVERY: u64 = 256;
/// A receiver that a frame to many does not go to by its rules.
pub const PASSED_BY: u64 = 64;
/// A descriptor that was read, of sender or receiver.
pub const DESCRIPTOR: u64 = 96;
/// To publish a ring that frames were delivered to or taken from.
pub const RING: u64 = 1024;
/// A signal to a guest: a syscall, and usually a wake-up.
pub const SIGNAL: u64 = 8 * 1024;
/// A syscall that reads a frame or octets from a file, in addition to the octets: 1.2 to 1.8 us.
pub const FILE_READ: u64 = 10 * 1024;
/// A syscall that writes a frame or octets to a file, in addition to the octets: 1.0 to 1.9 us.
pub const FILE_WRITE: u64 = 8 * 1024;
