//! Cards that are opened beside the loop: to reset one takes up to 300 ms, and no thread that moves frames waits for that.
//!
//! The mapper does it ([`super::mapper`]), one card after the other. A card that a worker of the same run has left is not
//! reset, so the control thread opens that one itself.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use crate::nic::card::Registers;
use crate::nic::device::Device;
use crate::nic::fault::Fault;
use crate::nic::memory::CardMemory;
use crate::sync::lease::Leased;

/// Cards that may wait.
const ROOM: usize = 16;

/// A card that is to be opened.
pub struct Opening {
    /// Slot of its port.
    pub slot: u16,
    /// The port may have another card when this one is open: no two have the same number.
    pub number: u64,
    /// Its registers.
    pub registers: Registers,
    /// Its memory.
    pub memory: CardMemory,
}

/// A card that was opened, or could not be.
pub struct Opened {
    /// What it was before.
    pub card: Opening,
    /// The device.
    pub device: Result<Device, Fault>,
}

impl Opening {
    /// No reset is due: it takes less than 1 ms.
    pub fn is_short(&self) -> bool {
        self.memory.state().run.load(Relaxed) == self.memory.settings().run
    }

    /// Opens it.
    pub fn open(self) -> Opened {
        let device = Device::open(&self.registers, &self.memory);
        Opened { card: self, device }
    }
}

/// What the control thread and the mapper share. Nothing is allocated later.
pub struct Opener {
    wanted: Leased<VecDeque<Opening>>,
    opened: Leased<VecDeque<Opened>>,
}

impl Default for Opener {
    fn default() -> Opener {
        Opener {
            wanted: Leased::new(VecDeque::with_capacity(ROOM)),
            opened: Leased::new(VecDeque::with_capacity(ROOM)),
        }
    }
}

impl Opener {
    /// Wants a card to be opened. `waiting`: how many are not taken back yet. Returns the card if there is no room.
    pub fn want(&self, card: Opening, waiting: usize) -> Result<(), Opening> {
        if waiting >= ROOM {
            return Err(card);
        }
        self.wanted.seize(|| ()).push_back(card);
        Ok(())
    }

    /// Opens the next card. True: there was one.
    pub fn open_next(&self) -> bool {
        let Some(card) = self.wanted.seize(|| ()).pop_front() else { return false };
        let opened = card.open();
        self.opened.seize(|| ()).push_back(opened);
        true
    }

    /// Whether cards wait to be opened.
    pub fn has_work(&self) -> bool {
        !self.wanted.seize(|| ()).is_empty()
    }

    /// The next card that was opened.
    pub fn next_opened(&self) -> Option<Opened> {
        self.opened.seize(|| ()).pop_front()
    }
}
