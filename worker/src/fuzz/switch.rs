//! Target `switch`: three guests with any rings, features and frames. One or all of them may scribble over their
//! rings. As long as all are honest, each gets the frames that a plain model of a bridge (`bridge`) sends to it: in
//! order, once, in buffers that it gave, in a form that it negotiated. Other frames are counted as dropped, each for
//! its reason, and every descriptor comes back once. All of this also holds if the sender overwrites the head of each
//! frame as soon as the switch has read it: what was checked is what is delivered. Beside a guest that scribbles,
//! honest guests still get well-formed frames, and each of their frames is forwarded or counted.

mod bounds;
pub mod bridge;
pub mod guest;
mod rings;
mod vlans;
mod waits;

use std::cell::{Cell, OnceCell};
use std::sync::atomic::Ordering::Relaxed;

use sv3::drop_reason::DropReason;
use sv3::fuzz::Input;
use sv3::ledger::{LedgerMap, PortCounters};

use crate::forward::burst::{Burst, End, Served};
use crate::forward::fdb::{AGE_S, Address};
use crate::forward::forwarder::Forwarder;
use crate::forward::leases::Leases;
use crate::memory::meddling::meddler;
use crate::poll::fair_share::TURN;
use crate::port::counting::Counting;
use crate::port::traffic_rules::{Domain, TrafficRules};
use crate::port::view::View;
use crate::port::{Ports, QueueLease};
use bridge::{Bridge, Got, Mac, RULES, Sent, missing};
use guest::{Guest, Kind};
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::rules::PortRules;
use waits::{LATE_NS, Waits};

const GUESTS: u16 = 3;
/// A small budget, so that bursts end before their last frame.
const LITTLE: u64 = 4096;
/// The drops that are charged to receivers.
const RECEIVERS: [DropReason; 5] =
    [DropReason::RxNoBuffers, DropReason::RxDown, DropReason::RxTooSmall, DropReason::RxBadChain, DropReason::RxLimit];

/// Octets: frames per burst (1), options (1), features of each guest (3 times 2), if bit 7 of the options is set the
/// rule of each guest for addresses (1, two bits each), and if bit 6 of these is set the port rules of each guest (3
/// times 2), then steps; see [`Fixture::step`].
pub fn switch(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut fixture = Fixture::new(&mut input);
    while !input.is_empty() {
        fixture.step(&mut input);
    }
    fixture.may_pause = false;
    fixture.waits.end_all(&fixture.forwarder, &fixture.guests, fixture.ledger);
    for slot in 0..GUESTS {
        fixture.serve(slot);
    }
    NOW.set(fixture.forwarder.now_s);
    (0..GUESTS).for_each(|slot| fixture.rule(slot, PortRules::default()));
    fixture.bridge.statics().for_each(|(port, (mac, vid))| {
        assert!(fixture.forwarder.remove(Address::new(MacAddr::new(mac), vid), port), "a static address was lost");
    });
    for (slot, guest) in (0..).zip(fixture.guests) {
        guest.clean(fixture.ports.get(slot).unwrap());
        fixture.ports.note_receiver(QueueId::receive(slot, 0), false);
    }
}

struct Fixture {
    ledger: &'static LedgerMap,
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
    budget: u64,
    /// Frames may wait for buffers.
    may_pause: bool,
    /// Guests overwrite their frames as soon as the switch has read them.
    meddles: bool,
    waits: Waits,
    guests: Vec<Guest>,
    bridge: Bridge,
}

thread_local! {
    static LEDGER: OnceCell<&'static LedgerMap> = const { OnceCell::new() };
    static PORTS: &'static Ports = Box::leak(Box::new(Ports::new()));
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl Fixture {
    /// Options: budget (bit 0), which guests have packed rings (bits 1 to 3), guests give buffers again at once (bit
    /// 4), frames wait for buffers (bit 5), senders overwrite frames as soon as the switch has read them (bit 6),
    /// not all ports may take any address (bit 7).
    fn new(input: &mut Input<'_>) -> Fixture {
        let ledger = LEDGER.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(LedgerMap::create().unwrap().1))));
        let ports = PORTS.with(|ports| *ports);
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        // By now the table has aged out what the last input taught it.
        forwarder.now_s = NOW.get() + 2 * AGE_S;
        NOW.set(forwarder.now_s);
        let (batch, options) = (input.u8(), input.u8());
        let has = |bit: u16| options >> bit & 1 != 0;
        let mut guests = Vec::new();
        for slot in 0..GUESTS {
            ledger.ports[usize::from(slot)].reset();
            let kind = Kind { features: input.u16(), packed: has(slot + 1), refills: has(4) };
            guests.push(Guest::new(ports.make(slot, ledger).unwrap(), ledger, kind));
            ports.note_receiver(QueueId::receive(slot, 0), true);
        }
        let mut burst = Burst::new();
        burst.set_batch(batch.into());
        let budget = if has(0) { TURN } else { LITTLE };
        let (waits, mut bridge) = (Waits::new(), Bridge::new());
        let rules = if has(7) { input.u8() } else { 0 };
        for slot in 0..GUESTS {
            let rule = RULES[usize::from(rules >> (2 * slot) & 3) % RULES.len()];
            ports.set_learning(slot, rule);
            bridge.rules.insert(slot, rule);
        }
        let (may_pause, meddles) = (has(5), has(6));
        let mut fixture =
            Fixture { ledger, ports, forwarder, burst, budget, may_pause, meddles, waits, guests, bridge };
        for slot in (0..GUESTS).filter(|_| rules & 0x40 != 0) {
            fixture.rule(slot, vlans::rules(input.array()));
        }
        fixture
    }

    /// Gives a port other rules, as the control thread does.
    fn rule(&mut self, slot: u16, rules: PortRules) {
        let (before, now) = (self.bridge.held_to(slot), TrafficRules::of(&rules));
        for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
            *seize(self.ports, queue).rules() = now.clone();
        }
        if before.vlan != rules.vlan {
            self.ports.members.change(slot, &Domain::of(&before.vlan), &Domain::of(&rules.vlan));
            self.forwarder.retain(|line| line.is_static || line.port != slot);
        }
        self.bridge.rule(slot, rules);
    }

    /// What an operator does. Octets: what (1), then its arguments.
    fn operate(&mut self, slot: u16, input: &mut Input<'_>) {
        match input.below(5) {
            0 | 1 => self.rule(slot, vlans::rules(input.array())),
            2 => {
                let address = self.address(slot, input.u8());
                assert!(self.forwarder.add(Address::new(MacAddr::new(address.0), address.1), slot));
                self.bridge.add(slot, address);
            }
            3 => {
                let address = self.address(slot, input.u8());
                self.forwarder.remove(Address::new(MacAddr::new(address.0), address.1), slot);
                self.bridge.remove(slot, address);
            }
            _ => {
                self.forwarder.retain(|line| line.is_static || line.port != slot);
                self.bridge.flush(slot);
            }
        }
    }

    /// Some address that is no group's.
    fn address(&self, slot: u16, what: u8) -> (Mac, u16) {
        let mac = Some(self.guests[usize::from(slot)].mac(what)).filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]);
        (mac.unwrap_or([2, 0, 0, 0, 0, 1]), [0, 10, 20, 10][usize::from(what >> 4 & 3)])
    }

    /// Octets: guest and kind of step (1), then its arguments.
    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.u8();
        let slot = u16::from(what >> 4) % GUESTS;
        let guest = &mut self.guests[usize::from(slot)];
        match what & 15 {
            0 | 1 => guest.post(input),
            2 => guest.post_equal(input),
            3 => {
                let what = input.u8();
                self.pass_time(what);
                if what & 8 != 0 {
                    self.operate(slot, input);
                }
            }
            4 | 5 => guest.send(input),
            6..9 => guest.send_equal(input),
            9..13 => self.serve(slot),
            13 => guest.scribble(input),
            14 => {
                guest.restart(self.ports.get(slot).unwrap());
                self.waits.stop(slot, &self.forwarder);
                self.ports.note_receiver(QueueId::receive(slot, 0), guest.enabled);
            }
            _ => {
                let up = input.below(4) != 0;
                let queue = QueueId::receive(slot, 0);
                seize(self.ports, queue).vring().unwrap().enabled = up;
                self.ports.note_receiver(queue, up && guest.sound);
                guest.enabled = up;
            }
        }
    }

    /// Lets the loop sleep, perhaps, and time pass.
    fn pass_time(&mut self, what: u8) {
        if what & 4 != 0 {
            self.waits.sleep(&self.forwarder, &self.guests);
        }
        self.forwarder.now_ns += [0, 1_000_000, 10_000_000, LATE_NS][usize::from(what & 3)];
        self.forwarder.now_s += u64::from(what >> 4) * AGE_S / 8;
        self.waits.look(&self.forwarder, &self.guests);
    }

    fn serve(&mut self, slot: u16) {
        self.waits.look(&self.forwarder, &self.guests);
        while !self.waits.is_waiting(slot) {
            let before: Vec<Count> = (0..GUESTS).map(|slot| self.count(slot)).collect();
            let (port, id) = (self.ports.get(slot).unwrap(), QueueId::transmit(slot, 0));
            let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
            let sender = &mut self.guests[usize::from(slot)];
            let frames = if self.meddles && sender.honest { sender.under_way() } else { Vec::new() };
            meddler::set(!frames.is_empty());
            let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, self.budget, self.may_pause);
            meddler::set(false);
            frames.iter().for_each(|frame| sender.put_back(frame));
            let wait = match served {
                Ok(Served { end: End::Waits(wait, longest), .. }) => Some((wait, longest)),
                _ => None,
            };
            queue.is_paused = wait.is_some();
            drop(queue);
            self.check_faults();
            let Ok(Served { frames: taken, .. }) = served else {
                assert!(!self.guests[usize::from(slot)].honest);
                seize(self.ports, id).vring().unwrap().queue = None;
                return;
            };
            let sender = &mut self.guests[usize::from(slot)];
            let sent = sender.completed(taken);
            let news: Vec<Count> = (0..GUESTS).zip(&before).map(|(slot, old)| self.count(slot).since(old)).collect();
            if self.guests[usize::from(slot)].honest {
                // The sender gets nothing back, so its drops are those of its own frames.
                let Count { from_guest, drops, .. } = &news[usize::from(slot)];
                let dropped: u64 = drops.iter().sum();
                assert_eq!(from_guest.0 + dropped, taken as u64, "a frame was neither forwarded nor dropped");
            }
            let got: Vec<_> = self.guests.iter_mut().map(Guest::receive).collect();
            // A guest that scribbles over its rings may send anything, from any address.
            if self.guests.iter().all(|guest| guest.honest) {
                self.judge(slot, &sent, &got, &news);
                if wait.is_some() {
                    let next = self.guests[usize::from(slot)].oldest().expect("somebody is waited for");
                    self.bridge.learn(next, self.forwarder.now_s);
                }
            }
            self.waits.note((slot, taken), wait, &self.forwarder, &self.guests);
            if taken == 0 {
                return;
            }
        }
    }

    /// Compares the fate of frames with the model. `got`: frames that each port got, and bad buffers that it got
    /// back.
    fn judge(&mut self, from: u16, sent: &[Sent], got: &[(Vec<Got>, usize)], news: &[Count]) {
        let up: Vec<u16> = (0..GUESTS).filter(|slot| self.guests[usize::from(*slot)].enabled).collect();
        self.bridge.bounds.now = self.forwarder.now_ns;
        let mut due = [const { Vec::new() }; GUESTS as usize];
        let mut expected = Count::default();
        for one in sent {
            match self.bridge.forward(one, &up, self.forwarder.now_s) {
                Ok(to) => {
                    expected.from_guest.0 += 1;
                    expected.from_guest.1 += one.frame.len() as u64;
                    to.into_iter().for_each(|to| due[usize::from(to)].push(self.bridge.arriving(one, to)));
                }
                Err(reason) => expected.drops[reason as usize] += 1,
            }
        }
        for (slot, (due, ((got, bad), news))) in (0..).zip(due.into_iter().zip(got.iter().zip(news))) {
            let octets = got.iter().map(|(_, frame)| frame.len() as u64).sum();
            let to_guest = (got.len() as u64, octets);
            if slot == from {
                assert!(due.is_empty() && got.is_empty() && *bad == 0, "a frame came back");
                assert_eq!(*news, Count { to_guest, ..expected });
                continue;
            }
            let mut drops = news.drops;
            let dropped: u64 = RECEIVERS.map(|reason| std::mem::take(&mut drops[reason as usize])).iter().sum();
            assert_eq!(Count { drops, ..*news }, Count { to_guest, ..Count::default() }, "port {slot}");
            assert_eq!(news.drops[DropReason::RxBadChain as usize], *bad as u64);
            assert_eq!(missing(&due, got) as u64, dropped, "frames for port {slot} were neither delivered nor dropped");
        }
    }

    /// A ring that broke stays stopped. Only its own guest can break it.
    fn check_faults(&mut self) {
        while let Some((queue, _)) = self.forwarder.next_fault() {
            let guest = &mut self.guests[usize::from(queue.slot)];
            assert!(!guest.honest, "an honest guest's ring broke");
            guest.sound &= queue.transmits();
            let mut lease = seize(self.ports, queue);
            lease.unpause();
            lease.vring().unwrap().end();
            self.ports.note_receiver(queue, false);
        }
    }

    fn count(&self, slot: u16) -> Count {
        Count::of(&self.ledger.ports[usize::from(slot)])
    }
}

fn seize(ports: &'static Ports, queue: QueueId) -> QueueLease {
    ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap()
}

/// A port's counters: frames and octets, and drops by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    from_guest: (u64, u64),
    to_guest: (u64, u64),
    drops: [u64; DropReason::COUNT],
}

impl Count {
    fn of(counters: &PortCounters) -> Count {
        Count {
            from_guest: (counters.from_guest_frames.load(Relaxed), counters.from_guest_bytes.load(Relaxed)),
            to_guest: (counters.to_guest_frames.load(Relaxed), counters.to_guest_bytes.load(Relaxed)),
            drops: DropReason::ALL.map(|reason| counters.drops[reason as usize].load(Relaxed)),
        }
    }

    /// The counts since `old`.
    fn since(&self, old: &Count) -> Count {
        let less = |new: (u64, u64), old: (u64, u64)| (new.0 - old.0, new.1 - old.1);
        Count {
            from_guest: less(self.from_guest, old.from_guest),
            to_guest: less(self.to_guest, old.to_guest),
            drops: std::array::from_fn(|at| self.drops[at] - old.drops[at]),
        }
    }
}
