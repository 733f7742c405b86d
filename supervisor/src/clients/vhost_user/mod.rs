//! The vhost-user protocol, and how its requests change a port's device.
//!
//! - [`connection`]: the socket: it receives requests, whole or in pieces, and sends replies;
//! - [`frontend`]: what the front-end has said: the protocol's state and the device;
//! - [`requests`]: how each request changes these, and the commands for workers;
//! - [`session`]: when a request is answered, and what must happen before.

pub mod connection;
mod frontend;
mod requests;
pub mod session;
