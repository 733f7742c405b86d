//! A network card beside a guest's split ring. The model of the 82599 does its work between two bursts: what the worker
//! writes to registers in a burst reaches it afterwards.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use sv3::card::{CardModel, CardSettings};

use super::*;
use crate::nic::bar::Bar;
use crate::nic::card::{Card, Registers};
use crate::nic::device::Device;
use crate::nic::memory::CardMemory;
use crate::nic::model_card::{ModelCard, file};
use crate::port::card::{CardQueue, Registers as QueueSet};
use crate::port::endpoint::Endpoint;

/// Registers of the model, for which writes can wait.
#[derive(Clone)]
struct Registry {
    model: ModelCard,
    waits: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<(u32, u32)>>>,
}

impl Bar for Registry {
    fn read(&self, at: u32) -> u32 {
        self.model.read(at)
    }

    fn write(&self, at: u32, value: u32) {
        match self.waits.load(Relaxed) {
            true => self.writes.lock().unwrap().push((at, value)),
            false => self.model.write(at, value),
        }
    }
}

impl Registry {
    fn hold(&self, holds: bool) {
        self.waits.store(holds, Relaxed);
        let all: Vec<_> = self.writes.lock().unwrap().drain(..).collect();
        all.into_iter().for_each(|(at, value)| self.model.write(at, value));
    }
}

fn settings() -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 512 << 10,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 2048,
        buffer: 2048,
        transmit: 2 << 20,
        mtu: 1500,
        lro: false,
        mac: None,
        run: 1,
    }
}

/// A card that runs at a slot.
fn card_at(fixture: &Fixture, slot: u16) -> Registry {
    let file = file(&settings());
    let model = ModelCard::new(&file, settings());
    let registry = Registry { model, waits: Arc::default(), writes: Arc::default() };
    let card = Card {
        bar: Registers::Simulated(Box::new(registry.clone())),
        memory: CardMemory::new(&file, settings()).unwrap(),
    };
    let mut device = Device::open(&card.bar, &card.memory).unwrap();
    device.start(&card.bar).unwrap();
    let (card, port) = (Arc::new(card), fixture.ports.make(slot, fixture.ledger).unwrap());
    assert!(port.make_pair(0));
    for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
        let mut it = CardQueue::new(Arc::clone(&card), queue, QueueSet::of(&device, queue), false);
        it.set_link(true);
        it.start().unwrap();
        port.seize(queue, || ()).unwrap().reset(Endpoint::Card(Box::new(it)));
    }
    fixture.ports.note_receiver(QueueId::receive(slot, 0), true);
    registry
}

fn frame(octets: u32) -> Vec<u8> {
    let mut frame = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]].concat();
    frame.resize(octets as usize, 0);
    frame
}

/// From the card to a guest.
pub fn comes_in(octets: u32, bursts: u32) -> Vec<u64> {
    let (mut fixture, _) = fixture(1, 2048);
    let mut receiver = fixture.receivers.pop().unwrap();
    for head in 0..SIZE {
        receiver.describe(head, (DATA + u64::from(head) * 2176, 2048, VIRTQ_DESC_F_WRITE, 0));
    }
    let registry = card_at(&fixture, 0);
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    // The queue is turned on by its first burst.
    serve(&mut fixture, port, &mut queue);
    let frame = frame(octets);
    let mut sample = || {
        registry.hold(false);
        (0..BURST).for_each(|_| assert!(registry.model.receive(&frame)));
        receiver.claim(receiver.used_idx().wrapping_add(SIZE));
        registry.hold(true);
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        cycles
    };
    (0..bursts).map(|_| sample()).collect()
}

/// From a guest to the card.
pub fn goes_out(octets: u32, bursts: u32) -> Vec<u64> {
    let (mut fixture, mut sender) = fixture(0, 0);
    for head in 0..SIZE {
        let at = DATA + u64::from(head) * 2176;
        sender.write(at + 12, &frame(octets));
        sender.describe(head, (at, 12 + octets, 0, 0));
        sender.offer(head);
    }
    run_split(&fixture, 0, 1, &sender);
    let registry = card_at(&fixture, 1);
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    let mut offered = 0u16;
    let mut sample = || {
        registry.hold(false);
        assert_eq!(registry.model.count_sent(), if offered == 0 { 0 } else { usize::from(BURST) });
        offered = offered.wrapping_add(BURST);
        sender.claim(offered);
        registry.hold(true);
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        cycles
    };
    // The counter of offered frames goes round.
    (0..bursts.min(2000)).map(|_| sample()).collect()
}
