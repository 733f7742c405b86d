//! What people and programs read: events as they happen, the log of crashes, status, and metrics.

pub mod crash_log;
pub mod event;
pub mod metrics;
pub mod status;
