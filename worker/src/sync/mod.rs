//! What threads share, without a lock that a thread sleeps on: the policy has no futex.

pub mod bits;
pub mod flag;
pub mod lease;
#[path = "lease/tests.rs"]
mod lease_tests;
#[cfg(test)]
mod models;
mod primitives;
