//! Whose doing it is, what is done with a slot.

use crate::clients::crowd::Crowd;

/// A client, as far as it cannot change what it is.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// What it is like.
    pub crowd: Crowd,
}
