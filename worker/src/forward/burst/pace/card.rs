//! A network card beside a guest's split ring. The model of the 82599 does its work between two bursts: what the worker
//! writes to registers in a burst reaches it afterwards.

use std::sync::Arc;

use sv3::virtio::{
    NetHdr, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_RING_F_INDIRECT_DESC, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT,
};

use super::*;
use crate::nic::held_card::{HeldCard, frame};
use crate::port::card::{CardQueue, Registers};
use crate::port::endpoint::Endpoint;
use crate::port::vring::driver::{BASE, Driver, REGION};
use crate::port::vring::held::Held;

/// A card that runs at a slot, and may read guests' memory or not.
fn card_at(fixture: &Fixture, slot: u16, zero_copy: bool) -> HeldCard {
    let (held, card, device) = HeldCard::started(zero_copy);
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
    let held = card_at(&fixture, 0, false);
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

/// The header of a frame of TCP over IPv4 with a payload of 64 KiB at most, and what is asked of the card.
fn long(octets: u32) -> (Vec<u8>, NetHdr) {
    let mut frame = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((octets as u16 - 14).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 81]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let hdr = NetHdr {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
        gso_type: VIRTIO_NET_HDR_GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..NetHdr::NONE
    };
    (frame, hdr)
}

/// Describes the frame of each head. Long ones are tables, as Linux makes them, of the header and of pages.
fn describe(sender: &mut Driver, octets: u32) {
    if octets <= 1518 {
        for head in 0..SIZE {
            let at = DATA + u64::from(head) * 2176;
            sender.write(at + 12, &frame(octets));
            sender.describe(head, (at, 12 + octets, 0, 0));
        }
        return;
    }
    const PAGE: u32 = 4096;
    let ((frame, hdr), pages) = (long(octets), (octets - 54).div_ceil(PAGE));
    for head in 0..SIZE {
        let (table, first) = (DATA + u64::from(head) * 1024, DATA + (1 << 19) + u64::from(head) * 256);
        sender.write(first, &[&hdr.to_bytes()[..], &frame].concat());
        sender.describe_at(table, 0, (first, 66, VIRTQ_DESC_F_NEXT, 1));
        for page in 0..pages {
            let len = PAGE.min(octets - 54 - page * PAGE);
            let at = BASE + REGION + u64::from((u32::from(head) * 17 + page) % 240 * PAGE);
            let flags = if page + 1 < pages { VIRTQ_DESC_F_NEXT } else { 0 };
            sender.describe_at(table, page as u16 + 1, (at, len, flags, page as u16 + 2));
        }
        sender.describe(head, (table, (pages + 1) * 16, VIRTQ_DESC_F_INDIRECT, 0));
    }
}

/// From a guest to the card, which reads the guest's memory or not.
pub fn goes_out(octets: u32, bursts: u32, zero_copy: bool) -> Vec<u64> {
    let (mut fixture, mut sender) = fixture(0, 0);
    describe(&mut sender, octets);
    (0..SIZE).for_each(|head| sender.offer(head));
    let features = VIRTIO_F_VERSION_1.mask()
        | VIRTIO_RING_F_INDIRECT_DESC.mask()
        | VIRTIO_NET_F_CSUM.mask()
        | VIRTIO_NET_F_HOST_TSO4.mask();
    run_at(&fixture, 0, 1, Queue::Split(sender.ring(features)), &sender.memory, features);
    let held = card_at(&fixture, 1, zero_copy);
    held.model.reach(Some(&sender.memory));
    let port = fixture.ports.get(0).unwrap();
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    if zero_copy {
        queue.endpoint.vring().unwrap().held = Some(Box::new(Held::new()));
    }
    fixture.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 7]), 1);
    let count = if octets > 1518 { 4 } else { BURST };
    let mut offered = 0u16;
    let mut sample = || {
        held.hold(false);
        assert!(offered == 0 || held.model.count_sent() >= usize::from(count));
        offered = offered.wrapping_add(count);
        sender.claim(offered);
        held.hold(true);
        let begin = now();
        let served = serve(&mut fixture, port, &mut queue);
        let cycles = now() - begin;
        assert_eq!(served.frames, usize::from(count));
        cycles * u64::from(BURST / count)
    };
    // The counter of offered frames goes round.
    (0..bursts.min(2000)).map(|_| sample()).collect()
}

/// From one card to another.
pub fn passes(octets: u32, bursts: u32) -> Vec<u64> {
    let (mut fixture, _) = fixture(0, 0);
    let (from, to) = (card_at(&fixture, 0, false), card_at(&fixture, 1, false));
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
