//! Target `card`: a card that writes anything to all that it reaches, beside a guest whose frames must not suffer.
//! Workers come and go meanwhile. Nothing panics or hangs; a frame that comes in lies in the card's buffers; no register
//! gets an index that its ring does not have; and a card that comes to its senses is served again by the next worker.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::card::{CardModel, CardSettings, CardState};
use sv3::frame::{MAX_FRAME, MacAddr};
use sv3::fuzz::Input;
use sv3::ids::QueueId;
use sv3::ledger::{Ledger, LedgerMap};
use sv3::virtio::{NET_HDR_LEN, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6};

use crate::forward::burst::Burst;
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::nic::bar::Bar;
use crate::nic::card::{Card, Registers as CardRegisters};
use crate::nic::interrupts::{Interrupts, Unit};
use crate::nic::memory::CardMemory;
use crate::nic::positions::Positions;
use crate::nic::queue_registers::QueueRegisters;
use crate::port::Ports;
use crate::port::card::{CardQueue, Registers};
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::in_memory::InMemory;
use crate::port::kind::Kind;
use crate::port::view::View;

const GUEST: u16 = 0;
const CARD: u16 = 1;
const RECEIVE: u32 = 0x1000;
const TRANSMIT: u32 = 0x6000;
const DESCRIPTORS: u16 = 128;
const ROOM: usize = 64;
const BUDGET: u64 = 200_000;
/// Most steps of one input.
const STEPS: usize = 200;
const FEATURES: u64 = VIRTIO_NET_F_CSUM.mask() | VIRTIO_NET_F_HOST_TSO4.mask() | VIRTIO_NET_F_HOST_TSO6.mask();

thread_local! {
    static SHARED: (&'static Ledger, &'static Ports) = {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        (ledger, Box::leak(Box::new(Ports::new())))
    };
}

/// Registers that keep what is written.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<u32, u32>>>);

impl Bar for Memory {
    fn read(&self, at: u32) -> u32 {
        self.0.lock().unwrap().get(&at).copied().unwrap_or(0)
    }

    fn write(&self, at: u32, value: u32) {
        if [RECEIVE, TRANSMIT].contains(&(at & !0xff)) && [0x10, 0x18].contains(&(at & 0xff)) {
            assert!(value < DESCRIPTORS.into(), "an index of {value} in register {at:#x}");
        }
        self.0.lock().unwrap().insert(at, value);
    }
}

fn settings(lro: bool) -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 1 << 16,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: DESCRIPTORS,
        buffer: 2048,
        transmit: 256 << 10,
        mtu: 9000,
        lro,
        zero_copy: false,
        mac: None,
        run: 1,
    }
}

fn registers(queue: QueueId) -> Registers {
    let base = if queue.transmits() { RECEIVE } else { TRANSMIT };
    let unit = Unit::Microsecond;
    let interrupts =
        Interrupts { pairs: 1, set: 0, clear: 4, cause: 8, throttle: 12, unit, other: (16, 1), always: false };
    Registers { ring: QueueRegisters::at(base, 0), interrupts }
}

struct Fixture {
    settings: CardSettings,
    file: OwnedFd,
    /// What the card sees.
    seen: CardMemory,
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
}

/// Runs an input.
pub fn card(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut fixture = Fixture::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        fixture.step(&mut input);
    }
    fixture.come_to_senses();
}

impl Fixture {
    fn new(input: &mut Input<'_>) -> Fixture {
        let (ledger, ports) = SHARED.with(|shared| *shared);
        let settings = settings(input.u8() & 1 != 0);
        let file = memfd_create(c"card", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&file, settings.file_size() as i64).unwrap();
        let seen = CardMemory::new(&file, settings).unwrap();
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        for slot in [GUEST, CARD] {
            forwarder.forget(slot);
            assert!(ports.make(slot, ledger).unwrap().make_pair(0));
            ports.note_receiver(QueueId::receive(slot, 0), true);
        }
        let mut burst = Burst::new();
        burst.set_batch(input.u8().into());
        let fixture = Fixture { settings, file, seen, ports, forwarder, burst };
        for queue in [QueueId::receive(GUEST, 0), QueueId::transmit(GUEST, 0)] {
            fixture.set(queue, Endpoint::InMemory(InMemory::new(FEATURES, ROOM)));
        }
        fixture.open(false);
        fixture
    }

    fn set(&self, queue: QueueId, endpoint: Endpoint) {
        self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap().reset(endpoint);
    }

    /// A worker opens and starts the card.
    fn open(&self, goes_on: bool) {
        let bar = CardRegisters::Simulated(Box::new(Memory::default()));
        let card = Arc::new(Card { bar, memory: CardMemory::new(&self.file, self.settings).unwrap() });
        for queue in [QueueId::receive(CARD, 0), QueueId::transmit(CARD, 0)] {
            let mut it = CardQueue::new(Arc::clone(&card), queue, registers(queue), goes_on);
            it.set_link(true);
            it.start().unwrap();
            self.set(queue, Endpoint::Card(Box::new(it)));
        }
    }

    /// Octets: kind of step (1), then its arguments.
    fn step(&mut self, input: &mut Input<'_>) {
        let layout = self.settings.layout(0);
        match input.u8() & 15 {
            0..4 => {
                // A write-back that is nearly right: index, length, status, what was joined, where it goes on.
                let at = input.u8() % DESCRIPTORS as u8;
                let (len, status, joined) = (input.u16() % 2100, input.u8(), input.u8());
                let high = u64::from(len) << 32 | u64::from(status & 0x63) | u64::from(joined & 0xf0) << 26;
                let high = if status & 2 == 0 { high | u64::from(input.u8()) << 4 } else { high };
                self.write(layout.receive_ring + 16 * usize::from(at), [u64::from(joined) << 17, high]);
            }
            4 => {
                let head = if input.u8() & 1 == 0 { u32::from(input.u8()) } else { input.u32() };
                self.write(layout.write_back, [head.into(), 0]);
            }
            5 => {
                let at = size_of::<CardState>() + input.u32() as usize % self.settings.dma_size() / 8 * 8;
                let words = [input.array::<8>(), input.array::<8>()].map(u64::from_le_bytes);
                self.write(at, words);
            }
            6 => {
                let ring = [layout.receive_ring, layout.transmit_ring][usize::from(input.u8() & 1)];
                let at = ring + 16 * usize::from(input.u8() % DESCRIPTORS as u8);
                let words = [input.array::<8>(), input.array::<8>()].map(u64::from_le_bytes);
                self.write(at, words);
            }
            7..10 => self.guest_sends(input),
            10..12 => self.serve(GUEST),
            12..15 => self.serve(CARD),
            _ => self.open(input.u8() & 7 != 0),
        }
    }

    fn write(&self, at: usize, words: [u64; 2]) {
        self.seen.slice(at, 16).write(0, &words.map(u64::to_le_bytes).concat());
    }

    fn guest_sends(&self, input: &mut Input<'_>) {
        let (hdr, len) = (input.array::<10>(), usize::from(input.u16()) % 20_000);
        let mut frame = [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]].concat();
        frame.extend(input.array::<48>());
        frame.resize(14 + len, 0x5a);
        let octets = [&hdr[..], &[0; 2], &frame].concat();
        self.with(QueueId::transmit(GUEST, 0), |queue| queue.to_send.push(octets));
    }

    fn serve(&mut self, slot: u16) {
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        if !queue.endpoint.runs() {
            return;
        }
        self.forwarder.learn(MacAddr::new([2, 0, 0, 0, 0, 9]), CARD);
        let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, BUDGET, false);
        if let Err(fault) = served {
            queue.endpoint.break_with(fault);
        }
        drop(queue);
        while self.forwarder.next_fault().is_some() {}
        let received = self.with(QueueId::receive(GUEST, 0), |queue| {
            queue.room = ROOM;
            std::mem::take(&mut queue.received)
        });
        received.iter().for_each(|octets| self.assert_from_buffers(octets));
    }

    /// The beginning of a frame that came in is that of a buffer. The card may have joined it, which sets lengths.
    fn assert_from_buffers(&self, octets: &[u8]) {
        let frame = &octets[NET_HDR_LEN..];
        assert!(frame.len() <= MAX_FRAME);
        let buffers = self.settings.layout(0).buffers;
        let is_at = |index: usize| {
            let mut begin = [0; 14];
            self.seen.slice(buffers + 2048 * index, 14).read(0, &mut begin);
            begin[..] == frame[..14]
        };
        assert!((0..DESCRIPTORS.into()).any(is_at), "a frame that lies in no buffer");
    }

    /// Whatever was, the next worker of a card that obeys moves frames.
    fn come_to_senses(&mut self) {
        self.with(QueueId::transmit(GUEST, 0), |queue| queue.to_send.clear());
        Positions { pair: 0 }.clear(&self.seen);
        self.open(false);
        self.serve(CARD);
        let layout = self.settings.layout(0);
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0][..], &[7; 50]].concat();
        self.seen.slice(layout.buffers, 64).write(0, &frame);
        self.write(layout.receive_ring, [0, 64 << 32 | 3]);
        self.forwarder.forget(CARD);
        let count = || self.forwarder.view.counters(CARD).unwrap().from_guest_frames.load(Relaxed);
        let before = count();
        self.serve(CARD);
        let count = || self.forwarder.view.counters(CARD).unwrap().from_guest_frames.load(Relaxed);
        assert_eq!(count() - before, 1, "a good frame does not come in");
    }

    fn with<T>(&self, queue: QueueId, look: impl FnOnce(&mut InMemory) -> T) -> T {
        let mut lease = self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap();
        match lease.endpoint() {
            Endpoint::InMemory(queue) => look(queue),
            _ => panic!("another kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_input(octets in proptest::collection::vec(any::<u8>(), 0..3000)) {
            super::card(&octets);
        }
    }
}
