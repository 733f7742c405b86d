//! Which client is to blame for what is done with a slot.

use crate::clients::class::ClientClass;

/// A client, as far as it cannot change what it is.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// Its class.
    pub class: ClientClass,
}
