//! Target `kinds`: four in-memory ports, without rings ([`crate::port::in_memory`]), so that every finding is about
//! the forwarder. Each port gets the frames that a plain model of a bridge sends to it: in order, once, in a form
//! that it negotiated. Frames that it has no room for are counted or waited for. Frames that were not taken are still
//! there.

use std::sync::atomic::Ordering::Relaxed;

use sv3::drop_reason::DropReason;
use sv3::fuzz::Input;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::ledger::LedgerMap;
use sv3::virtio::NET_HDR_LEN;

use super::switch::bridge::{Bridge, Got, PROBES, RULES, Sent, missing};
use super::switch::guest::features;
use crate::forward::burst::{Burst, End};
use crate::forward::fdb::AGE_S;
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::port::Ports;
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::in_memory::InMemory;
use crate::port::kind::Kind;
use crate::port::view::View;

const PORTS: u16 = 4;
/// How many frames a port has room for.
const ROOM: usize = 32;
const BUDGET: u64 = 8192;

/// Octets: frames per burst (1), features of each port (4 times 2), then steps; see [`Fixture::step`].
pub fn kinds(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut fixture = Fixture::new(&mut input);
    while !input.is_empty() {
        fixture.step(&mut input);
    }
    (0..PORTS).for_each(|slot| fixture.serve(slot, false));
}

struct Fixture {
    ledger: &'static LedgerMap,
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
    bridge: Bridge,
    features: Vec<u64>,
    up: [bool; PORTS as usize],
    /// What each port has sent and not got back, oldest first.
    sent: [Vec<Sent>; PORTS as usize],
    serial: u8,
}

thread_local! {
    static SHARED: (&'static LedgerMap, &'static Ports) = {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        (ledger, Box::leak(Box::new(Ports::new())))
    };
}

impl Fixture {
    fn new(input: &mut Input<'_>) -> Fixture {
        let (ledger, ports) = SHARED.with(|shared| *shared);
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        forwarder.now_s = 2 * AGE_S;
        let mut burst = Burst::new();
        burst.set_batch(input.u8().into());
        let features: Vec<u64> = (0..PORTS).map(|_| features(input.u16())).collect();
        for (slot, features) in (0..).zip(&features) {
            forwarder.forget(slot);
            ledger.ports[usize::from(slot)].reset();
            assert!(ports.make(slot, ledger).unwrap().make_pair(0));
            for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
                let mut lease = ports.get(slot).unwrap().seize(queue, || ()).unwrap();
                let queue = InMemory::new(*features, ROOM);
                lease.reset(Endpoint::InMemory(queue));
            }
            ports.note_receiver(QueueId::receive(slot, 0), true);
            ports.set_learning(slot, RULES[0]);
        }
        let (bridge, up, sent) = (Bridge::new(), [true; PORTS as usize], Default::default());
        Fixture { ledger, ports, forwarder, burst, bridge, features, up, sent, serial: 0 }
    }

    /// Octets: port and kind of step (1), then its arguments.
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let slot = u16::from(what >> 4) % PORTS;
        match what & 15 {
            0..6 => self.send(slot, input),
            6..11 => self.serve(slot, what & 1 != 0),
            11 => self.with(QueueId::receive(slot, 0), |queue| queue.room = input.below(ROOM)),
            12 => self.forwarder.now_s += u64::from(input.u8()) * AGE_S / 64,
            13 => self.with(QueueId::receive(slot, 0), |queue| queue.room = ROOM),
            14 => self.open_or_close(slot),
            _ => self.set_rule(slot, input.below(3)),
        }
    }

    /// Octets: addresses (1), header (10), octets of the tail (2).
    fn send(&mut self, slot: u16, input: &mut Input<'_>) {
        let (addresses, hdr, tail) = (input.u8(), input.array::<10>(), usize::from(input.u16() % 0x1000));
        let hdr = if hdr[0] & 0x10 == 0 { [0; 10] } else { hdr };
        self.serial = self.serial.wrapping_add(1);
        let mut frame = [mac(addresses & 15), mac(addresses >> 4)].concat();
        let ether_type = if tail & 7 == 5 { [0x88, 0xb5] } else { [8, 0] };
        frame.extend(ether_type.into_iter().chain((self.serial..=255).cycle().take(tail)));
        frame.truncate(if addresses == 0x77 { 13 } else { usize::MAX });
        let octets = [&hdr[..], &[0; 2], &frame].concat();
        self.with(QueueId::transmit(slot, 0), |queue| queue.to_send.push(octets));
        let features = self.features[usize::from(slot)];
        self.sent[usize::from(slot)].push(Sent { from: slot, features, hdr, frame, broken: None });
    }

    fn open_or_close(&mut self, slot: u16) {
        let up = &mut self.up[usize::from(slot)];
        *up = !*up;
        let (up, queue) = (*up, QueueId::receive(slot, 0));
        self.with(queue, |queue| queue.closed = (!up).then_some(RingFault::Unmapped));
        self.ports.note_receiver(queue, up);
    }

    fn set_rule(&mut self, slot: u16, rule: usize) {
        self.ports.set_learning(slot, RULES[rule]);
        self.bridge.rules.insert(slot, RULES[rule]);
    }

    fn serve(&mut self, slot: u16, may_pause: bool) {
        let before = self.drops();
        let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, BUDGET, may_pause).unwrap();
        drop(queue);
        assert!(may_pause || served.end == End::Done);
        assert_eq!(self.forwarder.next_fault(), None);
        let sent: Vec<Sent> = self.sent[usize::from(slot)].drain(..served.frames).collect();
        let left = self.with(id, |queue| queue.to_send.len());
        assert_eq!(left, self.sent[usize::from(slot)].len(), "a frame was lost, or sent twice");
        let up: Vec<u16> = (0..PORTS).filter(|slot| self.up[usize::from(*slot)]).collect();
        let (mut due, mut refused) = ([const { Vec::new() }; PORTS as usize], [0; DropReason::COUNT]);
        for one in &sent {
            match self.bridge.forward(one, &up, self.forwarder.now_s) {
                Ok(to) => to.into_iter().for_each(|to| due[usize::from(to)].push(one)),
                Err(reason) => refused[reason as usize] += 1,
            }
        }
        if let (End::Waits(..), Some(next)) = (served.end, self.sent[usize::from(slot)].first()) {
            self.bridge.learn(next, self.forwarder.now_s);
        }
        let after = self.drops();
        for (to, due) in (0..PORTS).zip(due) {
            let received = self.with(QueueId::receive(to, 0), |queue| std::mem::take(&mut queue.received));
            let got: Vec<Got> = received.into_iter().map(split).collect();
            let mut drops: [u64; DropReason::COUNT] =
                std::array::from_fn(|at| after[usize::from(to)][at] - before[usize::from(to)][at]);
            let of_receiver =
                [DropReason::RxNoBuffers, DropReason::RxDown].map(|reason| std::mem::take(&mut drops[reason as usize]));
            assert_eq!(missing(&due, &got) as u64, of_receiver.iter().sum::<u64>(), "frames for port {to}");
            let expected = if to == slot { refused } else { [0; DropReason::COUNT] };
            assert_eq!(
                by_reason(drops),
                by_reason(expected),
                "drops of port {to}, which the model (bridge.rs) expects"
            );
        }
    }

    fn drops(&self) -> Vec<[u64; DropReason::COUNT]> {
        let of = |slot: u16| {
            let counters = &self.ledger.ports[usize::from(slot)].drops;
            DropReason::ALL.map(|reason| counters[reason as usize].load(Relaxed))
        };
        (0..PORTS).map(of).collect()
    }

    fn with<T>(&self, queue: QueueId, look: impl FnOnce(&mut InMemory) -> T) -> T {
        let mut lease = self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap();
        match lease.endpoint() {
            Endpoint::InMemory(queue) => look(queue),
            other => panic!("another kind, with features {:#x}", other.features()),
        }
    }
}

/// The reasons that were counted, by name.
fn by_reason(drops: [u64; DropReason::COUNT]) -> Vec<(DropReason, u64)> {
    DropReason::ALL.into_iter().zip(drops).filter(|(_, count)| *count > 0).collect()
}

fn mac(n: u8) -> [u8; 6] {
    match n {
        0..8 => [2, 0, 0, 0, 0, n],
        8 => [0xff; 6],
        9 => [0; 6],
        10 => [1, 0x80, 0xc2, 0, 0, 3],
        11 => PROBES,
        _ => [2, 0, 0, 0, n, 1],
    }
}

fn split(mut octets: Vec<u8>) -> Got {
    let frame = octets.split_off(NET_HDR_LEN);
    (std::array::from_fn(|at| octets[at]), frame)
}
