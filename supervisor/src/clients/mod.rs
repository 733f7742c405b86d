//! The life of a client: it connects, describes its guest's memory and rings, is served, may be blamed for deaths of
//! workers, and disconnects.
//!
//! - [`client`], [`slots`], [`number`], [`holder`]: a client, where it is kept, its number, and its identity for blame;
//! - [`protocol`], [`vhost_user`]: its protocol, which changes the device of its port ([`crate::ports`]);
//! - [`budget`]: how much it may hold;
//! - [`blame`], [`class`], [`offences`]: what follows when it causes deaths of workers.

pub mod blame;
pub mod budget;
pub mod class;
pub mod client;
pub mod declarations;
pub mod holder;
pub mod number;
pub mod offences;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod slots;
pub mod vhost_user;
