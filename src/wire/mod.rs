//! Sans-IO decoders of the protocols that clients speak: octets and fds in, requests out, at any split.

pub mod vhost_user;

use std::fmt;

/// What a client did wrong, in words for events. Only this client loses its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse(pub String);

impl fmt::Display for Refuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refuse {}
