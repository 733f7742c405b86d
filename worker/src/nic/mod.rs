//! Drivers of network cards: the Intel 82599 (and its kin) and virtual functions, by registers and descriptors as their
//! data sheets name them. Nothing here knows of ports or of the switch.
#![allow(dead_code, reason = "the kind of port that uses it comes next")]

pub mod address;
pub mod bar;
pub mod card;
pub mod circle;
pub mod descriptor;
pub mod device;
pub mod event;
#[cfg(test)]
mod fake;
pub mod fault;
pub mod headers;
pub mod igb_vf;
pub mod interrupts;
pub mod ixgbe;
pub mod ixgbe_vf;
pub mod joined_frame;
mod joining;
pub mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
pub mod plain_card;
pub mod positions;
pub mod queue_registers;
pub mod rate;
pub mod receive_queue;
pub mod request;
pub mod statistics;
pub mod transmit_area;
pub mod transmit_queue;
pub mod vf;
pub mod wait;

#[cfg(test)]
mod tests;
