//! An in-memory port beside a guest's port: frames both ways, floods, pauses, and offloads that it did not negotiate.

use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ledger::LedgerMap;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTQ_DESC_F_WRITE};

use super::*;
use crate::forward::burst::{Burst, End, Served};
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::poll::fair_share::TURN;
use crate::poll::pause::{Pauses, Remaining};
use crate::port::endpoint::Endpoint;
use crate::port::view::View;
use crate::port::vring::driver::{BASE, Driver};
use crate::port::vring::queue::Queue;
use crate::port::{Ports, QueueLease};

/// The guest's port, and two in-memory ports.
const GUEST: u16 = 0;
const A: u16 = 1;
const B: u16 = 2;
/// Descriptors of the guest's rings, and the address of its buffers.
const SIZE: u16 = 16;
const DATA: u64 = BASE + 0x2_0000;
const NOW: u64 = 1_000_000_000_000;

struct Switch {
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
    /// The guest's receive and transmit ring.
    rings: [Driver; 2],
}

fn mac(slot: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0, slot as u8]
}

/// Header and frame. The octets of the frame identify it.
fn frame(to: [u8; 6], from: u16, n: u8) -> Vec<u8> {
    [&[0; 12][..], &to, &mac(from), &[8, 0], &[n; 50]].concat()
}

impl Switch {
    fn new() -> Switch {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let ports: &Ports = Box::leak(Box::new(Ports::new()));
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        forwarder.now_ns = NOW;
        let mut burst = Burst::new();
        burst.set_batch(64);
        let switch = Switch { ports, forwarder, burst, rings: [Driver::new(SIZE), Driver::new(SIZE)] };
        for slot in [GUEST, A, B] {
            assert!(ports.make(slot, ledger).unwrap().make_pair(0));
            for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
                switch.start(queue);
            }
            ports.note_receiver(QueueId::receive(slot, 0), true);
        }
        switch
    }

    fn start(&self, queue: QueueId) {
        let mut lease = self.seize(queue);
        if queue.slot != GUEST {
            *lease.endpoint() = Endpoint::InMemory(InMemory::new(0, 100));
            return;
        }
        let (driver, vring) = (&self.rings[usize::from(queue.index)], lease.vring().unwrap());
        vring.features = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_CSUM.mask();
        vring.queue = Some(Queue::Split(driver.ring(vring.features)));
        vring.memory = driver.memory.clone();
        vring.enabled = true;
    }

    fn seize(&self, queue: QueueId) -> QueueLease {
        self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap()
    }

    fn with<T>(&self, queue: QueueId, look: impl FnOnce(&mut InMemory) -> T) -> T {
        match self.seize(queue).endpoint() {
            Endpoint::InMemory(queue) => look(queue),
            _ => panic!("another kind"),
        }
    }

    /// Gives frames to an in-memory port, to be sent.
    fn send(&self, slot: u16, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.with(QueueId::transmit(slot, 0), |queue| queue.to_send.extend(frames));
    }

    fn serve(&mut self, slot: u16) -> Served {
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, TURN, true).unwrap();
        queue.is_paused = matches!(served.end, End::Waits(..));
        served
    }

    /// Takes the frames that an in-memory port has received.
    fn take_received(&self, slot: u16) -> Vec<Vec<u8>> {
        self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received))
    }

    /// The guest makes a receive buffer available.
    fn give_buffer(&mut self, head: u16) {
        let [receive, _] = &mut self.rings;
        receive.describe(head, (DATA + u64::from(head) * 2048, 2048, VIRTQ_DESC_F_WRITE, 0));
        receive.offer(head);
    }

    /// The guest makes a frame available.
    fn guest_sends(&mut self, head: u16, octets: &[u8]) {
        let [_, transmit] = &mut self.rings;
        let at = DATA + u64::from(head) * 2048;
        transmit.write(at, octets);
        transmit.describe(head, (at, octets.len() as u32, 0, 0));
        transmit.offer(head);
    }
}

/// The same frame as a receiver gets it: in one buffer.
fn as_received(mut octets: Vec<u8>) -> Vec<u8> {
    octets[10] = 1;
    octets
}

#[test]
fn frames_go_both_ways_between_kinds_in_order() {
    let mut switch = Switch::new();
    for slot in [GUEST, A, B] {
        switch.forwarder.learn(MacAddr::new(mac(slot)), slot);
    }
    (0..8).for_each(|head| switch.give_buffer(head));
    // To the guest, to another in-memory port, and to the guest again.
    let to = [GUEST, GUEST, B, B, B, GUEST];
    switch.send(A, (0..).zip(to).map(|(n, to)| frame(mac(to), A, n)));
    assert_eq!(switch.serve(A).frames, 6);
    assert!(switch.with(QueueId::transmit(A, 0), |queue| queue.to_send.is_empty()), "its frames are given back");
    assert_eq!(switch.take_received(B), [2, 3, 4].map(|n| as_received(frame(mac(B), A, n))));
    let [receive, _] = &switch.rings;
    assert_eq!(receive.used_idx(), 3);
    for (at, n) in (0..3).zip([0, 1, 5]) {
        let (head, len) = receive.used(at);
        assert_eq!(receive.read(DATA + u64::from(head) * 2048, len as usize), as_received(frame(mac(GUEST), A, n)));
    }
    // And back.
    (0..4).for_each(|n| switch.guest_sends(n, &frame(mac(A), GUEST, n as u8)));
    assert_eq!(switch.serve(GUEST).frames, 4);
    assert_eq!(switch.take_received(A), [0, 1, 2, 3].map(|n| as_received(frame(mac(A), GUEST, n))));
    assert!(switch.take_received(B).is_empty());
}

#[test]
fn a_flood_reaches_ports_of_all_kinds() {
    let mut switch = Switch::new();
    (0..2).for_each(|head| switch.give_buffer(head));
    switch.send(B, [frame([0xff; 6], B, 7)]);
    assert_eq!(switch.serve(B).frames, 1);
    assert_eq!(switch.take_received(A), [as_received(frame([0xff; 6], B, 7))]);
    assert_eq!((switch.rings[0].used_idx(), switch.take_received(B).len()), (1, 0));
}

#[test]
fn a_sender_is_paused_for_a_receiver_of_another_kind() {
    let mut switch = Switch::new();
    switch.forwarder.learn(MacAddr::new(mac(A)), A);
    switch.with(QueueId::receive(A, 0), |queue| queue.room = 2);
    (0..3).for_each(|n| switch.guest_sends(n, &frame(mac(A), GUEST, n as u8)));
    let Served { frames: 2, end: End::Waits(wait, longest), .. } = switch.serve(GUEST) else {
        panic!("it is not waited for");
    };
    assert_eq!((wait.queue, switch.take_received(A).len()), (QueueId::receive(A, 0), 2));
    let (mut pauses, view) = (Pauses::new(), switch.forwarder.view);
    pauses.pause((), QueueId::transmit(GUEST, 0), wait, Remaining::new(NOW, longest));
    assert!(pauses.next_due(&view, NOW).is_none());
    switch.with(QueueId::receive(A, 0), |queue| queue.room = 1);
    assert!(pauses.next_due(&view, NOW).is_some(), "there is room");
    assert_eq!(switch.serve(GUEST).frames, 1);
    assert_eq!(switch.take_received(A), [as_received(frame(mac(A), GUEST, 2))]);
}

#[test]
fn what_a_kind_lacks_is_done_in_software() {
    let mut switch = Switch::new();
    switch.forwarder.learn(MacAddr::new(mac(A)), A);
    // A checksum of the last 50 octets, stored 2 octets after their start.
    let mut octets = frame(mac(A), GUEST, 0);
    octets[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    octets[6..10].copy_from_slice(&[14, 0, 2, 0]);
    switch.guest_sends(0, &octets);
    assert_eq!(switch.serve(GUEST).frames, 1);
    let got = switch.take_received(A);
    assert_eq!(got[0][..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(got[0][12 + 14 + 2..][..2], [0xff, 0xff], "the sum of nothing");
}

#[test]
fn a_queue_that_is_closed_gets_nothing_and_says_so() {
    let mut switch = Switch::new();
    switch.forwarder.learn(MacAddr::new(mac(A)), A);
    switch.with(QueueId::receive(A, 0), |queue| queue.break_with(RingFault::Unmapped));
    switch.guest_sends(0, &frame(mac(A), GUEST, 0));
    assert_eq!(switch.serve(GUEST).frames, 1);
    let drops = &switch.ports.get(A).unwrap().counters().drops;
    assert_eq!(drops[DropReason::RxDown as usize].load(std::sync::atomic::Ordering::Relaxed), 1);
}
