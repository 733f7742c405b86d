//! Writes to registers are posted (PCI Express, 2.4.1): a card gets them later, at the latest before it answers a read.

use std::cell::RefCell;

use sv3::card::CardModel;
use sv3_nic_model::{IgbVf, Pf, PfSettings, Vf, VfSettings};

use super::*;
use crate::nic::model::Model;

/// Registers of a model that get writes as late as they may.
struct Posted<'m, C: Card> {
    model: &'m Model<C>,
    writes: RefCell<Vec<(u32, u32)>>,
}

impl<C: Card> Posted<'_, C> {
    fn arrive(&self) {
        self.writes.borrow_mut().drain(..).for_each(|(at, value)| self.model.write(at, value));
    }
}

impl<C: Card> Bar for Posted<'_, C> {
    fn read(&self, at: u32) -> u32 {
        self.arrive();
        self.model.read(at)
    }

    fn write(&self, at: u32, value: u32) {
        self.writes.borrow_mut().push((at, value));
    }
}

/// A thread looks at the ring for the last time and falls asleep; then a frame comes, and then what the thread wrote.
fn a_frame_behind_the_look_wakes_the_thread<C: Card>(card: C, model: CardModel) {
    let port = Port::running(card, fake::settings(model));
    let interrupts = port.device.interrupts();
    interrupts.set_rate(&port.model, 0, 0);
    interrupts.mask(&port.model, 0);
    port.model.interrupts();
    let posted = Posted { model: &port.model, writes: RefCell::default() };
    interrupts.acknowledge(&posted, 0);
    interrupts.unmask(&posted, 0);
    assert_eq!(port.received(), None, "the look");
    assert!(port.model.receive(&frame(port.device.mac())));
    posted.arrive();
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts() & 1, 1, "{model:?}");
    port.model.content();
}

#[test]
fn a_frame_that_comes_before_what_was_written_is_not_slept_over() {
    a_frame_behind_the_look_wakes_the_thread(Pf::new(PfSettings::default()), CardModel::Ixgbe);
    a_frame_behind_the_look_wakes_the_thread(Vf::new(VfSettings::default()), CardModel::IxgbeVf);
    a_frame_behind_the_look_wakes_the_thread(IgbVf::new(VfSettings::default()), CardModel::IgbVf);
}
