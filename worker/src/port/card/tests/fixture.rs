//! A guest in memory and a card, and workers that come and go.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardModel, CardSettings};
use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use crate::forward::burst::{Burst, End};
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
use crate::port::in_memory::InMemory;
use crate::port::view::View;

/// Slots of the guest and of the card, and the last octet of addresses.
pub const GUEST: u16 = 0;
pub const CARD: u16 = 1;
/// A station behind the wire.
pub const OUTSIDE: u16 = 9;
/// A guest with all features.
pub const GUEST_ALL: u64 =
    HOST | VIRTIO_NET_F_GUEST_CSUM.mask() | VIRTIO_NET_F_GUEST_TSO4.mask() | VIRTIO_NET_F_GUEST_TSO6.mask();
pub const HOST: u64 = VIRTIO_NET_F_CSUM.mask()
    | VIRTIO_NET_F_HOST_TSO4.mask()
    | VIRTIO_NET_F_HOST_TSO6.mask()
    | VIRTIO_NET_F_HOST_ECN.mask()
    | VIRTIO_NET_F_HOST_USO.mask();

pub fn mac(of: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0, of as u8 + 1]
}

/// A frame that a number tells from others.
pub fn frame(to: u16, from: u16, number: u32, len: usize) -> Vec<u8> {
    let head = [&mac(to)[..], &mac(from), &[0x88, 0xb5], &number.to_be_bytes()].concat();
    let rest = (head.len()..len).map(|at| at as u8 ^ number as u8);
    head.iter().copied().chain(rest).collect()
}

pub fn settings() -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 512 << 10,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 512,
        buffer: 2048,
        transmit: 2 << 20,
        mtu: 9000,
        lro: false,
        zero_copy: false,
        mac: None,
        run: 1,
    }
}

/// A physical function, and a virtual one.
pub fn both() -> [CardSettings; 2] {
    [settings(), CardSettings { model: CardModel::IxgbeVf, bar_size: 16 << 10, ..settings() }]
}

/// What outlives a worker, and the worker.
pub struct Fixture {
    pub model: ModelCard,
    file: OwnedFd,
    settings: CardSettings,
    ledger: &'static LedgerMap,
    worker: Worker,
}

/// What a guest's memory keeps.
struct Guest {
    features: u64,
    to_send: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
}

/// What dies with a worker, but for the guest's port, which keeps what a guest's memory would.
struct Worker {
    ports: &'static Ports,
    forwarder: Option<Forwarder>,
    burst: Burst,
    card: Arc<Card>,
    device: Device,
}

impl Worker {
    fn new(
        ledger: &'static LedgerMap,
        model: &ModelCard,
        file: &OwnedFd,
        settings: CardSettings,
        guest: Guest,
    ) -> Worker {
        let ports: &Ports = Box::leak(Box::new(Ports::new()));
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        forwarder.now_ns = crate::process::clock::now_ns();
        forwarder.learn(MacAddr::new(mac(GUEST)), GUEST);
        forwarder.learn(MacAddr::new(mac(OUTSIDE)), CARD);
        let mut burst = Burst::new();
        burst.set_batch(32);
        let (memory, registers) = (CardMemory::new(file, settings).unwrap(), model.registers());
        let mut device = Device::open(&registers, &memory).unwrap();
        assert_eq!(device.filter(&registers, &[mac(GUEST)]).unwrap(), 1);
        let goes_on = memory.state().run.swap(settings.run, Relaxed) == settings.run;
        let card = Arc::new(Card { bar: registers, memory });
        for slot in [GUEST, CARD] {
            assert!(ports.make(slot, ledger).unwrap().make_pair(0));
            ports.note_receiver(QueueId::receive(slot, 0), true);
        }
        let worker = Worker { ports, forwarder: Some(forwarder), burst, card, device };
        let mut receives = InMemory::new(guest.features, usize::MAX);
        receives.received = guest.received;
        worker.set(QueueId::receive(GUEST, 0), Endpoint::InMemory(receives));
        let mut sends = InMemory::new(guest.features, 0);
        sends.to_send = guest.to_send;
        worker.set(QueueId::transmit(GUEST, 0), Endpoint::InMemory(sends));
        for queue in [QueueId::receive(CARD, 0), QueueId::transmit(CARD, 0)] {
            let mut it = CardQueue::new(Arc::clone(&worker.card), queue, Registers::of(&worker.device, queue), goes_on);
            it.set_link(true);
            worker.set(queue, Endpoint::Card(Box::new(it)));
        }
        worker
    }

    fn set(&self, queue: QueueId, endpoint: Endpoint) {
        self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap().reset(endpoint);
    }

    fn start(&mut self) {
        assert!(self.device.start(&self.card.bar).unwrap());
        for queue in [QueueId::receive(CARD, 0), QueueId::transmit(CARD, 0)] {
            let mut lease = self.ports.get(CARD).unwrap().seize(queue, || ()).unwrap();
            lease.endpoint().card().unwrap().start().unwrap();
        }
    }

    fn guest<T>(&self, transmits: bool, look: impl FnOnce(&mut InMemory) -> T) -> T {
        let queue = if transmits { QueueId::transmit(GUEST, 0) } else { QueueId::receive(GUEST, 0) };
        match self.ports.get(GUEST).unwrap().seize(queue, || ()).unwrap().endpoint() {
            Endpoint::InMemory(it) => look(it),
            _ => panic!("no port in memory"),
        }
    }

    fn serve(&mut self, slot: u16) -> usize {
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let forwarder = self.forwarder.as_mut().unwrap();
        forwarder.now_ns = crate::process::clock::now_ns();
        let served = self.burst.serve(forwarder, (port, id), &mut queue, 16 * TURN, true).unwrap();
        match served.end {
            End::Waits(..) => 0,
            _ => served.frames,
        }
    }
}

impl Fixture {
    pub fn new(settings: CardSettings, features: u64) -> Fixture {
        let file = file(&settings);
        let model = ModelCard::new(&file, settings);
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let worker =
            Worker::new(ledger, &model, &file, settings, Guest { features, to_send: Vec::new(), received: Vec::new() });
        let mut fixture = Fixture { model, file, settings, ledger, worker };
        fixture.worker.start();
        // The queue is turned on when nothing is left in it.
        assert_eq!(fixture.worker.serve(CARD), 0);
        fixture
    }

    /// The worker is dead: the supervisor stops the card, and the next worker opens it.
    pub fn replace(&mut self) {
        self.model.set_bus_master(false);
        let worker = &mut self.worker;
        // Gives back the leases of a burst that did not end.
        worker.forwarder = None;
        let guest = Guest {
            features: worker.guest(true, |it| it.features),
            to_send: worker.guest(true, |it| std::mem::take(&mut it.to_send)),
            received: worker.guest(false, |it| std::mem::take(&mut it.received)),
        };
        self.worker = Worker::new(self.ledger, &self.model, &self.file, self.settings, guest);
    }

    /// The card reaches its memory again.
    pub fn start(&mut self) {
        self.model.set_bus_master(true);
        self.worker.start();
    }

    /// A frame with a net header.
    pub fn guest_sends_with(&self, hdr: NetHdr, frame: &[u8]) {
        let octets = [&hdr.to_bytes()[..], frame].concat();
        self.worker.guest(true, |it| it.to_send.push(octets));
    }

    pub fn guest_sends(&self, frame: Vec<u8>) {
        self.guest_sends_with(NetHdr::NONE, &frame);
    }

    pub fn guest_has_left(&self) -> usize {
        self.worker.guest(true, |it| it.to_send.len())
    }

    /// What the guest received, with headers.
    pub fn guest_got(&self) -> Vec<(NetHdr, Vec<u8>)> {
        let all = self.worker.guest(false, |it| std::mem::take(&mut it.received));
        let split = |octets: Vec<u8>| {
            let (hdr, frame) = octets.split_at(NET_HDR_LEN);
            (NetHdr::from_bytes(hdr.try_into().unwrap()), frame.to_vec())
        };
        all.into_iter().map(split).collect()
    }

    /// One burst of each port.
    pub fn serve_once(&mut self) -> usize {
        self.worker.serve(GUEST) + self.worker.serve(CARD)
    }

    /// Bursts until there is nothing.
    pub fn serve(&mut self) {
        while self.serve_once() > 0 {}
    }

    pub fn pause_wire(&self, paused: bool) {
        self.model.set_paused(paused);
    }

    pub fn drops(&self, slot: u16, reason: DropReason) -> u64 {
        self.ledger.ports[usize::from(slot)].drops[reason as usize].load(Relaxed)
    }
}
