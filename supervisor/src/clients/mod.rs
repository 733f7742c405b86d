//! The life of a client: it connects, says what its guest has, is served, is blamed for what it does, and goes.
//!
//! - [`client`], [`slots`], [`number`], [`holder`]: a client, where it is kept, and what it is called by;
//! - [`protocol`], [`vhost_user`]: the protocol that it speaks, which changes the device of its port
//!   ([`crate::ports`]);
//! - [`budget`]: how much it may hold;
//! - [`blame`], [`class`], [`offences`]: what follows when workers die by it.

pub mod blame;
pub mod budget;
pub mod class;
pub mod client;
pub mod holder;
pub mod number;
pub mod offences;
pub mod protocol;
pub mod registry;
pub mod slots;
pub mod vhost_user;
