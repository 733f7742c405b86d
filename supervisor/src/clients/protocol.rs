//! The protocol of a client, as the rest of the supervisor sees it.
//!
//! There is one, vhost-user, so these are its own types. With a second one they become enums of both, in this file
//! alone.

pub use sv3::wire::vhost_user::{Message, Reply};

pub use crate::clients::vhost_user::connection::{Connection, Input};
pub use crate::clients::vhost_user::session::{Refused, Session, Step};
