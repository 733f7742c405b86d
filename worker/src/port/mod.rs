//! Ports of all kinds: queues that frames come from ([`source`]) and go to ([`sink`]).
//!
//! `ports` has all ports, `queue` the queues that threads lease, and `endpoint` the list of kinds. Each kind has a
//! folder. The first one is [`vring`].

pub mod batch;
pub mod bucket;
pub mod card;
pub mod cost;
pub mod counting;
pub mod endpoint;
pub mod files;
pub mod flaps;
pub mod guard;
#[cfg(any(test, feature = "fuzzing"))]
pub mod in_memory;
pub mod kind;
pub mod observers;
mod ports;
mod queue;
pub mod rules;
pub mod sink;
pub mod source;
pub mod traffic_rules;
pub mod view;
pub mod vring;
pub mod wait_budget;

pub use ports::{Port, Ports};
#[cfg(test)]
pub use queue::TransmitLease;
pub use queue::{QueueLease, ReceiveLease, TransmitQueue};
