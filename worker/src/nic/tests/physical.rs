//! The physical function.

use sv3::card::CardModel;
use sv3_nic_model::{Pf, PfSettings};

use super::*;

fn settings() -> CardSettings {
    fake::settings(CardModel::Ixgbe)
}

fn card() -> Pf {
    Pf::new(PfSettings::default())
}

#[test]
fn a_card_starts_and_moves_frames() {
    let mut port = Port::running(card(), settings());
    assert_eq!(port.device.mac(), PfSettings::default().mac);
    assert_eq!(port.device.link(&port.model), Ok(10_000));
    port.works();
    assert!(port.model.receive(&frame([2, 9, 9, 9, 9, 9])), "a switch takes frames for anybody");
    assert!(port.model.receive(&frame([0x33, 0x33, 0, 1, 2, 3])));
    assert_eq!(port.counted(Statistic::GoodReceived), 3);
    assert_eq!(port.counted(Statistic::GoodTransmitted), 1);
    assert_eq!(port.counted(Statistic::GoodOctetsReceived), 3 * 64);
    assert_eq!(port.counted(Statistic::MulticastReceived), 1);
    port.device.stop(&port.model).unwrap();
    assert!(!port.model.receive(&frame(STATION)));
    port.model.content();
}

#[test]
fn vectors_mask_themselves_and_lose_nothing() {
    let port = Port::running(card(), settings());
    let interrupts = port.device.interrupts();
    interrupts.set_rate(&port.model, 0, 0);
    port.model.interrupts();
    interrupts.unmask(&port.model, 0);
    port.model.receive(&frame(STATION));
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts(), 1);
    port.model.receive(&frame(STATION));
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts(), 0, "it is masked until the thread sleeps again");
    interrupts.unmask(&port.model, 0);
    assert_eq!(port.model.interrupts(), 1, "what came meanwhile");
    port.model.receive(&frame(STATION));
    port.model.pass_time(1_000);
    interrupts.acknowledge(&port.model, 0);
    interrupts.unmask(&port.model, 0);
    assert_eq!(port.model.interrupts(), 0, "what the thread has seen raises no message");
    interrupts.mask(&port.model, 0);
    port.model.content();
}

#[test]
fn a_take_over_costs_no_link_and_no_reset() {
    let mut port = Port::running(card(), settings());
    for _ in 0..3 {
        port.next_worker();
        assert!(!port.device.was_reset());
        assert!(port.start());
        port.works();
    }
    assert_eq!(port.model.card.borrow().link_losses(), 0);
    assert_eq!(port.service(), Event::Nothing);
    port.model.content();
}

#[test]
fn a_link_that_is_lost_comes_by_the_last_vector() {
    let mut port = Port::running(card(), settings());
    port.model.interrupts();
    port.model.set_link(false);
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts(), 1 << 1);
    assert_eq!(port.service(), Event::Link(0));
    port.model.set_link(true);
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts(), 1 << 1);
    assert_eq!(port.service(), Event::Link(10_000));
    assert_eq!(port.counted(Statistic::LinkChanges), 2);
    port.works();
    port.model.content();
}

#[test]
fn a_card_without_a_link_loads_what_its_module_needs() {
    const CORECTL: u32 = 0x14f00;
    let mut port = Port::running(Pf::new(PfSettings { link: false, ..PfSettings::default() }), settings());
    assert_eq!(port.model.read(CORECTL), 1, "the EEPROM's value for passive copper");
    assert_eq!(port.model.read(0x10160), 0, "no semaphore is kept");
    assert_eq!(port.device.link(&port.model), Ok(0));
    port.model.set_link(true);
    assert_eq!(port.service(), Event::Link(10_000));
    port.works();
    port.model.content();
}

#[test]
fn a_card_that_somebody_resets_is_set_up_again() {
    let mut port = Port::running(card(), settings());
    port.model.card.borrow_mut().reset();
    assert_eq!(port.service(), Event::Reset);
    assert!(port.start());
    port.works();
    assert_eq!(port.counted(Statistic::Resets), 1);
    // Between two workers as well.
    port.model.card.borrow_mut().reset();
    port.next_worker();
    assert!(port.device.was_reset() && port.start());
    port.works();
    port.model.content();
}

#[test]
fn a_card_that_is_pulled_out_is_gone() {
    let mut port = Port::running(card(), settings());
    port.model.card.borrow_mut().pull_out();
    assert_eq!(port.device.service(&port.model, &port.state), Err(Fault::Gone));
    assert_eq!(port.device.link(&port.model), Err(Fault::Gone));
    assert_eq!(port.device.statistics(&port.model, &port.state), Err(Fault::Gone));
    assert_eq!(Device::of(&port.model, &port.settings, &port.state).err(), Some(Fault::Gone));
}

#[test]
fn all_options_are_ones_that_the_card_has() {
    for (pairs, lro, mtu, buffer) in [(1, true, 1500, 2048), (4, false, 9000, 4096), (16, true, 9710, 16384)] {
        let settings = CardSettings { pairs, lro, mtu, buffer, ..settings() };
        let mut port = Port::running(card(), settings);
        for vector in 0..=pairs {
            for rate in [0, 1, 8_000, u32::MAX] {
                port.device.interrupts().set_rate(&port.model, vector, rate);
            }
        }
        assert!(port.model.receive(&frame(STATION)));
        assert_eq!(port.service(), Event::Nothing);
        port.model.set_link(false);
        port.model.pass_time(2_000);
        assert_ne!(port.model.interrupts() & 1 << pairs, 0, "the vector behind those of {pairs} pairs");
        port.model.content();
    }
}
