//! Drivers of network cards: the Intel 82599 (and its kin) and virtual functions, by registers and descriptors as their
//! data sheets name them. Nothing here knows of ports or of the switch.

pub mod address;
pub mod bar;
pub mod card;
pub mod circle;
pub mod descriptor;
#[allow(dead_code, reason = "a card has more than ports use")]
pub mod device;
pub mod event;
#[cfg(test)]
mod fake;
pub mod fault;
pub mod headers;
#[cfg(test)]
pub mod held_card;
pub mod igb_vf;
pub mod interrupts;
#[allow(dead_code, reason = "a card has more than ports use")]
pub mod ixgbe;
pub mod ixgbe_vf;
pub mod joined_frame;
mod joining;
pub mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
pub mod model_card;
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
#[allow(dead_code, reason = "a card has more than ports use")]
pub mod vf;
pub mod wait;

#[cfg(test)]
mod tests;
