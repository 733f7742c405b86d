//! The life of a worker: it is started, told what its predecessor was told, watched, and its death is explained.

pub mod breach;
pub mod chaos;
pub mod command;
pub mod cpu_time;
pub mod death;
pub mod link;
pub mod pending_unmap;
pub mod roster;
pub mod spawner;
pub mod starts;
pub mod undertaker;
pub mod watchdog;
pub mod worker;
