//! The life of a frame: [`burst`] takes it from a source, [`sending`] looks up its egress, [`leases`] has the
//! receivers' queues, and the kind of each queue delivers it.

pub mod burst;
pub mod checksum;
pub mod fdb;
pub mod forwarder;
pub mod frame;
pub mod leases;
pub mod offload;
pub mod rarp;
pub mod sending;
