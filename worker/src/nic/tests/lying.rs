//! Cards that lie ([`Lying`]): whatever their registers say, a device gives a fault or goes on, in bounded time; and a card
//! that has come to its senses is opened again.

use sv3::card::CardModel;
use sv3_nic_model::{IgbVf, Lying, Pf, PfSettings, Vf, VfSettings};

use super::*;

/// Nanoseconds that the supervisor's watchdog allows.
const PATIENCE: u64 = 450_000_000;
/// Seeds of each function.
const SEEDS: u64 = 150;

/// Octets of which one in `one_in` is a lie, the same each time.
fn seed(number: u64, one_in: u64) -> Vec<u8> {
    let mut state = number;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..4000).map(|_| if next() % one_in == 0 { 0xf0 | next() as u8 } else { next() as u8 % 0xf0 }).collect()
}

/// All that a port does with a card, over and over, until the card is honest. How often that could be opened.
fn abide<C: Card>(honest: C, model: CardModel, octets: Vec<u8>) -> u64 {
    let settings = fake::settings(model);
    let (model, state) = (Model::new(Lying::new(honest, octets), Ram::new(BASE, 1 << 20)), fake::state());
    let mut opened = 0;
    for _ in 0..2000 {
        if model.card.borrow().is_honest() {
            break;
        }
        let begin = model.clock.get();
        let device = Device::of(&model, &settings, &state);
        assert!(model.clock.get() - begin < PATIENCE, "{:?}: {} us", device, (model.clock.get() - begin) / 1000);
        if let Ok(mut device) = device {
            opened += 1;
            use_device(&mut device, &model, &state);
        }
    }
    model.card.borrow_mut().honest().reset();
    let mut port = Port { device: Device::of(&model, &settings, &fake::state()).unwrap(), model, settings, state };
    port.opened();
    assert!(port.start());
    port.works();
    opened
}

fn use_device<C: Card>(device: &mut Device, model: &Model<C>, state: &CardState) {
    if device.start(model).is_err() {
        return;
    }
    let queues = [device.receive_registers(0), device.transmit_registers(0)];
    for round in 0..30 {
        let begin = model.clock.get();
        let faults = [
            queues[round % 2].enable(model, "queue").is_err(),
            device.link(model).is_err(),
            device.filter(model, &[STATION; 3]).is_err(),
            device.service(model, state).is_err(),
            device.statistics(model, state).is_err(),
        ];
        assert!(model.clock.get() - begin < PATIENCE, "{device:?}, round {round}");
        model.pass_time(100_000);
        if faults.contains(&true) {
            break;
        }
    }
    let _ = device.stop(model);
}

#[test]
fn a_physical_function_that_lies_is_survived() {
    let opened = (0..SEEDS)
        .map(|number| abide(Pf::new(PfSettings::default()), CardModel::Ixgbe, seed(number, 8 << (number % 6))))
        .sum::<u64>();
    assert!(opened > 2 * SEEDS, "{opened}");
}

#[test]
fn virtual_functions_that_lie_are_survived() {
    let mut opened = [0; 2];
    for number in 0..SEEDS {
        let settings = VfSettings { slow: number as u32 % 3, ..VfSettings::default() };
        opened[0] += abide(Vf::new(settings), CardModel::IxgbeVf, seed(number, 8 << (number % 6)));
        opened[1] += abide(IgbVf::new(settings), CardModel::IgbVf, seed(number, 8 << (number % 6)));
    }
    assert!(opened.iter().all(|opened| *opened > 2 * SEEDS), "{opened:?}");
}
