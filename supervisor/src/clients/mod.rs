//! The life of a client: it connects, is admitted, says what its guest has, holds files, and goes.

pub mod admission;
pub mod ancillary;
pub mod blame;
pub mod budget;
pub mod client;
pub mod crowd;
pub mod lingering;
pub mod record;
pub mod session;
pub mod slots;
