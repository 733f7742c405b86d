//! Commands about network cards, on the model of the 82599.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use passfd::FdPassingExt;
use sv3::card::{CardModel, CardSettings, CardState, Statistic};
use sv3::frame::MacAddr;
use sv3::ipc::RingFault;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_NEXT};

use super::*;
use crate::memory::dma::Container;
use crate::memory::dma::simulated::Simulated;
use crate::nic::memory::CardMemory;
use crate::nic::model_card::{ModelCard, file};
use crate::port::vring::driver::{BASE, Driver, REGION};
use crate::port::vring::held::REST_NS;
use crate::process::clock;

const CARD: u16 = 3;
const GUEST: u16 = 0;

fn settings() -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 512 << 10,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 256,
        buffer: 2048,
        transmit: 256 << 10,
        mtu: 1500,
        lro: false,
        zero_copy: false,
        mac: None,
        run: 5,
    }
}

/// What the supervisor has of a card.
struct Device {
    model: ModelCard,
    memory: OwnedFd,
    vectors: [EventFd; 2],
    seen: CardMemory,
}

impl Device {
    fn new() -> Device {
        let memory = file(&settings());
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let (model, seen) = (ModelCard::new(&memory, settings()), CardMemory::new(&memory, settings()).unwrap());
        Device { model, memory, vectors: [event(), event()], seen }
    }

    fn state(&self) -> &CardState {
        self.seen.state()
    }

    /// The card's interrupts reach their eventfds.
    fn interrupt(&self) {
        let raised = self.model.interrupts();
        for (vector, event) in self.vectors.iter().enumerate() {
            if raised >> vector & 1 != 0 {
                event.write(1).unwrap();
            }
        }
    }
}

impl Worker {
    pub(super) fn tell_with(&mut self, command: Command, fd: &impl AsRawFd) -> Option<i32> {
        self.seq += 1;
        let envelope = Envelope { seq: self.seq, command, inherited: None };
        self.supervisor.write_all(&envelope.encode().unwrap()).unwrap();
        self.supervisor.send_fd(fd.as_raw_fd()).unwrap();
        self.tell(Command::Barrier)
    }

    /// Gives the worker a card, which it opens if it serves.
    fn give(&mut self, device: &Device) {
        assert_eq!(self.tell(Command::PortAdd { port: GUEST, kind: PortKind::Memory, learning: Learning::Free }), None);
        self.give_with(device, settings(), None);
    }

    /// The same, with a container for guests' memory.
    fn give_with(&mut self, device: &Device, settings: CardSettings, container: Option<Container>) {
        let port = CARD;
        assert_eq!(self.tell(Command::PortAdd { port, kind: PortKind::Card, learning: Learning::Uplink }), None);
        self.thread.cards.simulated = Some(device.model.registers());
        assert_eq!(self.tell_with(Command::CardMemory { port, settings }, &device.memory), None);
        for (vector, event) in (0..).zip(&device.vectors) {
            let fd = std::os::fd::AsFd::as_fd(event);
            assert_eq!(self.tell_with(Command::CardInterrupt { port, vector }, &fd), None);
        }
        if let Some(container) = container {
            self.thread.cards.keep_container(port, container, 1 << 30).unwrap();
        }
        assert_eq!(self.tell_with(Command::CardOpen { port, settings }, &device.memory), None);
        // It is open by the next command, if the mapper runs.
        assert_eq!(self.tell(Command::Barrier), None);
    }

    /// What was reported of the card.
    fn told(&mut self) -> Vec<(ReportKind, u64)> {
        assert_eq!(self.tell(Command::Barrier), None);
        let all = std::mem::take(&mut self.heard);
        all.into_iter().filter(|report| report.port == CARD).map(|report| (report.kind, report.value)).collect()
    }

    fn guest_sends(&mut self, frame: &[u8]) {
        let octets = [&[0; 12][..], frame].concat();
        self.with(QueueId::transmit(GUEST, 0), |it| it.to_send.push(octets));
        self.thread.poll(QueueId::transmit(GUEST, 0));
    }

    fn got(&mut self) -> Vec<Vec<u8>> {
        let all = self.with(QueueId::receive(GUEST, 0), |it| std::mem::take(&mut it.received));
        all.into_iter().map(|octets| octets[12..].to_vec()).collect()
    }
}

fn frame(from: u8, number: u8) -> Vec<u8> {
    [&[255; 6][..], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], &[number; 60]].concat()
}

/// A card that runs at a worker that serves.
fn running() -> (Worker, Device) {
    let (mut worker, device) = (Worker::new(false), Device::new());
    worker.give(&device);
    assert_eq!(worker.told(), [(ReportKind::CardReady, 0)]);
    assert_eq!(worker.tell(Command::CardStart { port: CARD }), None);
    assert_eq!(worker.told(), [(ReportKind::CardLink, 10_000)]);
    device.model.sent();
    (worker, device)
}

#[test]
fn a_card_is_opened_started_and_served_and_its_link_is_told() {
    let (mut worker, device) = running();
    assert!(device.model.receive(&frame(9, 1)));
    device.interrupt();
    worker.guest_sends(&frame(1, 2));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.got(), [frame(9, 1)]);
    assert!(device.model.sent().contains(&frame(1, 2)));
    assert_eq!(device.state().link.load(std::sync::atomic::Ordering::Relaxed), 10_000);
    for (up, speed) in [(false, 0), (true, 10_000)] {
        device.model.set_link(up);
        device.interrupt();
        assert_eq!(worker.told(), [(ReportKind::CardLink, speed)]);
        // Without a link nothing is kept for it.
        worker.guest_sends(&frame(1, 3));
        assert_eq!(worker.tell(Command::Barrier), None);
        assert_eq!(device.model.sent().contains(&frame(1, 3)), up);
    }
    device.model.assert_content();
}

#[test]
fn frames_go_on_while_a_card_is_reset() {
    let (mut worker, device) = (Worker::new(false), Device::new());
    worker.opens = false;
    assert_eq!(worker.tell(add(1)), None);
    worker.give(&device);
    for number in 0..3 {
        worker.guest_sends(&frame(1, number));
        assert_eq!((worker.told(), worker.received(1)), (Vec::new(), 1));
    }
    assert_ne!(worker.tell(Command::CardStart { port: CARD }), None);
    worker.opens = true;
    assert_eq!(worker.told(), [(ReportKind::CardReady, 0)]);
}

#[test]
fn a_card_that_is_reset_for_a_port_that_goes_is_forgotten() {
    for other in [false, true] {
        let (mut worker, device) = (Worker::new(false), Device::new());
        worker.opens = false;
        worker.give(&device);
        assert_eq!(worker.tell(Command::PortRemove { port: CARD }), None);
        let second = Device::new();
        if other {
            worker.give(&second);
        }
        worker.opens = true;
        let told = [worker.told(), worker.told(), worker.told()].concat();
        assert_eq!(told, if other { vec![(ReportKind::CardReady, 0)] } else { Vec::new() });
        assert_eq!(device.state().run.load(std::sync::atomic::Ordering::Relaxed), 0, "nobody has it");
    }
}

#[test]
fn an_idle_card_sleeps_and_its_interrupt_wakes_it() {
    let (mut worker, device) = running();
    // The loop's spinning is over.
    let sleeps = |worker: &mut Worker| {
        let mut may_sleep = None;
        for _ in 0..100_000 {
            worker.turn_briefly();
            may_sleep = worker.thread.poller.may_sleep();
            if may_sleep.is_some() {
                break;
            }
        }
        may_sleep
    };
    device.interrupt();
    for number in 0..3 {
        // The second in which statistics are due ends the sleep.
        assert!(matches!(sleeps(&mut worker), Some(Some(..=1000))));
        assert!(device.model.receive(&frame(9, number)));
        device.interrupt();
        let mut got = Vec::new();
        while got.is_empty() {
            worker.turn_briefly();
            got = worker.got();
        }
        assert_eq!(got, [frame(9, number)]);
    }
    device.model.assert_content();
}

impl Worker {
    /// A turn that does not block.
    fn turn_briefly(&mut self) {
        self.thread.poller.begin_turn();
        let looked = self.thread.poller.look(false).unwrap();
        self.thread.tend_cards(looked.cards);
        self.thread.poller.turn();
    }
}

#[test]
fn statistics_come_about_once_a_second() {
    let (mut worker, device) = running();
    assert!((0..5).all(|number| device.model.receive(&frame(9, number))));
    worker.thread.poller.forwarder.now_ns += 2_000_000_000;
    worker.thread.tend_cards(false);
    let count = &device.state().statistics[Statistic::GoodReceived as usize];
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 5);
}

#[test]
fn a_standby_opens_the_card_when_it_is_promoted_and_goes_on() {
    let (mut worker, device) = running();
    let mut standby = Worker::new(true);
    standby.give(&device);
    assert!(standby.told().is_empty());
    // Nothing runs the worker any more.
    worker.thread.poller.turn();
    assert!((0..5).all(|number| device.model.receive(&frame(9, number))));
    drop(worker);
    device.model.set_bus_master(false);
    assert_eq!(standby.tell(Command::Promote), None);
    assert_eq!(standby.told(), [(ReportKind::CardReady, 0)]);
    assert_eq!(standby.got(), (0..5).map(|number| frame(9, number)).collect::<Vec<_>>());
    standby.guest_sends(&frame(1, 7));
    assert_eq!(standby.tell(Command::Barrier), None);
    device.model.set_bus_master(true);
    assert!(device.model.sent().is_empty());
    assert_eq!(standby.tell(Command::CardStart { port: CARD }), None);
    assert_eq!(standby.told(), [(ReportKind::CardLink, 10_000)]);
    assert_eq!(device.model.sent(), [frame(1, 7)]);
    assert!(device.model.receive(&frame(9, 8)));
    device.interrupt();
    assert_eq!(standby.tell(Command::Barrier), None);
    assert_eq!(standby.got(), [frame(9, 8)]);
    device.model.assert_content();
}

#[test]
fn a_card_that_resets_itself_goes_on() {
    let (mut worker, device) = running();
    assert!(device.model.receive(&frame(9, 1)));
    device.model.reset();
    worker.thread.tend_cards(true);
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.got(), [frame(9, 1)], "what it had received before");
    worker.guest_sends(&frame(1, 3));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(device.model.sent(), [frame(1, 3)]);
    assert!(device.model.receive(&frame(9, 2)));
    assert_eq!(worker.tell(Command::Barrier), None);
    assert_eq!(worker.got(), [frame(9, 2)]);
    assert_eq!(device.state().statistics[Statistic::Resets as usize].load(std::sync::atomic::Ordering::Relaxed), 1);
    device.model.assert_content();
}

#[test]
fn a_card_that_is_gone_ends_its_port_and_nothing_else() {
    for look in [true, false] {
        let (mut worker, device) = running();
        let ring = settings().layout(0).receive_ring;
        match look {
            true => device.model.pull_out(),
            // A liar: a frame longer than its buffer.
            false => drop(device.seen.slice(ring, 16).write(8, &(5000u64 << 32 | 3).to_le_bytes())),
        }
        worker.thread.tend_cards(true);
        worker.thread.poll(QueueId::transmit(CARD, 0));
        let fault = if look { RingFault::CardGone } else { RingFault::BadCard };
        // What breaks in a turn is told behind the answer to a barrier.
        let told = [worker.told(), worker.told()].concat();
        assert_eq!(told, [(ReportKind::RingFault, fault as u64)]);
        assert_ne!(worker.tell(Command::CardStart { port: CARD }), None);
        // The supervisor removes it and adds it again; another card may come.
        assert_eq!(worker.tell(Command::PortRemove { port: CARD }), None);
        let other = Device::new();
        worker.give(&other);
        assert_eq!(worker.told(), [(ReportKind::CardReady, 0)]);
    }
}

#[test]
fn commands_out_of_order_fail_and_do_no_harm() {
    let (mut worker, device) = (Worker::new(false), Device::new());
    let (port, settings) = (CARD, settings());
    assert_ne!(worker.tell(Command::CardStart { port }), None);
    assert_ne!(worker.tell_with(Command::CardMemory { port, settings }, &device.memory), None);
    assert_ne!(worker.tell_with(Command::CardOpen { port, settings }, &device.memory), None);
    assert_ne!(worker.tell_with(Command::CardInterrupt { port, vector: 0 }, &device.memory), None);
    worker.give(&device);
    assert_ne!(worker.tell_with(Command::CardOpen { port, settings }, &device.memory), None);
    assert_eq!(worker.tell(Command::CardStart { port }), None);
    assert_ne!(worker.tell(Command::CardStart { port }), None);
    assert_eq!(worker.tell(Command::PortRemove { port }), None);
    assert!(device.model.sent().is_empty() || !device.model.receive(&frame(9, 1)));
}

/// A card that reads the memory of a guest with a ring of its own. All of that is pinned.
fn reading() -> (Worker, Device, Driver, Simulated) {
    let (mut worker, device, container) = (Worker::new(false), Device::new(), Simulated::default());
    let (threads, driver) = (worker.thread.threads, Driver::new(64));
    std::thread::spawn(|| threads.mapper.run(|| threads.first().nudge()));
    let settings = CardSettings { zero_copy: true, mtu: 9000, ..settings() };
    worker.give_with(&device, settings, Some(Container::Simulated(container.clone())));
    // Either the mapper or this thread has opened it.
    while worker.told() != [(ReportKind::CardReady, 0)] {}
    assert_eq!(worker.tell(Command::CardStart { port: CARD }), None);
    attach(&mut worker, &driver);
    while !worker.held(|held| held.is_some_and(|held| !held.is_closed(0))) {
        assert_eq!(worker.tell(Command::Barrier), None);
    }
    assert_eq!(container.octets() as u64, 2 * REGION);
    device.model.reach(Some(&worker.thread.client(GUEST).unwrap().memory.clone()));
    worker.thread.poller.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 9]), CARD);
    device.model.sent();
    (worker, device, driver, container)
}

/// A guest with two regions comes, and transmits by ring 1.
fn attach(worker: &mut Worker, driver: &Driver) {
    let (port, kind) = (GUEST, PortKind::Vrings);
    assert_eq!(worker.tell(Command::PortAdd { port, kind, learning: Learning::Free }), None);
    // Its headers have 12 octets.
    assert_eq!(worker.tell(Command::PortFeatures { port, features: VIRTIO_F_VERSION_1.mask() }), None);
    for (region, file) in &driver.regions {
        assert_eq!(worker.tell_with(Command::RegionAdd { port, region: *region }, file), None);
    }
    let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    let start = Command::RingStart { port, ring: 1, size: 64, addr: driver.addr(), base: 0, run: 1 };
    assert_eq!(worker.tell_with(start, &std::os::fd::AsFd::as_fd(&kick)), None);
    assert_eq!(worker.tell(Command::RingEnable { port, ring: 1, enable: true }), None);
}

impl Worker {
    fn held<T>(&mut self, look: impl FnOnce(Option<&crate::port::vring::held::Held>) -> T) -> T {
        let mut lease = self.thread.queue(QueueId::transmit(GUEST, 0)).unwrap();
        look(lease.vring().unwrap().held.as_deref())
    }

    /// The guest sends long frames from its second region, and the worker takes them.
    fn send_long(&mut self, driver: &mut Driver, numbers: std::ops::Range<u16>) {
        for number in numbers.clone() {
            let at = BASE + REGION + u64::from(number) * 8192;
            driver.write(at + 12, &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, number as u8]);
            driver.describe(number, (at, 1512, VIRTQ_DESC_F_NEXT, number + 32));
            driver.describe(number + 32, (at + 1512, 2500, 0, 0));
            driver.offer(number);
        }
        self.thread.poll(QueueId::transmit(GUEST, 0));
        (0..3).for_each(|_| self.turn_briefly());
    }
}

#[test]
fn memory_goes_when_no_card_reads_it_any_more() {
    for ends in [false, true] {
        let (mut worker, device, mut driver, container) = reading();
        device.model.set_paused(true);
        worker.send_long(&mut driver, 0..3);
        assert_eq!((driver.used_idx(), worker.held(|held| held.unwrap().len())), (0, 3));
        let (port, region) = (GUEST, driver.regions[1].0);
        let command = if ends { Command::PortRemove { port } } else { Command::RegionRemove { port, region } };
        // The answer comes after the memory is unpinned.
        assert_eq!(worker.tell(command), None);
        let left = if ends { 0 } else { REGION };
        assert_eq!(container.octets() as u64, left);
        device.model.reach(None);
        device.model.set_paused(false);
        (0..3).for_each(|_| worker.turn_briefly());
        assert!(device.model.sent().iter().all(|frame| frame[12..14] != [0x88, 0xb5]));
        device.model.assert_content();
    }
}

/// To take frames back stops the card for all. A client that makes it so, even one that comes again, is copied for a while.
#[test]
fn a_port_whose_frames_were_taken_back_is_copied_for_a_while() {
    for returns in [false, true] {
        let (mut worker, device, mut driver, container) = reading();
        device.model.set_paused(true);
        worker.send_long(&mut driver, 0..3);
        let (port, (region, file)) = (GUEST, &driver.regions[1]);
        let before = clock::now_ns();
        if returns {
            assert_eq!(worker.tell(Command::PortRemove { port }), None);
            attach(&mut worker, &driver);
        } else {
            assert_eq!(worker.tell(Command::RegionRemove { port, region: *region }), None);
            assert_eq!(worker.tell_with(Command::RegionAdd { port, region: *region }, file), None);
        }
        while container.octets() as u64 != 2 * REGION
            || worker.held(|held| held.is_none_or(|held| held.is_closed(u64::MAX)))
        {
            assert_eq!(worker.tell(Command::Barrier), None);
        }
        assert!(worker.held(|held| held.unwrap().is_closed(before + REST_NS - 1)), "returns: {returns}");
    }
}

/// What a card reads belongs to the guest again when the command is done.
#[test]
fn a_card_that_does_not_let_go_is_stopped_before_memory_goes() {
    let (mut worker, device, mut driver, _) = reading();
    device.model.set_paused(true);
    worker.send_long(&mut driver, 0..3);
    device.model.pull_out();
    assert_eq!(worker.tell(Command::RegionRemove { port: GUEST, region: driver.regions[1].0 }), None);
    let card = QueueId::receive(CARD, 0);
    assert!(worker.thread.with_card(card, |_| ()).is_none(), "it is stopped already");
    assert!(worker.told().contains(&(ReportKind::RingFault, RingFault::CardGone as u64)));
    worker.thread.poll(QueueId::transmit(GUEST, 0));
    (0..3).for_each(|_| worker.turn_briefly());
    assert_eq!(driver.used_idx(), 3, "frames to nowhere do not stay");
}

#[test]
fn a_link_that_goes_gives_buffers_back() {
    let (mut worker, device, mut driver, _) = reading();
    device.model.set_paused(true);
    worker.send_long(&mut driver, 0..3);
    assert_eq!(driver.used_idx(), 0);
    device.model.set_link(false);
    device.interrupt();
    assert_eq!(worker.tell(Command::Barrier), None);
    (0..3).for_each(|_| worker.turn_briefly());
    assert_eq!((driver.used_idx(), worker.held(|held| held.unwrap().len())), (3, 0));
    device.model.assert_content();
}
