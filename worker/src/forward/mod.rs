//! The life of a frame: a burst takes it from a source, the forwarder looks up where it goes, and sinks get it.

pub mod burst;
pub mod checksum;
pub mod counting;
pub mod fdb;
pub mod forwarder;
pub mod offload;
pub mod rarp;
