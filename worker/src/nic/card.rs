//! A card that is open: its registers and its memory, for all threads.

use super::bar::{Bar, MappedBar};
use super::memory::CardMemory;

/// The registers of a card.
pub enum Registers {
    /// Those of a device.
    Mapped(MappedBar),
    /// Those of a model or of a liar.
    #[cfg(any(test, feature = "fuzzing"))]
    Simulated(Box<dyn Bar + Send + Sync>),
}

impl Bar for Registers {
    #[inline]
    fn read(&self, at: u32) -> u32 {
        match self {
            Registers::Mapped(bar) => bar.read(at),
            #[cfg(any(test, feature = "fuzzing"))]
            Registers::Simulated(bar) => bar.read(at),
        }
    }

    #[inline]
    fn write(&self, at: u32, value: u32) {
        match self {
            Registers::Mapped(bar) => bar.write(at, value),
            #[cfg(any(test, feature = "fuzzing"))]
            Registers::Simulated(bar) => bar.write(at, value),
        }
    }
}

/// An open card.
pub struct Card {
    /// Its registers.
    pub bar: Registers,
    /// Its memory.
    pub memory: CardMemory,
}
