//! The threads and their loop: what is polled, who waits for what, and for how long.

pub mod bits;
pub mod control_thread;
pub mod cost;
pub mod lease;
#[path = "lease/tests.rs"]
mod lease_tests;
pub mod mapper;
#[cfg(test)]
mod models;
pub mod notify;
pub mod pause;
pub mod poller;
pub mod spin;
pub mod start;
mod sync;
pub mod threads;
