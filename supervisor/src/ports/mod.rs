//! Ports, independent of protocols, and the commands that tell a worker of them.
//!
//! - [`port`]: a port's name and kind;
//! - [`device`], [`ring`]: the device behind a port of kind vrings, and the commands that tell a worker of it;
//! - [`admission`], [`kernel`]: which memory such a port may have, and what the kernel says about it;
//! - [`holdings`]: how many files and regions a port holds.
//!
//! The commands of a port's `replay` tell a new worker of the port. They are made from the types in this folder alone,
//! without protocols and clients.

pub mod admission;
pub mod device;
pub mod holdings;
pub mod kernel;
#[cfg(test)]
pub mod memory;
pub mod port;
pub mod ring;
