//! The threads and their loop: which rings are polled, which wait, and for how long.

pub mod control_thread;
pub mod fair_share;
pub mod mapper;
pub mod notify;
pub mod opener;
pub mod pause;
pub mod pinning;
pub mod pins;
pub mod poller;
pub mod spin;
pub mod start;
pub mod threads;
