//! A capture: a worker copies frames into memory that it shares with the command line, which reads them.
//!
//! # Theory of operation
//!
//! The command line makes a memfd ([`CaptureFile`]) and sends it to the supervisor, which checks it and gives it to each
//! worker. It has a ring for each thread that moves frames, with one writer and one reader. A ring is a row of records
//! ([`Record`]). A record lies in one piece: if it does not fit before the ring's end, a record without a frame fills the
//! rest.
//!
//! The writer owns [`Head`], the reader owns [`Tail`]. Both count octets since the beginning and never wrap in practice.
//! The writer writes records behind the head and moves the head over them when its burst is published, so a worker that
//! dies in between leaves nothing of them. The next worker goes on at the head. If a record finds no room before the
//! tail, it is not written but counted ([`Head::lost`]): a reader that stops costs frames of its own capture, and no
//! time.
//!
//! Neither trusts the other. The writer ([`writer`]) masks each index, so a lie of the reader costs
//! records. The reader checks each
//! length ([`reader`]), so a lie of a worker costs the capture, and tells wrong frames at worst.

pub mod reader;
mod record;
mod request;
pub mod writer;

use std::sync::atomic::AtomicU64;

pub use record::{HEAD_OCTETS, Passage, Record, STEP};
pub use request::CaptureRequest;

use crate::ledger::THREADS;
use crate::sealed_map::SealedMap;

/// Most captures at a time.
pub const CAPTURES_MAX: usize = 4;
/// Octets of a ring, a power of two.
pub const RING_OCTETS: usize = 8 << 20;
/// Most octets of a frame that are kept: more than any frame has.
pub const SNAPLEN_MAX: u32 = 1 << 18;

/// The whole file.
#[repr(C, align(4096))]
pub struct CaptureFile {
    /// The ring of each thread. Pages of threads that do not exist are never touched.
    pub rings: [Ring; THREADS],
}

/// The ring of one thread.
#[repr(C, align(4096))]
pub struct Ring {
    /// What the worker writes.
    pub head: Head,
    /// What the reader writes: up to where it has read, in octets since the beginning.
    pub tail: Tail,
    /// The records.
    pub words: Words,
}

/// The words of a ring.
#[repr(C, align(4096))]
pub struct Words(pub [AtomicU64; RING_OCTETS / 8]);

/// What the worker writes.
#[repr(C, align(64))]
pub struct Head {
    /// Up to where there are records, in octets since the beginning.
    pub octets: AtomicU64,
    /// Frames that found no room.
    pub lost: AtomicU64,
}

/// What the reader writes.
#[repr(C, align(64))]
pub struct Tail {
    /// Up to where it has read, in octets since the beginning.
    pub octets: AtomicU64,
}

/// A mapping of the file.
pub type CaptureMap = SealedMap<CaptureFile>;

const _: () = assert!(RING_OCTETS.is_power_of_two() && crate::frame::MAX_FRAME < SNAPLEN_MAX as usize);

#[cfg(test)]
mod tests;
