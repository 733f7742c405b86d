//! A client's protocol, as the rest of the supervisor sees it.
//!
//! vhost-user is the only protocol, so these are its types. With a second protocol, they become enums of both, and only
//! this file changes.

pub use sv3::wire::vhost_user::{Message, Reply};

pub use crate::clients::vhost_user::connection::{Connection, Input};
pub use crate::clients::vhost_user::session::{Refused, Session, Step};
