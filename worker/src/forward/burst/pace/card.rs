//! A network card beside a guest's split ring. The model of the 82599 does its work between two bursts: what the worker
//! writes to registers in a burst reaches it afterwards.

use std::sync::Arc;

use super::*;
use crate::nic::held_card::{HeldCard, frame};
use crate::port::card::{CardQueue, Registers};
use crate::port::endpoint::Endpoint;

/// A card that runs at a slot.
fn card_at(fixture: &Fixture, slot: u16) -> HeldCard {
    let (held, card, device) = HeldCard::started();
    let port = fixture.ports.make(slot, fixture.ledger).unwrap();
    assert!(port.make_pair(0));
    for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
        let mut it = CardQueue::new(Arc::clone(&card), queue, Registers::of(&device, queue), false);
        it.set_link(true);
        it.start().unwrap();
        port.seize(queue, || ()).unwrap().reset(Endpoint::Card(Box::new(it)));
    }
    fixture.ports.note_receiver(QueueId::receive(slot, 0), true);
    held
}

/// From the card to a guest.
pub fn comes_in(octets: u32, bursts: u32) -> Vec<u64> {
    let (mut fixture, _) = fixture(1, 2048);
    let mut receiver = fixture.receivers.pop().unwrap();
    for head in 0..SIZE {
        receiver.describe(head, (DATA + u64::from(head) * 2176, 2048, VIRTQ_DESC_F_WRITE, 0));
    }
    let held = card_at(&fixture, 0);
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    // The queue is turned on by its first burst.
    serve(&mut fixture, port, &mut queue);
    let frame = frame(octets);
    let mut sample = || {
        held.hold(false);
        (0..BURST).for_each(|_| assert!(held.model.receive(&frame)));
        receiver.claim(receiver.used_idx().wrapping_add(SIZE));
        held.hold(true);
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
    let held = card_at(&fixture, 1);
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    let mut offered = 0u16;
    let mut sample = || {
        held.hold(false);
        assert_eq!(held.model.count_sent(), if offered == 0 { 0 } else { usize::from(BURST) });
        offered = offered.wrapping_add(BURST);
        sender.claim(offered);
        held.hold(true);
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        cycles
    };
    // The counter of offered frames goes round.
    (0..bursts.min(2000)).map(|_| sample()).collect()
}

/// From one card to another.
pub fn passes(octets: u32, bursts: u32) -> Vec<u64> {
    let (mut fixture, _) = fixture(0, 0);
    let (from, to) = (card_at(&fixture, 0), card_at(&fixture, 1));
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    // The queue is turned on by its first burst.
    serve(&mut fixture, port, &mut queue);
    let frame = frame(octets);
    let mut sample = || {
        from.hold(false);
        (0..BURST).for_each(|_| assert!(from.model.receive(&frame)));
        from.hold(true);
        to.hold(true);
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(BURST));
        to.hold(false);
        assert_eq!(to.model.count_sent(), usize::from(BURST));
        cycles
    };
    (0..bursts).map(|_| sample()).collect()
}
