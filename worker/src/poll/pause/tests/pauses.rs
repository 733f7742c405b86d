//! Paused rings: how many, until when, and what remains of a pause that ends early.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ledger::{LedgerMap, PauseCounters};
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_WRITE};

use super::super::*;
use crate::port::counting::Counting;
use crate::port::vring::driver::{BASE, Driver};
use crate::port::vring::queue::Queue;
use crate::port::wait_budget::{LONGEST_NS, SAVED_NS};
use crate::port::{Ports, QueueLease, ReceiveLease, TransmitLease};

/// The time at which tests begin, and a millisecond; both in nanoseconds.
const NOW: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;
/// Slot of the receiver; those of senders follow.
const RECEIVER: u16 = 0;

struct Fixture {
    ports: &'static Ports,
    view: View,
    receiver: Driver,
    /// Keeps the memory of the senders' rings. Nothing is taken from them here.
    _sender: Driver,
}

/// A receiver without buffers, `senders` senders, and the view of one of `threads` threads.
fn fixture(senders: u16, threads: usize) -> Fixture {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let ports: &Ports = Box::leak(Box::new(Ports::new()));
    let (receiver, sender) = (Driver::new(8), Driver::new(8));
    let view = View { ports, number: 0, counting: Counting { single_threaded: threads == 1 } };
    for slot in 0..=senders {
        let (driver, queue) = match slot {
            RECEIVER => (&receiver, QueueId::receive(slot, 0)),
            _ => (&sender, QueueId::transmit(slot, 0)),
        };
        let port = ports.make(slot, ledger).unwrap();
        assert!(port.make_pair(0));
        let mut lease = port.seize(queue, || ()).unwrap();
        let vring = lease.vring().unwrap();
        vring.features = VIRTIO_F_VERSION_1.mask();
        vring.queue = Some(Queue::Split(driver.ring(vring.features)));
        vring.memory = driver.memory.clone();
        vring.enabled = true;
        if let QueueLease::Transmit(queue) = &mut lease {
            queue.wait_budget.left(NOW);
        }
    }
    Fixture { ports, view, receiver, _sender: sender }
}

impl Fixture {
    fn receiver(&self) -> ReceiveLease {
        self.ports.get(RECEIVER).unwrap().receive(0).unwrap().lease(0).unwrap()
    }

    fn sender(&self, slot: u16) -> TransmitLease {
        self.ports.get(slot).unwrap().transmit(0).unwrap().lease(0).unwrap()
    }

    /// Stops a queue as commands do.
    fn stop(&self, queue: QueueId) {
        let mut lease = self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap();
        lease.unpause();
        lease.vring().unwrap().end();
    }

    /// Pauses a sender's queue, named by its slot, for the receiver's next buffer.
    fn pause(&self, pauses: &mut Pauses<u16>, slot: u16, remaining: Remaining) {
        let cursor = self.receiver().endpoint.position();
        self.sender(slot).is_paused = true;
        let wait = BufferWait { queue: QueueId::receive(RECEIVER, 0), cursor };
        pauses.pause(slot, QueueId::transmit(slot, 0), wait, remaining);
    }

    /// The receiver makes a buffer available.
    fn give(&mut self) {
        self.receiver.describe(0, (BASE + 0x2_0000, 2048, VIRTQ_DESC_F_WRITE, 0));
        self.receiver.offer(0);
    }

    /// Times and nanoseconds that a sender was paused and that senders were paused for the receiver.
    fn counted(&self, slot: u16) -> [(u64, u64); 2] {
        let read = |counters: &PauseCounters| (counters.times.load(Relaxed), counters.ns.load(Relaxed));
        let of = |slot| self.view.counters(slot).unwrap();
        [read(&of(slot).paused), read(&of(RECEIVER).paused_others)]
    }
}

#[test]
fn a_thread_pauses_so_many_and_has_room_again_when_one_ends() {
    let fixture = fixture(MAX_PAUSED as u16, 1);
    let mut pauses = Pauses::new();
    for slot in 1..=MAX_PAUSED as u16 {
        assert!(!pauses.is_full());
        fixture.pause(&mut pauses, slot, Remaining::new(NOW, u64::from(slot) * MS));
    }
    assert!(pauses.is_full());
    assert_eq!(pauses.until(), Some(NOW + MS));
    assert!(pauses.next_due(&fixture.view, NOW).is_none());
    // The pauses that are over, and no other.
    assert_eq!(pauses.next_due(&fixture.view, NOW + MS).map(|(slot, _)| slot), Some(1));
    assert!(!pauses.is_full());
    assert!(pauses.next_due(&fixture.view, NOW + MS).is_none());
    assert_eq!(pauses.until(), Some(NOW + 2 * MS));
    // Its sender may be paused again, and a command may end the pause of another one at any time.
    fixture.pause(&mut pauses, 1, Remaining::new(NOW + MS, MS));
    assert!(pauses.is_full());
    assert_eq!(pauses.release(QueueId::transmit(9, 0), &fixture.view, NOW + MS).map(|(slot, _)| slot), Some(9));
    assert!(pauses.release(QueueId::transmit(9, 0), &fixture.view, NOW + MS).is_none());
    let remaining = std::iter::from_fn(|| pauses.next(&fixture.view, NOW + MS)).count();
    assert_eq!((remaining, pauses.until()), (MAX_PAUSED - 1, None));
}

#[test]
fn a_pause_that_ends_early_leaves_the_rest_of_its_time_and_no_more() {
    let mut fixture = fixture(2, 1);
    let mut pauses = Pauses::new();
    fixture.pause(&mut pauses, 1, Remaining::new(NOW, LONGEST_NS));
    fixture.give();
    let (slot, remaining) = pauses.next_due(&fixture.view, NOW + 5 * MS).unwrap();
    let remaining = remaining.unwrap();
    assert_eq!((slot, remaining.since, remaining.until), (1, NOW + 5 * MS, NOW + LONGEST_NS));
    assert_eq!(fixture.counted(1), [(1, 5 * MS); 2]);
    assert_eq!(fixture.receiver().futile_at, None, "it was not waited for in vain");
    assert!(!fixture.sender(1).is_paused);

    // Another sender's frame took the buffer.
    let empty = Driver::new(8);
    fixture.receiver().endpoint.vring().unwrap().queue = Some(Queue::Split(empty.ring(0)));
    fixture.pause(&mut pauses, 1, remaining);
    assert!(pauses.next_due(&fixture.view, NOW + LONGEST_NS - 1).is_none());
    assert_eq!(pauses.until(), Some(NOW + LONGEST_NS));
    let (slot, remaining) = pauses.next_due(&fixture.view, NOW + LONGEST_NS).unwrap();
    let remaining = remaining.unwrap();
    assert_eq!((slot, remaining.since, remaining.until), (1, NOW + LONGEST_NS, NOW + LONGEST_NS));
    assert_eq!(fixture.counted(1), [(2, LONGEST_NS); 2]);
    assert_eq!(fixture.receiver().futile_at, Some(0), "it was");
    // Nothing of the pause remains.
    fixture.pause(&mut pauses, 1, remaining);
    assert!(pauses.next_due(&fixture.view, NOW + LONGEST_NS).is_some());
    // The budget paid for all of it, once.
    fixture.sender(1).wait_budget.spend(SAVED_NS - LONGEST_NS - MS);
    assert_eq!(fixture.sender(1).wait_budget.left(NOW), MS);
}

#[test]
fn a_ring_that_was_stopped_while_it_was_paused_leaves_no_rest() {
    let fixture = fixture(1, 1);
    let mut pauses = Pauses::new();
    fixture.pause(&mut pauses, 1, Remaining::new(NOW, LONGEST_NS));
    fixture.stop(QueueId::transmit(1, 0));
    let (slot, remaining) = pauses.release(QueueId::transmit(1, 0), &fixture.view, NOW + 5 * MS).unwrap();
    assert!(slot == 1 && remaining.is_none());
    assert_eq!(fixture.counted(1), [(0, 0); 2]);
    // The next client of the port has the whole budget.
    fixture.sender(1).wait_budget.spend(SAVED_NS - MS);
    assert_eq!(fixture.sender(1).wait_budget.left(NOW), MS);
    // The same if no command ends the pause and time passes. It does not count as a pause for the receiver.
    fixture.pause(&mut pauses, 1, Remaining::new(NOW, LONGEST_NS));
    fixture.stop(QueueId::transmit(1, 0));
    assert!(pauses.next_due(&fixture.view, NOW + LONGEST_NS).is_some_and(|(_, remaining)| remaining.is_none()));
    assert_eq!(fixture.receiver().futile_at, None);
}

#[test]
fn a_receiver_that_stops_is_waited_for_no_more() {
    for threads in [1, 2] {
        let fixture = fixture(3, threads);
        let mut pauses = Pauses::new();
        for slot in 1..=3 {
            fixture.pause(&mut pauses, slot, Remaining::new(NOW, LONGEST_NS));
        }
        fixture.stop(QueueId::receive(RECEIVER, 0));
        let ended =
            std::iter::from_fn(|| pauses.next_due(&fixture.view, NOW)).filter(|(_, remaining)| remaining.is_some());
        assert_eq!(ended.count(), 3);
    }
}

#[test]
fn the_loop_sleeps_when_all_receivers_kick_or_have_been_looked_at() {
    for threads in [1, 2] {
        let mut fixture = fixture(3, threads);
        let mut pauses = Pauses::new();
        for slot in 1..=2 {
            fixture.pause(&mut pauses, slot, Remaining::new(NOW, LONGEST_NS));
        }
        assert!(!pauses.are_armed());
        assert!(pauses.arm(&fixture.view, NOW).is_none());
        assert!(pauses.are_armed());
        // Another queue that waits for the same receiver must be armed by itself.
        fixture.pause(&mut pauses, 3, Remaining::new(NOW, LONGEST_NS));
        assert!(!pauses.are_armed());
        fixture.give();
        // The receiver has a buffer now. The queue that is tried again takes the kick away from those that still
        // wait.
        let (slot, remaining) = pauses.arm(&fixture.view, NOW + MS).unwrap();
        assert!(slot == 3 && remaining.is_some());
        assert!(!pauses.are_armed());
        let others = std::iter::from_fn(|| pauses.arm(&fixture.view, NOW + MS)).count();
        assert_eq!((others, pauses.are_armed(), pauses.until()), (2, true, None));
    }
}

#[test]
fn a_clock_at_its_end_or_that_goes_back_pauses_nobody_for_ever() {
    let fixture = fixture(1, 1);
    let mut pauses = Pauses::new();
    fixture.pause(&mut pauses, 1, Remaining::new(u64::MAX - 1, LONGEST_NS));
    assert!(pauses.next_due(&fixture.view, u64::MAX).is_some());
    fixture.pause(&mut pauses, 1, Remaining::new(NOW, LONGEST_NS));
    let (_, remaining) = pauses.next(&fixture.view, NOW - MS).unwrap();
    assert_eq!(remaining.map(|rest| rest.until), Some(NOW + LONGEST_NS));
    assert_eq!(fixture.counted(1)[0].0, 2);
}
