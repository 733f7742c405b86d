//! A card in a few lines, for what no good card does: registers that are stuck, a card that goes at any moment, and a
//! physical function that refuses, forgets or does not answer. What good cards do is in the model (`sv3_nic_model`).

mod physical;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64};

use sv3::card::{CardModel, CardSettings, CardState, PairState};

use super::bar::{Bar, GONE};
use super::ixgbe::registers::*;
use super::vf::Registers;
pub use physical::Physical;

/// The card's address in its EEPROM, and that of its administrator.
pub const MAC: [u8; 6] = [0x02, 0x82, 0x59, 0x90, 0x10, 0xfb];

/// A fake card.
#[derive(Default)]
pub struct Fake {
    registers: RefCell<BTreeMap<u32, u32>>,
    /// Bits that a register always has: a mask and their values.
    stuck: RefCell<BTreeMap<u32, (u32, u32)>>,
    /// All writes, in order.
    pub writes: RefCell<Vec<(u32, u32)>>,
    /// All reads so far, and the one from which on the card is gone.
    pub reads: Cell<u32>,
    pub gone_at: Cell<Option<u32>>,
    /// Nanoseconds. Each look at the clock takes one microsecond.
    pub clock: Cell<u64>,
    /// The physical function behind a virtual one, and where the mailbox is.
    pub physical: RefCell<Option<(Physical, &'static Registers)>>,
    /// An answer that comes behind another message.
    pending: RefCell<Option<[u32; 5]>>,
}

impl Fake {
    /// An 82599 that has just got power, with a link.
    pub fn ixgbe() -> Fake {
        let fake = Fake::default();
        fake.reset();
        fake
    }

    /// A virtual function with these registers.
    pub fn vf(registers: &'static Registers, physical: Physical) -> Fake {
        let fake = Fake { physical: RefCell::new(Some((physical, registers))), ..Fake::default() };
        // Of the 82599's and of the 82576's function: a link.
        fake.set(registers.link, LINKS_UP | LINKS_SPEED | 0x82);
        fake
    }

    fn reset(&self) {
        self.registers.borrow_mut().clear();
        let (low, high) = super::address::to_words(MAC);
        for (at, value) in [
            (STATUS, STATUS_GIO),
            (EEC, EEC_ARD | EEC_PRES),
            (RDRXCTL, RDRXCTL_DMAIDONE),
            (SECRXSTAT, SECRXSTAT_SECRX_RDY),
            (ral(0), low),
            (ral(0) + 4, high | RAH_AV),
            (AUTOC, AUTOC_LMS_10G_SERIAL),
            (LINKS, LINKS_UP | LINKS_SPEED),
        ] {
            self.set(at, value);
        }
    }

    /// What a register holds.
    pub fn get(&self, at: u32) -> u32 {
        self.registers.borrow().get(&at).copied().unwrap_or(0)
    }

    /// The card sets a register.
    pub fn set(&self, at: u32, value: u32) {
        self.registers.borrow_mut().insert(at, value);
    }

    /// These bits read as in `value` from now on.
    pub fn stick(&self, at: u32, mask: u32, value: u32) {
        self.stuck.borrow_mut().insert(at, (mask, value));
    }

    /// All works again.
    pub fn heal(&self) {
        self.stuck.borrow_mut().clear();
    }

    /// The values that were written to a register.
    pub fn written(&self, at: u32) -> Vec<u32> {
        self.writes.borrow().iter().filter(|(to, _)| *to == at).map(|(_, value)| *value).collect()
    }

    /// Changes what the physical function does.
    pub fn with<T>(&self, change: impl FnOnce(&mut Physical) -> T) -> T {
        change(&mut self.physical.borrow_mut().as_mut().expect("no virtual function").0)
    }

    /// The physical function writes a message that was not asked for.
    pub fn tell(&self, word: u32) {
        let (_, registers) = *self.physical.borrow().as_ref().expect("no virtual function");
        self.set(registers.buffer, word);
        self.set(registers.mailbox, self.get(registers.mailbox) | physical::PFSTS);
    }
}

impl Bar for Fake {
    fn now_ns(&self) -> u64 {
        self.clock.set(self.clock.get() + 1_000);
        self.clock.get()
    }

    fn read(&self, at: u32) -> u32 {
        let reads = self.reads.get() + 1;
        self.reads.set(reads);
        if self.gone_at.get().is_some_and(|gone| reads >= gone) {
            return GONE;
        }
        let value = self.get(at);
        if let Some((_, registers)) = self.physical.borrow().as_ref()
            && at == registers.mailbox
        {
            self.set(at, value & !physical::READ_TO_CLEAR);
        }
        let (mask, stuck) = self.stuck.borrow().get(&at).copied().unwrap_or((0, 0));
        value & !mask | stuck & mask
    }

    fn write(&self, at: u32, value: u32) {
        self.writes.borrow_mut().push((at, value));
        if let Some((physical, registers)) = self.physical.borrow_mut().as_mut() {
            if at == registers.mailbox {
                return physical.mailbox(self, registers, value);
            }
            return self.set(at, if at == registers.ctrl { 0 } else { value });
        }
        match at {
            CTRL if value & CTRL_RST != 0 => self.reset(),
            CTRL if value & CTRL_GIO_DIS != 0 => {
                self.set(STATUS, 0);
                self.set(at, value);
            }
            RDRXCTL => self.set(at, value | RDRXCTL_DMAIDONE),
            EICR => self.set(EICS, self.get(EICS) & !value),
            _ => self.set(at, value),
        }
    }
}

/// Settings of a card with one pair.
pub fn settings(model: CardModel) -> CardSettings {
    CardSettings {
        model,
        bar_offset: 0,
        bar_size: 512 * 1024,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 128,
        buffer: 2048,
        transmit: 65536,
        mtu: 1500,
        lro: false,
        zero_copy: false,
        mac: None,
        run: 1,
    }
}

/// A state that no worker has written.
pub fn state() -> Box<CardState> {
    Box::new(CardState {
        run: AtomicU32::new(0),
        link: AtomicU32::new(0),
        mac: AtomicU64::new(0),
        statistics: std::array::from_fn(|_| AtomicU64::new(0)),
        pairs: std::array::from_fn(|_| PairState { words: std::array::from_fn(|_| AtomicU64::new(0)) }),
    })
}
