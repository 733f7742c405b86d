//! An Intel 82599 in software: registers, descriptors and offloads of the physical function and of a virtual function,
//! written from the data sheet's facts. sv3's driver runs against it in process; Linux and DPDK drive it as a vfio-user
//! device, which shows that it is what they take for an 82599.
//!
//! # Theory of operation
//!
//! The model has no thread and no clock. All that a card does happens inside of the calls of [`Card`]: a doorbell sends
//! what the ring holds, [`Card::receive`] stores a frame and raises the interrupt, [`Card::pass_time`] lets timers of
//! interrupts run out. So a test sees the same each time.
//!
//! Sections ("data sheet, 7.1") are those of Intel's 82599 10 GbE Controller Datasheet, revision 3.

#[cfg(test)]
mod abuse;
mod complaints;
mod eeprom;
mod filter;
mod frame;
mod function;
mod igb_vf;
mod interrupts;
mod link;
mod lying;
mod mailbox;
mod memory;
mod offload;
mod pf;
mod pool;
mod receive;
mod receiver;
pub mod registers;
mod ring;
mod rsc;
mod rss;
mod sfp;
mod statistics;
#[cfg(test)]
mod testing;
mod transmit;
mod vf;
pub mod vfio_user;
mod wire;

pub use complaints::Complaints;
pub use igb_vf::IgbVf;
pub use lying::Lying;
pub use memory::{Memory, Ram};
pub use pf::{Pf, PfSettings};
pub use pool::Pool;
pub use vf::{VF_BAR_SIZE, Vf, VfSettings};

/// What the test, or whoever runs the model, sees of a card. All that the card does happens inside of these calls.
pub trait Card {
    /// The driver reads `size` octets (4 or 8; others are a complaint) at `at` of BAR 0.
    fn read(&mut self, at: u32, size: u8) -> u64;

    /// The driver writes to BAR 0. A doorbell makes the card send.
    fn write(&mut self, at: u32, size: u8, value: u64, memory: &mut dyn Memory);

    /// A frame comes from the wire, without its check sequence. False: the card dropped it (no link, filtered, no room).
    fn receive(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool;

    /// The next frame that the card has sent to the wire, without its check sequence.
    fn sent(&mut self) -> Option<Vec<u8>>;

    /// Gives all frames that the card has sent to `to`, in order, without an allocation for each.
    fn take_sent(&mut self, to: &mut dyn FnMut(&[u8])) {
        while let Some(frame) = self.sent() {
            to(&frame);
        }
    }

    /// MSI-X vectors that the card has raised since the last call, a bit each.
    fn interrupts(&mut self) -> u32;

    /// The wire is plugged in or pulled out.
    fn set_link(&mut self, up: bool, memory: &mut dyn Memory);

    /// The other end of the wire takes nothing (flow control): the card fetches no descriptor to send until it does.
    fn set_paused(&mut self, paused: bool, memory: &mut dyn Memory);

    /// The other end takes at most so many frames, though it is paused.
    fn send_some(&mut self, frames: u32, memory: &mut dyn Memory);

    /// Bit 2 of the command register in config space. While it is off, the card reads and writes no memory: frames wait
    /// on both sides. It is on at first.
    fn set_bus_master(&mut self, on: bool, memory: &mut dyn Memory);

    /// A function-level reset, by config space or by who runs the model.
    fn reset(&mut self);

    /// The card is pulled out of its slot: all registers read as ones, and nothing happens any more.
    fn pull_out(&mut self);

    /// How often the other end of the wire has seen the link go away, by the driver's doing or by [`Card::set_link`].
    fn link_losses(&self) -> u32;

    /// Time passes: timers of interrupts run out, joined segments (RSC) are complete, and descriptors are written back.
    /// Before the first call, the card holds no interrupt back.
    fn pass_time(&mut self, microseconds: u32, memory: &mut dyn Memory);

    /// Registers that a driver has touched and the model does not know, and other errors of the driver: DMA where the
    /// card may not, a descriptor that the data sheet forbids, writes to a ring that runs.
    fn complaints(&self) -> &[String];
}
