//! The model of a card as the registers of a driver.

use std::cell::{Cell, RefCell};

use sv3_nic_model::{Card, Memory, Ram};

use super::bar::Bar;

/// A card and the memory that it reaches.
pub struct Model<C: Card, M: Memory = Ram> {
    /// The card.
    pub card: RefCell<C>,
    /// Its memory.
    pub memory: RefCell<M>,
    /// Nanoseconds. Each look at the clock takes a microsecond.
    pub clock: Cell<u64>,
}

impl<C: Card, M: Memory> Model<C, M> {
    /// A card with this memory.
    pub fn new(card: C, memory: M) -> Model<C, M> {
        Model { card: RefCell::new(card), memory: RefCell::new(memory), clock: Cell::new(0) }
    }

    /// A frame comes from the wire.
    pub fn receive(&self, frame: &[u8]) -> bool {
        self.card.borrow_mut().receive(frame, &mut *self.memory.borrow_mut())
    }

    /// The wire is plugged in or pulled out.
    pub fn set_link(&self, up: bool) {
        self.card.borrow_mut().set_link(up, &mut *self.memory.borrow_mut());
    }

    /// The supervisor lets the card reach memory or not.
    pub fn set_bus_master(&self, on: bool) {
        self.card.borrow_mut().set_bus_master(on, &mut *self.memory.borrow_mut());
    }

    /// Time passes for the card and for the driver.
    pub fn pass_time(&self, microseconds: u32) {
        self.clock.set(self.clock.get() + 1_000 * u64::from(microseconds));
        self.card.borrow_mut().pass_time(microseconds, &mut *self.memory.borrow_mut());
    }

    /// Vectors that were raised since the last call, a bit each.
    pub fn interrupts(&self) -> u32 {
        self.card.borrow_mut().interrupts()
    }

    /// The driver has made no error.
    pub fn content(&self) {
        assert_eq!(self.card.borrow().complaints(), [] as [String; 0]);
    }
}

impl<C: Card, M: Memory> Bar for Model<C, M> {
    fn read(&self, at: u32) -> u32 {
        self.card.borrow_mut().read(at, 4) as u32
    }

    fn write(&self, at: u32, value: u32) {
        self.card.borrow_mut().write(at, 4, value.into(), &mut *self.memory.borrow_mut());
    }

    fn now_ns(&self) -> u64 {
        self.clock.set(self.clock.get() + 1_000);
        self.clock.get()
    }
}
