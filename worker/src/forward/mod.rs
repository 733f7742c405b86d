//! The life of a frame: [`burst`] takes it from a source, [`sending`] looks up its egress, [`leases`] has the
//! receivers' queues, and the kind of each queue delivers it. The worker's own frames are announcements ([`rarp`],
//! [`announcer`]), probes ([`loop_probe`]) and queries for members of groups ([`snooping`]).

pub mod announcer;
pub mod burst;
pub mod fdb;
pub mod forwarder;
pub mod frame;
pub mod leases;
pub mod loop_probe;
pub mod observation;
pub mod offload;
pub mod rarp;
mod releasing;
pub mod sending;
pub mod snooping;
pub mod tagging;
