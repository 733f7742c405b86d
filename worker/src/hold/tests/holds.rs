//! Rings that are held: how many, until when, and what is left of a hold that ends early.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ledger::{LedgerMap, PauseCounters};
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_WRITE};

use super::super::*;
use crate::fabric::Room;
use crate::guest::driver::{BASE, Driver};
use crate::guest::queue::Queue;
use crate::port::Ports;

/// When tests begin, and a millisecond, in nanoseconds.
const NOW: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;
/// Slot of the receiver; those of senders follow.
const RECEIVER: u16 = 0;

struct House {
    ports: &'static Ports,
    fabric: Fabric,
    receiver: Driver,
    /// Whose rings the senders' are; nothing is taken from them here.
    _sender: Driver,
}

/// A receiver without buffers, and so many senders; the view of one of so many threads.
fn house(senders: u16, threads: usize) -> House {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let ports: &Ports = Box::leak(Box::new(Ports::new()));
    let (receiver, sender) = (Driver::new(8), Driver::new(8));
    for slot in 0..=senders {
        let driver = if slot == RECEIVER { &receiver } else { &sender };
        let ring = if slot == RECEIVER { 0 } else { 1 };
        let mut state = ports.make(slot).unwrap().make_ring(ring).unwrap().lease(0).unwrap();
        state.features = VIRTIO_F_VERSION_1.mask();
        state.queue = Some(Queue::Split(driver.ring(state.features)));
        state.memory = driver.memory.clone();
        state.enabled = true;
        state.patience.left(NOW);
    }
    let fabric = Fabric::new(ledger, &ledger.workers[0].threads[0], ports, Room::new(), (0, threads));
    House { ports, fabric, receiver, _sender: sender }
}

impl House {
    fn ring(&self, slot: u16, ring: u16) -> RingLease {
        self.ports.get(slot).unwrap().ring(ring).unwrap().lease(0).unwrap()
    }

    /// Holds a sender's ring, named by its slot, for the receiver's next buffer.
    fn hold(&self, holds: &mut Holds<u16>, slot: u16, rest: Rest) {
        let cursor = self.ring(RECEIVER, 0).queue.as_ref().unwrap().position();
        self.ring(slot, 1).is_held = true;
        holds.hold(slot, (slot, 1), Wanted { slot: RECEIVER, ring: 0, cursor }, rest);
    }

    /// The receiver makes a buffer available.
    fn give(&mut self) {
        self.receiver.describe(0, (BASE + 0x2_0000, 2048, VIRTQ_DESC_F_WRITE, 0));
        self.receiver.offer(0);
    }

    /// Times and nanoseconds that a sender was held and that the receiver was waited for.
    fn counted(&self, slot: u16) -> [(u64, u64); 2] {
        let read = |line: &PauseCounters| (line.times.load(Relaxed), line.ns.load(Relaxed));
        [read(&self.fabric.line(slot).paused), read(&self.fabric.line(RECEIVER).paused_others)]
    }
}

#[test]
fn a_thread_holds_so_many_and_has_room_again_when_one_ends() {
    let house = house(MAX_HELD as u16, 1);
    let mut holds = Holds::new();
    for slot in 1..=MAX_HELD as u16 {
        assert!(!holds.is_full());
        house.hold(&mut holds, slot, Rest::new(NOW, u64::from(slot) * MS));
    }
    assert!(holds.is_full());
    assert_eq!(holds.until(), Some(NOW + MS));
    assert!(holds.next_due(&house.fabric, NOW).is_none());
    // Those that are over, and no other.
    assert_eq!(holds.next_due(&house.fabric, NOW + MS).map(|(slot, _)| slot), Some(1));
    assert!(!holds.is_full());
    assert!(holds.next_due(&house.fabric, NOW + MS).is_none());
    assert_eq!(holds.until(), Some(NOW + 2 * MS));
    // Its sender may be held again, and another one's be released whenever that is wished.
    house.hold(&mut holds, 1, Rest::new(NOW + MS, MS));
    assert!(holds.is_full());
    assert_eq!(holds.release((9, 1), &house.fabric, NOW + MS).map(|(slot, _)| slot), Some(9));
    assert!(holds.release((9, 1), &house.fabric, NOW + MS).is_none());
    let rest = std::iter::from_fn(|| holds.next(&house.fabric, NOW + MS)).count();
    assert_eq!((rest, holds.until()), (MAX_HELD - 1, None));
}

#[test]
fn a_hold_that_ends_early_leaves_the_rest_of_its_time_and_no_more() {
    let mut house = house(2, 1);
    let mut holds = Holds::new();
    house.hold(&mut holds, 1, Rest::new(NOW, LONGEST_NS));
    house.give();
    let (slot, rest) = holds.next_due(&house.fabric, NOW + 5 * MS).unwrap();
    let rest = rest.unwrap();
    assert_eq!((slot, rest.since, rest.until), (1, NOW + 5 * MS, NOW + LONGEST_NS));
    assert_eq!(house.counted(1), [(1, 5 * MS); 2]);
    assert_eq!(house.ring(RECEIVER, 0).in_vain, None, "it was not waited for in vain");
    assert!(!house.ring(1, 1).is_held);

    // Another sender's frame took the buffer.
    let empty = Driver::new(8);
    house.ring(RECEIVER, 0).queue = Some(Queue::Split(empty.ring(0)));
    house.hold(&mut holds, 1, rest);
    assert!(holds.next_due(&house.fabric, NOW + LONGEST_NS - 1).is_none());
    assert_eq!(holds.until(), Some(NOW + LONGEST_NS));
    let (slot, rest) = holds.next_due(&house.fabric, NOW + LONGEST_NS).unwrap();
    let rest = rest.unwrap();
    assert_eq!((slot, rest.since, rest.until), (1, NOW + LONGEST_NS, NOW + LONGEST_NS));
    assert_eq!(house.counted(1), [(2, LONGEST_NS); 2]);
    assert_eq!(house.ring(RECEIVER, 0).in_vain, Some(0), "it was");
    // Nothing is left of it.
    house.hold(&mut holds, 1, rest);
    assert!(holds.next_due(&house.fabric, NOW + LONGEST_NS).is_some());
    // All of it was paid for, once.
    house.ring(1, 1).patience.spend(SAVED_NS - LONGEST_NS - MS);
    assert_eq!(house.ring(1, 1).patience.left(NOW), MS);
}

#[test]
fn a_ring_that_was_stopped_while_it_was_held_leaves_no_rest() {
    let house = house(1, 1);
    let mut holds = Holds::new();
    house.hold(&mut holds, 1, Rest::new(NOW, LONGEST_NS));
    house.ring(1, 1).end();
    let (slot, rest) = holds.release((1, 1), &house.fabric, NOW + 5 * MS).unwrap();
    assert!(slot == 1 && rest.is_none());
    assert_eq!(house.counted(1), [(0, 0); 2]);
    // Whoever has the port next has all of its patience.
    house.ring(1, 1).patience.spend(SAVED_NS - MS);
    assert_eq!(house.ring(1, 1).patience.left(NOW), MS);
    // The same if nobody says so and time goes by; it was not for the receiver's sake.
    house.hold(&mut holds, 1, Rest::new(NOW, LONGEST_NS));
    house.ring(1, 1).end();
    assert!(holds.next_due(&house.fabric, NOW + LONGEST_NS).is_some_and(|(_, rest)| rest.is_none()));
    assert_eq!(house.ring(RECEIVER, 0).in_vain, None);
}

#[test]
fn a_receiver_that_stops_is_waited_for_no_more() {
    for threads in [1, 2] {
        let house = house(3, threads);
        let mut holds = Holds::new();
        for slot in 1..=3 {
            house.hold(&mut holds, slot, Rest::new(NOW, LONGEST_NS));
        }
        house.ring(RECEIVER, 0).end();
        let ended = std::iter::from_fn(|| holds.next_due(&house.fabric, NOW)).filter(|(_, rest)| rest.is_some());
        assert_eq!(ended.count(), 3);
    }
}

#[test]
fn the_loop_sleeps_when_all_receivers_kick_or_have_been_looked_at() {
    for threads in [1, 2] {
        let mut house = house(3, threads);
        let mut holds = Holds::new();
        for slot in 1..=2 {
            house.hold(&mut holds, slot, Rest::new(NOW, LONGEST_NS));
        }
        assert!(!holds.are_armed());
        assert!(holds.arm(&house.fabric, NOW).is_none());
        assert!(holds.are_armed());
        // One more for the same receiver is armed by itself.
        house.hold(&mut holds, 3, Rest::new(NOW, LONGEST_NS));
        assert!(!holds.are_armed());
        house.give();
        // Which has a buffer now: who is tried takes the kick away from those that still wait.
        let (slot, rest) = holds.arm(&house.fabric, NOW + MS).unwrap();
        assert!(slot == 3 && rest.is_some());
        assert!(!holds.are_armed());
        let others = std::iter::from_fn(|| holds.arm(&house.fabric, NOW + MS)).count();
        assert_eq!((others, holds.are_armed(), holds.until()), (2, true, None));
    }
}

#[test]
fn a_clock_at_its_end_or_that_goes_back_holds_nobody_for_ever() {
    let house = house(1, 1);
    let mut holds = Holds::new();
    house.hold(&mut holds, 1, Rest::new(u64::MAX - 1, LONGEST_NS));
    assert!(holds.next_due(&house.fabric, u64::MAX).is_some());
    house.hold(&mut holds, 1, Rest::new(NOW, LONGEST_NS));
    let (_, rest) = holds.next(&house.fabric, NOW - MS).unwrap();
    assert_eq!(rest.map(|rest| rest.until), Some(NOW + LONGEST_NS));
    assert_eq!(house.counted(1)[0].0, 2);
}
