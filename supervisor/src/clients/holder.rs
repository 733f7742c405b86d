//! The client that has a slot, or had it until the worker let go of the slot.

use crate::clients::class::ClientClass;

/// What identifies a client when it is blamed.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Process id.
    pub pid: i32,
    /// Its class.
    pub class: ClientClass,
}
