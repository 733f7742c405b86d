//! The model as a device of a machine: a server of vfio-user (docs/interop/vfio-user.rst of QEMU), protocol 0.0.
//!
//! # Theory of operation
//!
//! One thread has the card. It waits for commands of the client, which is QEMU, for frames on the wire, and for orders of
//! the test. After each of them it moves to the wire what the card has sent, and raises the interrupts that the card
//! wants. Registers are reached by messages alone, none is mapped. QEMU has the table of MSI-X, and gives an eventfd for
//! each vector that the driver uses.
//!
//! The card has no clock, so the thread tells it how much time passes. It looks for some more milliseconds when nothing
//! happens, until no timer of the card can be running.
//!
//! What the test does not take from the wire stays in the card (flow control), so the wire loses nothing.
//!
//! rust-vmm's crate `vfio_user` reads from its socket only, so frames would need a second thread and a lock around the
//! card; it also brings 12 crates.

mod config_space;
mod device;
mod dma;
mod message;
mod served;
mod wire;

pub use served::Served;

/// Which function of an 82599 it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// 8086:10fb.
    Physical,
    /// 8086:10ed, which has a device's configuration space here, for lack of a physical function in the machine.
    Virtual,
    /// 8086:10ca, likewise: a virtual function of an 82576.
    Virtual82576,
}

impl Function {
    fn device_id(self) -> u16 {
        match self {
            Function::Physical => 0x10fb,
            Function::Virtual => 0x10ed,
            Function::Virtual82576 => 0x10ca,
        }
    }

    /// The BAR with the table of MSI-X.
    fn msix_bar(self) -> usize {
        match self {
            Function::Physical => 4,
            Function::Virtual | Function::Virtual82576 => 3,
        }
    }

    /// The card has 64; as many as [`Card::interrupts`] can tell.
    fn vectors(self) -> u16 {
        match self {
            Function::Physical => 32,
            Function::Virtual | Function::Virtual82576 => 3,
        }
    }

    fn bar_size(self, bar: usize) -> u64 {
        match (self, bar) {
            (Function::Physical, 0) => 512 << 10,
            (_, bar) if bar == 0 || bar == self.msix_bar() => 16 << 10,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
