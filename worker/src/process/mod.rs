//! The process itself: what confines it, its link to the supervisor, and its crash record.

pub mod affinity;
pub mod clock;
pub mod confine;
pub mod crash;
pub mod crash_points;
pub mod link;
pub mod prove;
