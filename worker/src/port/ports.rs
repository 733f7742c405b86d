//! All ports, as all threads see them.
//!
//! A port is made when its slot is first used. It stays for the next client of the slot.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sv3::attachment::Learning;
use sv3::ids::{Direction, QueueId};
use sv3::ledger::{Ledger, PortCounters};
use sv3::rules::Vid;
use sv3::{MAX_PORTS, MAX_QUEUE_PAIRS, MAX_RINGS};

use super::flaps::Flaps;
use super::observers::ObserverTable;
use super::queue::{QueueLease, ReceiveQueue, TransmitQueue};
use super::rules::Rules;
use super::traffic_rules::VlanMembers;
use crate::sync::bits::Bits;
use crate::sync::flag::Flag;
use crate::sync::lease::Leased;

/// All ports, by slot.
pub struct Ports {
    slots: Box<[OnceLock<Box<Port>>]>,
    /// Ports that get floods: those with a receive queue that runs. One bit for each slot.
    up: [AtomicU64; MAX_PORTS / 64],
    /// Slots that have a port now. One bit for each slot.
    there: [AtomicU64; MAX_PORTS / 64],
    /// Ports that are uplinks. One bit for each slot.
    uplinks: [AtomicU64; MAX_PORTS / 64],
    /// Which ports are in which VLAN.
    pub members: VlanMembers,
    /// Ports that get a mirror's copies, and nothing else. One bit for each slot.
    mirrors: [AtomicU64; MAX_PORTS / 64],
    /// Captures and mirrors.
    pub observers: ObserverTable,
    /// An entry of the forwarding table is marked: its address is to be announced.
    pub marked: Flag,
    /// Addresses that move between ports again and again.
    pub flaps: Flaps,
}

/// One port.
pub struct Port {
    slot: u16,
    counters: &'static PortCounters,
    /// Which addresses it may take.
    pub rules: Rules,
    /// Queue pairs whose receive queues run, one bit for each.
    receivers: AtomicU32,
    /// Queue pairs whose transmit queues must be polled without a kick, one bit for each.
    wake: Bits,
    /// Queues that broke and must be stopped, one bit for each.
    broken: Bits,
    /// Queue pairs of which the kernel has told an event, one bit for each.
    events: Bits,
    /// The queue pairs that were ever used. Boxed, since a port is never freed and should be small.
    pairs: [OnceLock<Box<Pair>>; MAX_QUEUE_PAIRS],
}

/// A queue pair.
#[derive(Default)]
struct Pair {
    receive: Leased<ReceiveQueue>,
    transmit: Leased<TransmitQueue>,
}

impl Ports {
    /// No ports.
    pub fn new() -> Ports {
        let slots = std::iter::repeat_with(OnceLock::new).take(MAX_PORTS).collect();
        let none = || [const { AtomicU64::new(0) }; MAX_PORTS / 64];
        let (members, observers) = (VlanMembers::new(), ObserverTable::new());
        let (up, there, uplinks, mirrors) = (none(), none(), none(), none());
        let (marked, flaps) = (Flag::default(), Flaps::new());
        Ports { slots, up, there, uplinks, members, mirrors, observers, marked, flaps }
    }

    /// The port of a slot, if the slot was ever used.
    #[inline]
    pub fn get(&self, slot: u16) -> Option<&Port> {
        self.slots.get(usize::from(slot))?.get().map(Box::as_ref)
    }

    /// The port of a slot, which is there from now on. It is made if it is new. Only the control thread calls this. `None`:
    /// there is no such slot.
    pub fn make(&self, slot: u16, ledger: &'static Ledger) -> Option<&Port> {
        let counters = ledger.ports.get(usize::from(slot))?;
        set_slot(&self.there, slot, true);
        Some(self.slots.get(usize::from(slot))?.get_or_init(|| Box::new(Port::new(slot, counters))))
    }

    /// All ports whose slots were ever used.
    pub fn all(&self) -> impl Iterator<Item = &Port> {
        self.slots.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }

    /// The ports that receive and may be in a VLAN; 0: that know none.
    #[inline]
    pub fn receivers(&self, vid: Vid) -> impl Iterator<Item = u16> {
        (0..).zip(&self.up).flat_map(move |(at, word)| {
            let up = word.load(Relaxed) & self.members.word(vid, at);
            slots(at as u16 * 64, up)
        })
    }

    /// The uplinks that receive.
    pub fn uplinks(&self) -> impl Iterator<Item = u16> {
        let words = self.up.iter().zip(&self.uplinks);
        (0..)
            .step_by(64)
            .zip(words)
            .flat_map(|(first, (up, uplinks))| slots(first, up.load(Relaxed) & uplinks.load(Relaxed)))
    }

    /// Whether the addresses of a port are those of a guest that runs: it is no uplink, and it receives.
    pub fn is_guest(&self, slot: u16) -> bool {
        self.get(slot).is_some_and(|port| !port.rules.is_uplink() && port.receiver(0).is_some())
    }

    /// Which addresses a port may take.
    pub fn learning(&self, slot: u16) -> Learning {
        self.get(slot).map_or(Learning::Free, |port| port.rules.learning())
    }

    /// Sets which addresses a port may take, and forgets its notes. Called while none of its queues runs.
    pub fn set_learning(&self, slot: u16, learning: Learning) {
        let Some(port) = self.get(slot) else { return };
        port.rules.begin(learning);
        set_slot(&self.uplinks, slot, learning == Learning::Uplink);
    }

    /// Whether a frame with this token was the last one that looked for loops out of an uplink.
    pub fn sent_token(&self, token: u64) -> bool {
        let all = self.uplinks.iter().map(|word| word.load(Relaxed));
        let mut uplinks = (0..).step_by(64).zip(all).flat_map(|(first, word)| slots(first, word));
        token != 0 && uplinks.any(|slot| self.get(slot).is_some_and(|port| port.rules.token() == token))
    }

    /// Notes whether a receive queue runs. Called after each change.
    pub fn note_receiver(&self, queue: QueueId, runs: bool) {
        let Some(port) = self.get(queue.slot) else { return };
        set(&port.receivers, queue.pair(), runs);
        self.note_floods(port);
    }

    /// Notes whether a port gets floods.
    fn note_floods(&self, port: &Port) {
        let receives = port.receivers.load(Relaxed) != 0 && !self.is_mirror(port.slot);
        set_slot(&self.up, port.slot, receives);
    }

    /// Whether a port gets a mirror's copies.
    pub fn is_mirror(&self, slot: u16) -> bool {
        has_slot(&self.mirrors, slot)
    }

    /// Counts that an address (with its VLAN, as a number) moved from one port to another.
    #[cold]
    pub fn note_move(&self, address: u64, (from, to): (u16, u16), now_s: u64) {
        if let Some(port) = self.get(to) {
            port.counters.moves.fetch_add(1, Relaxed);
        }
        self.flaps.note_move(address, (from, to), now_s);
    }

    /// Whether a slot has a port now. One that has none may have static addresses.
    pub fn is_there(&self, slot: u16) -> bool {
        has_slot(&self.there, slot)
    }

    /// The port of a slot goes. Only the control thread calls this.
    pub fn leave(&self, slot: u16) {
        set_slot(&self.there, slot, false);
    }

    /// Sets whether a port gets a mirror's copies. Only the control thread calls this.
    pub fn set_mirror(&self, slot: u16, is: bool) {
        set_slot(&self.mirrors, slot, is);
        self.get(slot).into_iter().for_each(|port| self.note_floods(port));
    }
}

/// The slots whose bits are set in a word that begins with slot `first`.
#[inline]
fn slots(first: u16, mut bits: u64) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(first + bit as u16)
    })
}

fn has_slot(slots: &[AtomicU64], slot: u16) -> bool {
    slots.get(usize::from(slot / 64)).is_some_and(|word| word.load(Relaxed) >> (slot % 64) & 1 != 0)
}

fn set_slot(slots: &[AtomicU64], slot: u16, value: bool) {
    let Some(word) = slots.get(usize::from(slot / 64)) else { return };
    let bit = 1 << (slot % 64);
    if value {
        word.fetch_or(bit, Relaxed)
    } else {
        word.fetch_and(!bit, Relaxed)
    };
}

fn set(bits: &AtomicU32, bit: u16, value: bool) {
    let bit = 1u32.checked_shl(bit.into()).unwrap_or(0);
    if value {
        bits.fetch_or(bit, Relaxed)
    } else {
        bits.fetch_and(!bit, Relaxed)
    };
}

/// The bits that are set.
fn bits(mut word: u32) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let bit = word.checked_ilog2()?;
        word &= !(1 << bit);
        Some(bit as u16)
    })
}

impl Port {
    fn new(slot: u16, counters: &'static PortCounters) -> Port {
        let (receivers, rules, wake, broken, events) = Default::default();
        let pairs = [const { OnceLock::new() }; MAX_QUEUE_PAIRS];
        Port { slot, counters, rules, receivers, wake, broken, events, pairs }
    }

    /// Its slot.
    #[inline]
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Its counters in the ledger.
    #[inline]
    pub fn counters(&self) -> &'static PortCounters {
        self.counters
    }

    #[inline]
    fn pair(&self, pair: u16) -> Option<&Pair> {
        self.pairs.get(usize::from(pair))?.get().map(Box::as_ref)
    }

    /// The receive queue of a pair, if it was ever used.
    #[inline]
    pub fn receive(&self, pair: u16) -> Option<&Leased<ReceiveQueue>> {
        Some(&self.pair(pair)?.receive)
    }

    /// The transmit queue of a pair, if it was ever used.
    #[inline]
    pub fn transmit(&self, pair: u16) -> Option<&Leased<TransmitQueue>> {
        Some(&self.pair(pair)?.transmit)
    }

    /// Makes a queue pair. Only the control thread calls this. False: there is no such pair.
    pub fn make_pair(&self, pair: u16) -> bool {
        self.pairs.get(usize::from(pair)).map(|place| place.get_or_init(Box::default)).is_some()
    }

    /// Leases a queue for the control thread, as soon as it is free; calls `meanwhile` in between. `None`: the queue
    /// was never used.
    pub fn seize(&'static self, queue: QueueId, meanwhile: impl FnMut()) -> Option<QueueLease> {
        let pair = self.pair(queue.pair())?;
        Some(match queue.direction() {
            Direction::Receive => QueueLease::Receive(pair.receive.seize(meanwhile)),
            Direction::Transmit => QueueLease::Transmit(pair.transmit.seize(meanwhile)),
        })
    }

    /// The queues of all pairs that were ever used.
    pub fn used(&self) -> impl Iterator<Item = QueueId> {
        let pairs = (0..).zip(&self.pairs).filter(|(_, pair)| pair.get().is_some());
        pairs.flat_map(|(pair, _)| [QueueId::receive(self.slot, pair), QueueId::transmit(self.slot, pair)])
    }

    /// The queue pair that receives frames of `flow`, so that these stay in order.
    #[inline]
    pub fn receiver(&self, flow: u16) -> Option<u16> {
        let running = self.receivers.load(Relaxed);
        match running.count_ones() {
            0 => None,
            1 => Some(running.trailing_zeros() as u16),
            count => {
                let mut rest = running;
                for _ in 0..u32::from(flow) % count {
                    rest &= rest - 1;
                }
                Some(rest.trailing_zeros() as u16)
            }
        }
    }

    /// Asks the owner thread to poll the transmit queue of a pair. The caller nudges that thread.
    pub fn wake(&self, pair: u16) {
        self.wake.set(pair);
    }

    /// Which of these pairs (one bit for each) have a transmit queue that must be polled. Clears their marks.
    pub fn woken(&self, pairs: u32) -> impl Iterator<Item = u16> + use<> {
        bits(self.wake.take(pairs))
    }

    /// Notes that the kernel has told an event of a queue pair.
    pub fn note_event(&self, pair: u16) {
        self.events.set(pair);
    }

    /// Whether an event of a queue pair was noted.
    pub fn has_event(&self, pair: u16) -> bool {
        self.events.has(pair)
    }

    /// The same. Clears the note.
    pub fn take_event(&self, pair: u16) -> bool {
        self.events.take(1u32.checked_shl(pair.into()).unwrap_or(0)) != 0
    }

    /// Asks the control thread to stop a queue that broke. The caller nudges that thread.
    pub fn break_queue(&self, index: u16) {
        self.broken.set(index);
    }

    /// The queues that broke. Clears their marks.
    pub fn broken(&self) -> impl Iterator<Item = QueueId> + use<> {
        let slot = self.slot;
        bits(self.broken.take(u32::MAX)).map(move |index| QueueId::new(slot, index))
    }
}

const _: () = assert!(MAX_QUEUE_PAIRS <= 32 && MAX_RINGS <= 32);

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    fn places() -> (Ports, &'static Ledger) {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        (Ports::new(), ledger)
    }

    #[test]
    fn a_flow_has_one_receiver_and_all_receivers_have_flows() {
        let (ports, ledger) = places();
        let port = ports.make(70, ledger).unwrap();
        assert_eq!(port.receiver(0), None);
        let note = |slot, pair, runs| ports.note_receiver(QueueId::receive(slot, pair), runs);
        [0, 2, 15].into_iter().for_each(|pair| note(70, pair, true));
        let pairs: Vec<_> = (0..6).filter_map(|flow| port.receiver(flow)).collect();
        assert_eq!(pairs, [0, 2, 15, 0, 2, 15]);
        ports.make(3, ledger);
        note(3, 0, true);
        assert_eq!(ports.receivers(0).collect::<Vec<_>>(), [3, 70]);
        [0, 2, 15].into_iter().for_each(|pair| note(70, pair, false));
        assert_eq!(ports.receivers(0).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn uplinks_are_those_that_run_and_guests_are_the_others() {
        let (ports, ledger) = places();
        for slot in [2, 64, 65, 900] {
            ports.make(slot, ledger);
            ports.note_receiver(QueueId::receive(slot, 0), slot != 65);
        }
        ports.set_learning(64, Learning::Uplink);
        ports.set_learning(65, Learning::Uplink);
        ports.set_learning(900, Learning::Guarded);
        assert_eq!(ports.uplinks().collect::<Vec<_>>(), [64]);
        assert_eq!([2, 3, 64, 65, 900].map(|slot| ports.is_guest(slot)), [true, false, false, false, true]);
        ports.note_receiver(QueueId::receive(900, 0), false);
        ports.get(65).unwrap().rules.set_token(77);
        assert_eq!((ports.is_guest(900), ports.sent_token(77), ports.sent_token(0)), (false, true, false));
        ports.set_learning(64, Learning::Free);
        ports.set_learning(65, Learning::Free);
        assert_eq!((ports.uplinks().count(), ports.is_guest(64), ports.sent_token(77)), (0, true, false));
    }

    #[test]
    fn each_thread_takes_what_it_is_woken_for() {
        let (ports, ledger) = places();
        let port = ports.make(0, ledger).unwrap();
        [0, 1, 15].into_iter().for_each(|pair| port.wake(pair));
        assert_eq!(port.woken(0b10).collect::<Vec<_>>(), [1]);
        assert_eq!(port.woken(u32::MAX).collect::<Vec<_>>(), [15, 0]);
        assert_eq!(port.woken(u32::MAX).count(), 0);
        port.break_queue(31);
        assert_eq!((port.broken().collect::<Vec<_>>(), port.broken().count()), (vec![QueueId::new(0, 31)], 0));
    }

    #[test]
    fn there_are_no_more_places_than_slots_and_pairs() {
        let (ports, ledger) = places();
        assert!(ports.make(MAX_PORTS as u16, ledger).is_none());
        let port = ports.make(1, ledger).unwrap();
        assert!(ports.is_there(1) && !ports.is_there(2) && !ports.is_there(MAX_PORTS as u16));
        assert!(port.make_pair(MAX_QUEUE_PAIRS as u16 - 1) && !port.make_pair(MAX_QUEUE_PAIRS as u16));
        assert_eq!(port.used().collect::<Vec<_>>(), [QueueId::receive(1, 15), QueueId::transmit(1, 15)]);
    }
}
