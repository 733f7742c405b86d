//! The process itself: what confines it, what it hears from the supervisor, and what it writes down when it dies.

pub mod affinity;
pub mod clock;
pub mod confine;
pub mod crash;
pub mod crash_points;
pub mod link;
pub mod prove;
