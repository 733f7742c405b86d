//! What a burst may cost: its budget and one frame, whatever a guest sends and to however many ports. And what
//! happens to frames that follow each other in one burst.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use sv3::frame::MacAddr;
use sv3::ledger::LedgerMap;
use sv3::rules::{Isolation, PortRules};
use sv3::snooping::{Snooping, SnoopingRun};
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::*;
use crate::forward::leases::Leases;
use crate::forward::snooping::message::write;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::meddling::meddler;
use crate::poll::fair_share::TURN;
use crate::port::Ports;
use crate::port::cost::PASSED_BY;
use crate::port::counting::Counting;
use crate::port::view::View;
use crate::port::vring::driver::{BASE, Driver, PackedDriver};
use crate::port::vring::queue::Queue;
use crate::process::crash_points::armed;

mod guarded;

pub(super) const SIZE: u16 = 256;
pub(super) const DATA: u64 = BASE + 0x2_0000;
const UNKNOWN: [u8; 6] = [2, 0, 0, 0, 0, 99];

/// Has a vring run: ring 0 of a port receives, ring 1 transmits.
pub(in crate::forward) fn run_at(
    fixture: &Fixture,
    slot: u16,
    ring: u16,
    queue: Queue,
    memory: &GuestMemory,
    features: u64,
) {
    let port = fixture.ports.make(slot, fixture.ledger).unwrap();
    assert!(port.make_pair(0));
    let mut lease = port.seize(QueueId::new(slot, ring), || ()).unwrap();
    let vring = lease.vring().unwrap();
    vring.features = features;
    vring.queue = Some(queue);
    vring.memory = memory.clone();
    vring.enabled = true;
}

/// The same with a split ring.
pub(in crate::forward) fn run_split(fixture: &Fixture, slot: u16, ring: u16, driver: &Driver) {
    let features = VIRTIO_F_VERSION_1.mask();
    run_at(fixture, slot, ring, Queue::Split(driver.ring(features)), &driver.memory, features);
}

pub(in crate::forward) struct Fixture {
    pub ledger: &'static LedgerMap,
    pub ports: &'static Ports,
    pub forwarder: Forwarder,
    pub burst: Burst,
    pub receivers: Vec<Driver>,
}

/// A forwarder of receivers with buffers of that many octets, and the driver that port 0 is.
pub(in crate::forward) fn fixture(receivers: u16, buffer: u32) -> (Fixture, Driver) {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let ports: &Ports = Box::leak(Box::new(Ports::new()));
    let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
    let forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
    let mut burst = Burst::new();
    burst.set_batch(64);
    let mut fixture = Fixture { ledger, ports, forwarder, burst, receivers: Vec::new() };
    for slot in 1..=receivers {
        let mut driver = Driver::new(SIZE);
        for head in 0..SIZE {
            driver.describe(head, (DATA, buffer, VIRTQ_DESC_F_WRITE, 0));
            driver.offer(head);
        }
        run_split(&fixture, slot, 0, &driver);
        ports.note_receiver(QueueId::receive(slot, 0), true);
        fixture.receivers.push(driver);
    }
    (fixture, Driver::new(SIZE))
}

impl Fixture {
    /// Serves one burst of the frames that port 0 has made available.
    fn serve(&mut self, driver: &Driver) -> Served {
        run_split(self, 0, 1, driver);
        let served = self.serve_as_it_is(TURN);
        // Frames that were taken and not served are still in the ring.
        assert_eq!(usize::from(driver.used_idx()), served.frames);
        served
    }

    /// Serves one burst of port 0's queue.
    pub fn serve_as_it_is(&mut self, budget: u64) -> Served {
        let port = self.ports.get(0).unwrap();
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let id = QueueId::transmit(0, 0);
        self.burst.serve(&mut self.forwarder, (port, id), &mut queue, budget, false).unwrap()
    }

    /// Frames that receivers have got.
    pub fn delivered(&self) -> u64 {
        self.receivers.iter().map(|receiver| u64::from(receiver.used_idx())).sum()
    }
}

/// Fills the ring with frames to an unknown address and serves one burst of them.
fn flood(fixture: &mut Fixture, mut driver: Driver, octets: u32) -> Served {
    driver.write(DATA + 12, &[UNKNOWN, [2, 0, 0, 0, 0, 1]].concat());
    for head in 0..SIZE {
        driver.describe(head, (DATA, 12 + octets, 0, 0));
        driver.offer(head);
    }
    fixture.serve(&driver)
}

#[test]
fn a_batch_of_small_frames_is_within_a_turn() {
    let (mut fixture, driver) = fixture(1, 2048);
    let served = flood(&mut fixture, driver, 64);
    assert_eq!((served.frames, fixture.delivered()), (64, 64));
    assert!(served.cost <= TURN + crate::port::cost::SIGNAL * 2, "{served:?}");
}

#[test]
fn long_frames_are_few() {
    let (mut far, driver) = fixture(1, 0x1_1000);
    assert_eq!((flood(&mut far, driver, 60_000).frames, far.delivered()), (1, 1));
    let (mut fixture, driver) = fixture(1, 2048);
    let served = flood(&mut fixture, driver, 1514);
    assert!(served.frames as u64 * 1514 <= TURN + 1514, "{served:?}");
}

#[test]
fn a_flood_counts_for_each_receiver() {
    let (mut fixture, driver) = fixture(20, 2048);
    let served = flood(&mut fixture, driver, 1000);
    let delivered = fixture.delivered();
    assert_eq!(delivered, 20 * served.frames as u64, "each frame to all or none");
    assert!(served.frames > 0 && delivered * 1000 <= TURN + 20 * 1000, "{served:?}");
}

/// A receiver that a flood passes by costs time as well.
#[test]
fn a_flood_counts_for_those_that_do_not_get_it() {
    let (mut fixture, driver) = fixture(20, 2048);
    let group = |number| TrafficRules::of(&PortRules { isolation: Isolation::Group(number), ..PortRules::default() });
    run_split(&fixture, 0, 1, &driver);
    fixture.ports.get(0).unwrap().transmit(0).unwrap().lease(0).unwrap().rules = group(1);
    for slot in 1..=20 {
        fixture.ports.get(slot).unwrap().receive(0).unwrap().lease(0).unwrap().rules = group(2);
    }
    let served = flood(&mut fixture, driver, 64);
    assert_eq!(fixture.delivered(), 0);
    assert!(served.frames > 0 && served.frames as u64 * 20 * PASSED_BY <= TURN + 20 * PASSED_BY, "{served:?}");
}

#[test]
fn a_burst_ends_where_another_thread_has_a_receiver() {
    let (mut fixture, driver) = fixture(3, 2048);
    let port = fixture.ports.get(2).unwrap();
    let theirs = port.receive(0).unwrap().lease(1).unwrap();
    let served = flood(&mut fixture, driver, 64);
    // A flood goes to all receivers or to none. The burst has given back every lease that it had.
    assert_eq!((served.frames, served.end, fixture.delivered()), (0, End::Contended, 0));
    for slot in [1, 3] {
        assert!(fixture.ports.get(slot).unwrap().receive(0).unwrap().lease(1).is_some());
    }
    drop(theirs);
    let served = flood(&mut fixture, Driver::new(SIZE), 64);
    assert_eq!((served.end, fixture.delivered()), (End::Done, 3 * served.frames as u64));
    assert!(served.frames > 0);
}

#[test]
fn descriptors_without_octets_are_counted() {
    let (mut fixture, mut driver) = fixture(1, 2048);
    for head in 0..SIZE {
        driver.describe(head, (0, 0, VIRTQ_DESC_F_NEXT, (head + 1) % SIZE));
        driver.offer(head);
    }
    let served = fixture.serve(&driver);
    assert!(served.frames as u64 * u64::from(SIZE) * DESCRIPTOR <= 2 * TURN, "{served:?}");
}

/// One frame is refused before its look-up. The frames behind it must not take the egress of the frame before it.
#[test]
fn a_frame_behind_a_refused_one_goes_where_it_is_addressed_to() {
    let (mut fixture, mut driver) = fixture(2, 2048);
    let address = |n: u8| [2, 0, 0, 0, 1, n];
    for n in [1, 2] {
        fixture.forwarder.learn(MacAddr::new(address(n)), n.into());
    }
    // To 1; to 2, with a checksum offload that was not negotiated; to 2; to 2, too short; to 2.
    for (head, (to, flags, octets)) in
        (0..).zip([(1, 0, 64), (2, 1, 64), (2, 0, 64), (1, 0, 64), (2, 0, 13), (2, 0, 64)])
    {
        let at = DATA + u64::from(head) * 256;
        driver.write(at, &[flags]);
        driver.write(at + 12, &[address(to), address(9)].concat());
        driver.describe(head, (at, 12 + octets, 0, 0));
        driver.offer(head);
    }
    assert_eq!(fixture.serve(&driver).frames, 6);
    let got: Vec<_> = fixture.receivers.iter().map(Driver::used_idx).collect();
    assert_eq!(got, [2, 2]);
}

/// The journal of a packed ring is full in the middle of a burst, so the ring publishes its entries then. Wherever
/// the worker dies, each visible frame is complete.
#[test]
fn what_is_published_within_a_burst_has_been_copied() {
    const SMALL: u16 = 10;
    let frame = |n: u16| [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]].concat().into_iter().chain([n as u8 + 1; 8]);
    for passes in 0.. {
        let (mut fixture, mut sender) = fixture(0, 0);
        let mut receiver = PackedDriver::new(2048);
        for id in 0..2048 {
            assert!(receiver.offer(id, &[(DATA + u64::from(id) * 32, 32, VIRTQ_DESC_F_WRITE)]));
        }
        let features = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_MRG_RXBUF.mask();
        run_at(&fixture, 1, 0, Queue::Packed(receiver.ring(features)), &receiver.guest.memory, features);
        fixture.ports.note_receiver(QueueId::receive(1, 0), true);
        // Frames of one buffer each, and one frame of 1,020 buffers.
        for head in 0..=SMALL {
            let at = DATA + u64::from(head) * 64;
            let frame: Vec<u8> = frame(head).collect();
            sender.write(at + 12, &frame);
            sender.describe(head, (at, if head < SMALL { 32 } else { 1020 * 32 }, 0, 0));
            sender.offer(head);
        }
        armed::arm(passes);
        let served = catch_unwind(AssertUnwindSafe(|| fixture.serve(&sender)));
        armed::arm(u32::MAX);
        let seen: Vec<_> = std::iter::from_fn(|| receiver.take_used()).collect();
        for (n, used) in (0..SMALL).zip(&seen) {
            assert_eq!(*used, (n, 32), "{passes}");
            let got = receiver.guest.read(DATA + u64::from(n) * 32 + 12, 20);
            assert!(frame(n).eq(got), "frame {n} is seen and is not there, after {passes} passes");
        }
        if served.is_ok() {
            assert_eq!(seen.len(), usize::from(SMALL) + 1020);
            break;
        }
    }
}

/// A guest that writes to a frame as soon as the switch has read it. One receiver gets the frame together with
/// others, or merged from small buffers; as a flood or as unicast; in one piece or in many.
#[test]
fn what_was_looked_at_is_what_is_delivered() {
    let frame = |to: [u8; 6], n: u8| [to, [2, 0, 0, 0, 0, 9]].concat().into_iter().chain([n; 60]).collect::<Vec<_>>();
    let known = [2, 0, 0, 0, 1, 1];
    for (to, buffer, cuts) in [known, UNKNOWN]
        .into_iter()
        .flat_map(|to| [2048, 40].into_iter().flat_map(move |buffer| [0, 9, 20, 30].map(|cut| (to, buffer, cut))))
    {
        let (mut fixture, mut sender) = fixture(2, buffer);
        fixture.forwarder.learn(MacAddr::new(known), 1);
        for slot in [1, 2] {
            let mut lease = fixture.ports.get(slot).unwrap().seize(QueueId::receive(slot, 0), || ()).unwrap();
            lease.vring().unwrap().features |= VIRTIO_NET_F_MRG_RXBUF.mask();
            let receiver = &mut fixture.receivers[usize::from(slot) - 1];
            for head in 0..SIZE {
                receiver.describe(head, (DATA + u64::from(head) * 2048, buffer, VIRTQ_DESC_F_WRITE, 0));
            }
        }
        for n in 0..4u16 {
            let at = DATA + u64::from(n) * 256;
            let octets = frame(to, n as u8);
            sender.write(at + 12, &octets);
            let end = 12 + octets.len() as u32;
            match cuts {
                0 => sender.describe(2 * n, (at, end, 0, 0)),
                cut => {
                    sender.describe(2 * n, (at, cut, VIRTQ_DESC_F_NEXT, 2 * n + 1));
                    sender.describe(2 * n + 1, (at + u64::from(cut), end - cut, 0, 0));
                }
            }
            sender.offer(2 * n);
        }
        meddler::set(true);
        assert_eq!(fixture.serve(&sender).frames, 4);
        meddler::set(false);
        let receivers = if to == known { 1 } else { 2 };
        for receiver in &fixture.receivers[..receivers] {
            let mut got = (0..receiver.used_idx()).map(|at| {
                let (head, len) = receiver.used(at);
                receiver.read(DATA + u64::from(head) * 2048, len as usize)
            });
            for n in 0..4 {
                let mut octets = got.next().unwrap();
                for _ in 1..u16::from_le_bytes([octets[10], octets[11]]) {
                    octets.extend(got.next().unwrap());
                }
                assert_eq!(octets[12..], frame(to, n), "{to:x?} in buffers of {buffer}, cut at {cuts}");
            }
        }
    }
}

/// The same in a switch that snoops: a report, and a datagram to a group.
#[test]
fn what_decides_where_a_group_s_frame_goes_is_delivered_as_it_was_read() {
    const TO: &str = "239.1.2.3";
    let report = write::igmp("10.0.0.2", TO, &write::igmp2(0x16, 0, TO));
    let datagram = write::ipv4("10.0.0.2", TO, 17, &[5; 60]);
    for (packet, cut) in [&report, &datagram].into_iter().flat_map(|packet| [0, 20, 30, 40].map(|cut| (packet, cut))) {
        let (mut fixture, mut sender) = fixture(2, 2048);
        fixture.forwarder.snooping.table.set(Some(&SnoopingRun::begin(Snooping::default())));
        let source = [2, 0, 0, 0, 0, 9];
        let frame = [&write::group_mac(TO).octets()[..], &source, &[8, 0], packet].concat();
        sender.write(DATA + 12, &frame);
        let end = 12 + frame.len() as u32;
        match cut {
            0 => sender.describe(0, (DATA, end, 0, 0)),
            cut => {
                sender.describe(0, (DATA, cut, VIRTQ_DESC_F_NEXT, 1));
                sender.describe(1, (DATA + u64::from(cut), end - cut, 0, 0));
            }
        }
        sender.offer(0);
        meddler::set(true);
        assert_eq!(fixture.serve(&sender).frames, 1);
        meddler::set(false);
        for receiver in &fixture.receivers {
            assert_eq!(receiver.used_idx(), 1);
            assert_eq!(receiver.read(DATA + 12, frame.len()), frame, "cut at {cut}");
        }
        assert!(
            fixture.ledger.groups.places[0].iter().any(|place| place.key.load(Relaxed) != 0) == (packet == &report)
        );
    }
}
