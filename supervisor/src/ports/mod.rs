//! Ports, independent of protocols, and the commands that tell a worker of them.
//!
//! - [`port`]: a port's name and kind;
//! - [`device`], [`ring`]: the device behind a port of kind vrings, and the commands that tell a worker of it;
//! - [`admission`], [`kernel`]: which memory such a port may have, and what the kernel says about it;
//! - [`files`], [`file_kernel`]: a port of open files, and which files may be one;
//! - [`card`], [`vfio`]: a port of a network card, and what the kernel says of the card;
//! - [`loop_watch`]: which uplinks lead into one network;
//! - [`holdings`]: how many files and regions a port holds.
//!
//! The commands of a port's `replay` tell a new worker of the port. They are made from the types in this folder alone,
//! without protocols and clients.

pub mod admission;
pub mod card;
pub mod device;
pub mod file_kernel;
pub mod files;
pub mod holdings;
pub mod kernel;
pub mod loop_watch;
#[cfg(test)]
pub mod memory;
pub mod port;
pub mod ring;
pub mod terms;
pub mod vfio;
