//! Drivers of network cards: the Intel 82599 (and its kin) and virtual functions, by registers and descriptors as their
//! data sheets name them. Nothing here knows of ports or of the switch.
#![allow(dead_code, reason = "the kind of port that uses it comes next")]

pub mod address;
pub mod bar;
pub mod device;
pub mod event;
pub mod fault;
pub mod interrupts;
pub mod ixgbe;
pub mod memory;
pub mod queue_registers;
pub mod statistics;
pub mod wait;
