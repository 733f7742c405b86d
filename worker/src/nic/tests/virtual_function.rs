//! The virtual function of the 82599.

use sv3::card::CardModel;
use sv3_nic_model::{Vf, VfSettings};

use super::*;

fn settings() -> CardSettings {
    fake::settings(CardModel::IxgbeVf)
}

fn card() -> Vf {
    Vf::new(VfSettings::default())
}

/// The next event, within the time that a function waits before it tries again.
fn event(port: &mut Port<Vf>) -> Event {
    for _ in 0..20 {
        match port.service() {
            Event::Nothing => port.model.pass_time(100_000),
            event => return event,
        }
    }
    panic!("no event");
}

#[test]
fn a_function_starts_and_moves_frames() {
    for slow in [0, 1, 50] {
        let mut port = Port::running(Vf::new(VfSettings { slow, ..VfSettings::default() }), settings());
        assert_eq!(Some(port.device.mac()), VfSettings::default().mac);
        assert_eq!(port.device.link(&port.model), Ok(10_000));
        port.works();
        assert_eq!((port.counted(Statistic::GoodReceived), port.counted(Statistic::GoodTransmitted)), (1, 1));
        port.model.content();
    }
}

#[test]
fn a_function_is_taken_over_without_a_reset() {
    let mut port = Port::running(card(), settings());
    for _ in 0..3 {
        port.next_worker();
        assert!(!port.device.was_reset() && port.start());
        port.works();
    }
    assert_eq!(port.counted(Statistic::GoodReceived), 3);
    assert_eq!(port.service(), Event::Nothing);
    port.model.content();
}

#[test]
fn each_version_of_the_messages_will_do() {
    for api in 0..8 {
        let mut port = Port::running(Vf::new(VfSettings { api, ..VfSettings::default() }), settings());
        port.works();
        port.model.content();
    }
}

#[test]
fn frames_to_other_stations_arrive_as_far_as_there_are_filters() {
    let untrusted = VfSettings { mac: None, filters: 2, ..VfSettings::default() };
    let mut port = Port::running(Vf::new(untrusted), settings());
    let macs: Vec<[u8; 6]> = (1..=3).map(|at| [2, 0, 0, 0, 1, at]).collect();
    assert!(!port.model.receive(&frame(macs[0])));
    assert_eq!(port.device.filter(&port.model, &macs), Ok(2));
    let arrive: Vec<bool> = macs.iter().map(|mac| port.model.receive(&frame(*mac))).collect();
    assert_eq!(arrive, [true, true, false]);
    port.model.content();
}

#[test]
fn a_function_without_an_address_gets_one() {
    let port = Port::running(Vf::new(VfSettings { mac: None, ..VfSettings::default() }), settings());
    assert_eq!(port.device.mac()[0], 2);
    let wanted = CardSettings { mac: Some(STATION), ..settings() };
    let port = Port::running(Vf::new(VfSettings { mac: None, ..VfSettings::default() }), wanted);
    assert_eq!(port.device.mac(), STATION);
    port.model.content();
}

#[test]
fn the_link_s_changes_come_by_the_mailbox_s_vector() {
    let mut port = Port::running(card(), settings());
    port.service();
    port.model.interrupts();
    port.model.set_link(false);
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts(), 1 << 1);
    assert_eq!(port.service(), Event::Link(0));
    port.model.set_link(true);
    port.model.pass_time(1_000);
    assert_eq!(port.service(), Event::Link(10_000));
    port.works();
    port.model.content();
}

#[test]
fn a_reset_of_the_physical_function_is_survived() {
    let mut port = Port::running(card(), settings());
    port.model.interrupts();
    port.model.card.borrow_mut().pf_resets();
    port.model.pass_time(1_000);
    assert_eq!(port.model.interrupts() & 1 << 1, 1 << 1);
    assert_eq!(port.service(), Event::Link(0));
    assert_eq!(port.service(), Event::Nothing);
    // A worker dies meanwhile.
    port.next_worker();
    assert!(!port.start());
    port.model.card.borrow_mut().pf_is_back();
    assert_eq!(event(&mut port), Event::Reset);
    assert!(port.start());
    assert_eq!(port.device.link(&port.model), Ok(10_000));
    port.works();
    assert_eq!(port.counted(Statistic::Resets), 1);
    port.model.content();
}

#[test]
fn a_reset_between_two_workers_is_seen() {
    let mut port = Port::running(card(), settings());
    port.model.card.borrow_mut().pf_resets();
    port.model.card.borrow_mut().pf_is_back();
    port.next_worker();
    if !port.start() {
        assert_eq!(event(&mut port), Event::Reset);
        assert!(port.start());
    }
    port.works();
    port.model.content();
}

#[test]
fn a_function_that_is_pulled_out_is_gone() {
    let mut port = Port::running(card(), settings());
    port.model.card.borrow_mut().pull_out();
    assert_eq!(port.device.service(&port.model, &port.state), Err(Fault::Gone));
    assert_eq!(port.device.filter(&port.model, &[STATION]), Err(Fault::Gone));
    assert_eq!(Device::of(&port.model, &port.settings, &port.state).err(), Some(Fault::Gone));
}
