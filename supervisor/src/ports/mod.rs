//! What a port is, whatever protocol speaks for it, and what a worker must be told of it.
//!
//! - [`port`]: its name and its kind;
//! - [`device`], [`ring`]: what is behind a port of kind vrings, and the commands that tell a worker of it;
//! - [`admission`], [`kernel`]: which memory such a port may have, and what the kernel says of it;
//! - [`holdings`]: how much a port holds of what is scarce.
//!
//! A worker that knows nothing is told of a port by the commands of its `replay`. They are made of what is here alone:
//! no protocol and no client has a part in it.

pub mod admission;
pub mod device;
pub mod holdings;
pub mod kernel;
#[cfg(test)]
pub mod memory;
pub mod port;
pub mod ring;
