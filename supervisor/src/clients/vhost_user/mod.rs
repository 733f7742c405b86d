//! vhost-user: what this protocol says, and what it does to a port's device.
//!
//! - [`connection`]: the socket: requests come in, whole or in pieces, and replies go out;
//! - [`frontend`]: what the front-end has said: the protocol's state, and the device that it changes;
//! - [`requests`]: what each request does to that, and what a worker has to be told;
//! - [`session`]: when a request is answered, and what is waited for before.

pub mod connection;
mod frontend;
mod requests;
pub mod session;
