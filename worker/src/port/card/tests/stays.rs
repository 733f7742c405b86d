//! Frames that stay in their sender's memory until the card has sent them: what the card sends is equal to the octet,
//! no buffer is given back too early, and deaths cost no frame.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sv3::card::CardSettings;
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use super::fixture::{CARD, GUEST, HOST, OUTSIDE, both, frame, mac};
use super::kills::{assert_all, numbers};
use super::offloads::every_kind;
use crate::forward::burst::Burst;
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::nic::card::Card;
use crate::nic::device::Device;
use crate::nic::memory::CardMemory;
use crate::nic::model_card::{ModelCard, file};
use crate::poll::fair_share::TURN;
use crate::port::Ports;
use crate::port::card::{CardQueue, Registers};
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::view::View;
use crate::port::vring::driver::{BASE, Driver};
use crate::port::vring::held::Held;
use crate::port::vring::queue::Queue;
use crate::process::crash_points::armed;

const SIZE: u16 = 128;
const DATA: u64 = BASE + 0x1_0000;
const ROOM: u64 = 0x1_8000;
const FEATURES: u64 = VIRTIO_F_VERSION_1.mask() | HOST;

/// What outlives a worker, and the worker.
struct World {
    driver: Driver,
    model: ModelCard,
    file: OwnedFd,
    settings: CardSettings,
    ledger: &'static LedgerMap,
    worker: Worker,
    offered: u16,
}

struct Worker {
    ports: &'static Ports,
    forwarder: Option<Forwarder>,
    burst: Burst,
    device: Device,
    card: Arc<Card>,
}

/// A card that may read guests' memory, or not.
fn settings(zero_copy: bool) -> [CardSettings; 2] {
    both().map(|settings| CardSettings { zero_copy, ..settings })
}

fn worker(
    driver: &Driver,
    model: &ModelCard,
    file: &OwnedFd,
    settings: CardSettings,
    ledger: &'static LedgerMap,
) -> Worker {
    let ports: &Ports = Box::leak(Box::new(Ports::new()));
    let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
    let forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
    forwarder.learn(MacAddr::new(mac(OUTSIDE)), CARD);
    let mut burst = Burst::new();
    burst.set_batch(32);
    let (memory, registers) = (CardMemory::new(file, settings).unwrap(), model.registers());
    let device = Device::open(&registers, &memory).unwrap();
    let goes_on = memory.state().run.swap(settings.run, Relaxed) == settings.run;
    let card = Arc::new(Card { bar: registers, memory });
    [GUEST, CARD].iter().for_each(|slot| assert!(ports.make(*slot, ledger).unwrap().make_pair(0)));
    let queue = QueueId::receive(CARD, 0);
    let mut it = CardQueue::new(Arc::clone(&card), queue, Registers::of(&device, queue), goes_on);
    it.set_link(true);
    ports.get(CARD).unwrap().seize(queue, || ()).unwrap().reset(Endpoint::Card(Box::new(it)));
    ports.note_receiver(queue, true);
    let mut lease = ports.get(GUEST).unwrap().seize(QueueId::transmit(GUEST, 0), || ()).unwrap();
    let vring = lease.vring().unwrap();
    (vring.queue, vring.memory) = (Some(Queue::Split(driver.ring(FEATURES))), driver.memory.clone());
    (vring.features, vring.enabled) = (FEATURES, true);
    drop(lease);
    Worker { ports, forwarder: Some(forwarder), burst, device, card }
}

impl World {
    fn new(settings: CardSettings) -> World {
        let (driver, file) = (Driver::new(SIZE), file(&settings));
        let model = ModelCard::new(&file, settings);
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let worker = worker(&driver, &model, &file, settings, ledger);
        let mut world = World { driver, model, file, settings, ledger, worker, offered: 0 };
        world.start();
        world
    }

    /// The card runs, and the guest's memory is mapped for it.
    fn start(&mut self) {
        self.model.set_bus_master(true);
        assert!(self.worker.device.start(&self.worker.card.bar).unwrap());
        self.card(|it| it.start().unwrap());
        if self.settings.zero_copy {
            self.model.reach(Some(&self.driver.memory));
            self.ring(|it| it.held = Some(Box::new(Held::new())));
        }
    }

    fn card<T>(&self, work: impl FnOnce(&mut CardQueue) -> T) -> T {
        let queue = QueueId::receive(CARD, 0);
        work(self.worker.ports.get(CARD).unwrap().seize(queue, || ()).unwrap().endpoint().card().unwrap())
    }

    fn ring<T>(&self, work: impl FnOnce(&mut crate::port::vring::Vring) -> T) -> T {
        let queue = QueueId::transmit(GUEST, 0);
        work(self.worker.ports.get(GUEST).unwrap().seize(queue, || ()).unwrap().vring().unwrap())
    }

    /// The worker is dead. The card stops, and reads no guest's memory until the next worker has mapped it.
    fn replace(&mut self) {
        self.model.set_bus_master(false);
        self.model.reach(None);
        self.worker.forwarder = None;
        self.worker = worker(&self.driver, &self.model, &self.file, self.settings, self.ledger);
    }

    /// Offers a frame in `cut` pieces.
    fn send(&mut self, hdr: NetHdr, frame: &[u8], cut: usize) {
        let octets = [&hdr.to_bytes()[..], frame].concat();
        let (slot, cut) = (self.offered % (SIZE / 8), cut.clamp(1, 8));
        let at = DATA + u64::from(slot) * ROOM;
        self.driver.write(at, &octets);
        let piece = octets.len().div_ceil(cut);
        let count = octets.len().div_ceil(piece);
        for (n, begin) in (0u16..).zip((0..octets.len()).step_by(piece)) {
            let (index, len) = (slot * 8 + n, piece.min(octets.len() - begin));
            let flags = if usize::from(n) + 1 < count { VIRTQ_DESC_F_NEXT } else { 0 };
            self.driver.describe(index, (at + begin as u64, len as u32, flags, index + 1));
        }
        self.driver.offer(slot * 8);
        self.offered += 1;
    }

    fn serve_once(&mut self) -> usize {
        let (port, id) = (self.worker.ports.get(GUEST).unwrap(), QueueId::transmit(GUEST, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let forwarder = self.worker.forwarder.as_mut().unwrap();
        forwarder.now_ns = crate::process::clock::now_ns();
        self.worker.burst.serve(forwarder, (port, id), &mut queue, 16 * TURN, true).unwrap().frames
    }

    /// Until the guest has all of its buffers back.
    fn serve(&mut self) {
        for _ in 0..1000 {
            self.serve_once();
            if self.driver.used_idx() == self.offered {
                return;
            }
        }
        panic!("{} of {}", self.driver.used_idx(), self.offered);
    }
}

#[test]
fn what_the_card_sends_is_what_a_copy_would_be() {
    for (copies, stays) in settings(false).into_iter().zip(settings(true)) {
        let mut worlds = [World::new(copies), World::new(stays)];
        for (number, (frame, hdr)) in every_kind(OUTSIDE, GUEST).into_iter().enumerate() {
            for cut in [1, 2, 3, 7] {
                let sent = worlds.each_mut().map(|world| {
                    world.send(hdr, &frame, cut);
                    world.serve();
                    world.model.sent()
                });
                assert!(!sent[0].is_empty());
                assert!(sent[0] == sent[1], "{number}, {} octets in {cut} pieces, {hdr:?}", frame.len());
            }
        }
        worlds.iter().for_each(|world| world.model.assert_content());
    }
}

#[test]
fn a_buffer_is_given_back_when_the_card_has_read_it() {
    let mut world = World::new(settings(true)[0]);
    world.model.set_paused(true);
    let lens = [4000, 60, 3500, 100];
    for (number, len) in (0..).zip(lens) {
        world.send(NetHdr::NONE, &frame(OUTSIDE, GUEST, number, len), 1);
        world.serve_once();
    }
    assert_eq!((world.driver.used_idx(), world.ring(|it| it.held.as_ref().unwrap().len())), (0, 4));
    // The guest changes what it has given: its addresses were checked, and stay as they were.
    world.driver.write(DATA, &[0xee; 1000]);
    world.model.set_paused(false);
    world.serve();
    let sent = world.model.sent();
    let mut first = frame(OUTSIDE, GUEST, 0, 4000);
    first[52..1000 - 12].fill(0xee);
    assert!(sent[0] == first, "{:x?}", &sent[0][..80]);
    assert_eq!(numbers(&sent[1..]), [1, 2, 3]);
    world.model.assert_content();
}

#[test]
fn what_is_recalled_is_not_read_any_more() {
    let mut world = World::new(settings(true)[0]);
    world.model.set_paused(true);
    for (number, len) in (0..).zip([100, 4000, 200, 3500]) {
        world.send(NetHdr::NONE, &frame(OUTSIDE, GUEST, number, len), 1);
    }
    world.serve_once();
    world.card(|it| it.recall().unwrap());
    world.model.reach(None);
    world.ring(|it| it.held.as_mut().unwrap().close(true));
    world.model.set_paused(false);
    world.serve();
    // What was copied goes out. Then the ring's frames are taken once more.
    assert_eq!(numbers(&world.model.sent()), [0, 0, 1, 2, 3]);
    world.send(NetHdr::NONE, &frame(OUTSIDE, GUEST, 4, 4000), 1);
    world.serve();
    assert_eq!(numbers(&world.model.sent()), [4]);
    world.model.assert_content();
}

/// One worker after the other, each of which dies after some passes, until one lives. The wire is slow now and then.
fn live(settings: CardSettings, deaths: &[u32], slow: bool) -> bool {
    const FRAMES: u32 = 14;
    let mut world = World::new(settings);
    let len = |number: u32| 60 + (number * 1397 % 5000) as usize;
    (0..FRAMES)
        .for_each(|number| world.send(NetHdr::NONE, &frame(OUTSIDE, GUEST, number, len(number)), number as usize % 4));
    let (mut sent, mut died) = (Vec::new(), 0);
    for passes in deaths {
        world.model.set_paused(slow);
        armed::arm(*passes);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            world.serve_once();
            world.serve_once();
            world.model.set_paused(false);
            world.serve();
        }));
        armed::arm(u32::MAX);
        world.model.set_paused(false);
        sent.extend(world.model.sent());
        if outcome.is_ok() {
            break;
        }
        died += 1;
        world.replace();
        world.start();
    }
    world.serve();
    sent.extend(world.model.sent());
    assert_all(&numbers(&sent), FRAMES, 1 + died, &format!("{deaths:?}, {slow}"));
    for (number, octets) in numbers(&sent).into_iter().zip(&sent) {
        assert!(*octets == frame(OUTSIDE, GUEST, number, len(number)), "{deaths:?}, {slow}, {number}");
    }
    world.model.assert_content();
    died == deaths.len()
}

#[test]
fn a_death_at_any_point_costs_no_frame() {
    for settings in settings(true) {
        for slow in [false, true] {
            let points = (0..).take_while(|passes| live(settings, &[*passes], slow)).count();
            assert!(points > 20, "{points}");
        }
    }
}

#[test]
fn deaths_in_a_row_cost_no_frame() {
    for seed in 0..60u32 {
        let deaths: Vec<u32> = (0..4).map(|n| seed.wrapping_mul(2_654_435_761).rotate_left(n * 7) % 40).collect();
        live(settings(true)[0], &deaths, seed % 2 == 0);
    }
}
