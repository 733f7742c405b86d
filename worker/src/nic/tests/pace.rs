//! What the driver alone spends on a frame, in bursts of 32. This is a tool to make it faster, not a test: callgrind
//! counts the instructions inside of `counted_receive` and `counted_send`. See docs/develop/measuring.md.

use std::sync::Arc;

use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;
use crate::nic::card::Card;
use crate::nic::held_card::{HeldCard, frame};
use crate::nic::plain_card;
use crate::nic::receive_queue::{Part, ReceiveQueue, Received, Taker};
use crate::nic::request::Request;
use crate::nic::transmit_queue::{PIECE, TransmitQueue};

const BURST: usize = 32;
/// Octets of the net header in front of a frame that is sent.
const IN_FRONT: usize = 12;

/// A burst that keeps where its frames are.
#[derive(Default)]
struct Burst {
    parts: [Part; BURST],
    count: usize,
}

impl Taker for Burst {
    #[inline(always)]
    fn simple(&mut self, part: Part, _: bool) -> bool {
        let Some(place) = self.parts.get_mut(self.count) else { return false };
        *place = part;
        self.count += 1;
        true
    }

    fn any(&mut self, _: Received, _: &[Part]) -> bool {
        false
    }
}

#[inline(never)]
fn counted_receive(queue: &mut ReceiveQueue, card: &Card) -> usize {
    let mut burst = Burst::default();
    let taken = queue.take(&card.memory, BURST, &mut burst).unwrap();
    std::hint::black_box(&burst.parts);
    queue.complete(taken);
    queue.publish(card);
    taken
}

#[inline(never)]
fn counted_send(queue: &mut TransmitQueue, card: &Card, frames: &[(GuestSlice<'_>, FrameHead)]) -> usize {
    queue.clean(&card.memory).unwrap();
    let (mut all, mut sent) = (frames.iter().map(|(slice, head)| (slice, head)), 0);
    loop {
        let put = queue.put_plain(&card.memory, &mut all, 60..=PIECE);
        sent += put.frames as usize;
        let Some((slice, _)) = put.left else { break };
        put_one(queue, card, slice);
        sent += 1;
    }
    queue.publish(card);
    sent
}

/// A frame for which there is no room at once: at the end of the area, as a rule.
#[inline(never)]
fn put_one(queue: &mut TransmitQueue, card: &Card, slice: &GuestSlice<'_>) {
    let len = slice.len() - IN_FRONT;
    let place = queue.find(&card.memory, len).unwrap().unwrap();
    slice.copy_to(IN_FRONT, &place.frame, 0, len);
    queue.put(&card.memory, &place, &Request::plain(len as u32));
}

fn receive(octets: u32, bursts: u32) {
    let (held, card, device) = HeldCard::started(false);
    let mut queue = ReceiveQueue::open(&card.memory, 0, device.receive_registers(0), false);
    queue.turn_on(&card).unwrap();
    let frame = frame(octets);
    for _ in 0..bursts {
        (0..BURST).for_each(|_| assert!(held.model.receive(&frame)));
        held.hold(true);
        assert_eq!(counted_receive(&mut queue, &card), BURST);
        held.hold(false);
    }
}

fn send(octets: u32, bursts: u32) {
    let (held, card, device): (_, Arc<Card>, _) = HeldCard::started(false);
    let mut queue = TransmitQueue::open(&card.memory, 0, device.transmit_registers(0), false, false);
    queue.turn_on(&card).unwrap();
    let guest = plain_card::memory(plain_card::settings());
    let slices = (0..BURST).map(|at| guest.slice(4096 + 2048 * at, IN_FRONT + octets as usize));
    let frames: Vec<_> = slices
        .map(|slice| {
            slice.write(IN_FRONT, &frame(octets));
            (slice, FrameHead::read(&[slice]))
        })
        .collect();
    for _ in 0..bursts {
        held.hold(true);
        assert_eq!(counted_send(&mut queue, &card, &frames), BURST);
        held.hold(false);
        assert_eq!(held.model.count_sent(), BURST);
    }
}

/// `SV3_PACE=OCTETS,BURSTS` sends and receives that many bursts.
#[test]
#[ignore = "a measurement"]
fn queues_alone() {
    let numbers = std::env::var("SV3_PACE").unwrap_or_default();
    let numbers: Vec<u32> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
    let (octets, bursts) = (numbers.first().copied().unwrap_or(64), numbers.get(1).copied().unwrap_or(100));
    receive(octets, bursts);
    send(octets, bursts);
}
