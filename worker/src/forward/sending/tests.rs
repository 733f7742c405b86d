//! Who gets which frame between guests, guarded ports and uplinks, wherever the frame stands in its burst.

use std::sync::atomic::Ordering::Relaxed;

use sv3::attachment::Learning;
use sv3::ids::QueueId;
use sv3::ledger::LedgerMap;
use sv3::virtio::NET_HDR_LEN;

use super::*;
use crate::forward::announcer::{Announcer, EACH_NS, Next, PASS_NS, REPEAT_NS, REPEATS, SLICE};
use crate::forward::burst::Burst;
use crate::forward::leases::Leases;
use crate::poll::fair_share::TURN;
use crate::port::Ports;
use crate::port::counting::Counting;
use crate::port::endpoint::Endpoint;
use crate::port::in_memory::InMemory;
use crate::port::traffic_rules::Domain;
use crate::port::view::View;
use sv3::rules::PortRules;

mod groups;

const GUEST: u16 = 0;
const OTHER: u16 = 1;
/// Guarded.
const STREAM: u16 = 2;
const UPLINK: u16 = 3;
const SECOND_UPLINK: u16 = 4;
const ALL: [u16; 5] = [GUEST, OTHER, STREAM, UPLINK, SECOND_UPLINK];
const BROADCAST: MacAddr = MacAddr::new([0xff; 6]);
/// Of nobody.
const UNKNOWN: MacAddr = MacAddr::new([2, 0, 0, 0, 9, 9]);

mod guard;
mod vlans;

struct Switch {
    ports: &'static Ports,
    forwarder: Forwarder,
    burst: Burst,
}

fn mac(n: u16) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 | u64::from(n))
}

fn frame((dst, src): (MacAddr, MacAddr), n: u8) -> Vec<u8> {
    [&[0; NET_HDR_LEN][..], &dst.octets(), &src.octets(), &[8, 0], &[n; 50]].concat()
}

impl Switch {
    fn new() -> Switch {
        Switch::of(&[Learning::Free, Learning::Free, Learning::Guarded, Learning::Uplink, Learning::Uplink])
    }

    /// A switch with ports that may take these addresses.
    fn of(learning: &[Learning]) -> Switch {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        let ports: &Ports = Box::leak(Box::new(Ports::new()));
        let view = View { ports, number: 0, counting: Counting { single_threaded: true } };
        let mut forwarder = Forwarder::new(ledger, &ledger.workers[0].threads[0], view, Leases::new());
        (forwarder.now_s, forwarder.now_ns) = (1000, 1_000_000_000_000);
        let mut burst = Burst::new();
        burst.set_batch(64);
        for (slot, learning) in (0..).zip(learning) {
            let port = ports.make(slot, ledger).unwrap();
            assert!(port.make_pair(0));
            ports.set_learning(slot, *learning);
            for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
                port.seize(queue, || ()).unwrap().reset(Endpoint::InMemory(InMemory::new(0, 10_000)));
            }
            ports.note_receiver(QueueId::receive(slot, 0), true);
        }
        Switch { ports, forwarder, burst }
    }

    /// Gives an open port rules.
    fn rule(&mut self, slot: u16, rules: PortRules) {
        rules.check().unwrap();
        let rules = TrafficRules::of(&rules);
        for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
            *self.ports.get(slot).unwrap().seize(queue, || ()).unwrap().rules() = rules.clone();
        }
        if let Some(rules) = rules {
            self.ports.members.change(slot, &Domain::Unaware, &rules.vlan);
        }
    }

    fn with<T>(&self, queue: QueueId, look: impl FnOnce(&mut InMemory) -> T) -> T {
        match self.ports.get(queue.slot).unwrap().seize(queue, || ()).unwrap().endpoint() {
            Endpoint::InMemory(queue) => look(queue),
            _ => panic!("another kind"),
        }
    }

    /// Sends frames in one burst: destination and source of each. Their octets count from 0.
    fn send(&mut self, from: u16, frames: &[(MacAddr, MacAddr)]) {
        let frames = frames.iter().zip(0..).map(|(addresses, n)| frame(*addresses, n));
        self.send_octets(from, frames.collect());
    }

    fn send_octets(&mut self, from: u16, frames: Vec<Vec<u8>>) {
        let (port, id, count) = (self.ports.get(from).unwrap(), QueueId::transmit(from, 0), frames.len());
        self.with(id, |queue| queue.to_send.extend(frames));
        let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
        let served = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, 64 * TURN, false).unwrap();
        assert_eq!(served.frames, count);
    }

    /// What a port has got since the last call: the frames' last octets.
    fn got(&self, slot: u16) -> Vec<u8> {
        let received = self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
        received.iter().map(|frame| frame[NET_HDR_LEN + 59]).collect()
    }

    /// The ports that have got frames since the last call.
    fn receivers(&self) -> Vec<u16> {
        ALL.into_iter().filter(|slot| !self.got(*slot).is_empty()).collect()
    }

    fn dropped(&self, slot: u16, reason: DropReason) -> u64 {
        self.ports.get(slot).unwrap().counters().drops[reason as usize].load(Relaxed)
    }

    /// The RARP frames that a port has got since the last call: the addresses in whose names they are.
    fn announced(&self, slot: u16) -> Vec<u64> {
        let received = self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
        let of = |frame: &Vec<u8>| {
            let source = frame[NET_HDR_LEN..][6..12].try_into().unwrap();
            (frame[NET_HDR_LEN..][12..14] == [0x80, 0x35]).then(|| MacAddr::new(source).bits() & 0xffff_ffff)
        };
        received.iter().filter_map(of).collect()
    }
}

#[test]
fn a_frame_for_a_known_address_goes_to_its_port_alone_from_every_origin() {
    let mut switch = Switch::new();
    for slot in ALL {
        switch.send(slot, &[(BROADCAST, mac(slot))]);
        assert_eq!(switch.receivers(), ALL.into_iter().filter(|to| *to != slot).collect::<Vec<_>>());
    }
    for (from, to) in ALL.into_iter().flat_map(|from| ALL.map(|to| (from, to))) {
        switch.send(from, &[(mac(to), mac(from)); 3]);
        let expected = if from == to { vec![] } else { vec![to] };
        assert_eq!(switch.receivers(), expected, "from {from} to {to}");
        // Of a station behind the same uplink, which is not known yet.
        switch.send(from, &[(mac(to), mac(100 + from))]);
        assert_eq!(switch.receivers(), expected, "from a new station at {from} to {to}");
    }
    assert_eq!(ALL.map(|slot| switch.dropped(slot, DropReason::Hairpin)), [4; 5]);
    // A guest that has gone down is not looked for elsewhere.
    switch.ports.note_receiver(QueueId::receive(GUEST, 0), false);
    switch.send(UPLINK, &[(mac(GUEST), mac(UPLINK))]);
    assert_eq!((switch.receivers(), switch.dropped(GUEST, DropReason::RxDown)), (vec![], 1));
}

#[test]
fn an_uplink_does_not_get_back_what_came_from_it() {
    let mut switch = Switch::new();
    switch.send(UPLINK, &[(UNKNOWN, mac(7)), (BROADCAST, mac(8)), (mac(7), mac(8)), (mac(8), mac(8))]);
    assert_eq!((switch.got(UPLINK), switch.got(SECOND_UPLINK)), (vec![], vec![0, 1]));
    assert_eq!(switch.dropped(UPLINK, DropReason::Hairpin), 2);
}

/// Frames of refused sources stand before, between and behind others that go to the same receiver, and in front of
/// floods.
#[test]
fn no_frame_of_a_refused_source_is_forwarded_wherever_it_stands() {
    for (from, reason) in [(UPLINK, DropReason::UplinkEcho), (STREAM, DropReason::AddressConflict)] {
        let mut switch = Switch::new();
        switch.send(GUEST, &[(BROADCAST, mac(GUEST))]);
        switch.send(OTHER, &[(BROADCAST, mac(OTHER))]);
        switch.receivers();
        let (good, bad) = (mac(from), mac(GUEST));
        let sources = [bad, good, good, bad, bad, good, mac(50), bad, mac(50), good];
        let mut frames = sources.map(|source| (mac(OTHER), source)).to_vec();
        frames.extend([(UNKNOWN, bad), (BROADCAST, bad), (BROADCAST, good)]);
        switch.send(from, &frames);
        assert_eq!(switch.got(OTHER), [1, 2, 5, 6, 8, 9, 12]);
        assert_eq!(switch.got(GUEST), [12]);
        assert_eq!(switch.dropped(from, reason), 6);
        // The guest still has its address.
        switch.receivers();
        switch.send(OTHER, &[(mac(GUEST), mac(OTHER))]);
        assert_eq!(switch.receivers(), [GUEST]);
        let note = switch.ports.get(from).unwrap().rules.take_conflict();
        assert_eq!(note, (from == STREAM).then_some(mac(GUEST).bits() | u64::from(GUEST) << 48));
        assert!(switch.forwarder.take_noted());
    }
}

#[test]
fn a_guest_that_has_gone_speaks_by_the_uplink_and_one_that_comes_takes_its_address_along() {
    let mut switch = Switch::new();
    switch.send(STREAM, &[(BROADCAST, mac(60))]);
    switch.send(UPLINK, &[(BROADCAST, mac(60))]);
    assert_eq!(switch.dropped(UPLINK, DropReason::UplinkEcho), 1);
    // A live migration: the rings stop here, then the guest speaks elsewhere.
    switch.ports.note_receiver(QueueId::receive(STREAM, 0), false);
    switch.receivers();
    switch.send(UPLINK, &[(BROADCAST, mac(60))]);
    switch.send(OTHER, &[(mac(60), mac(OTHER))]);
    assert_eq!(switch.got(UPLINK), [0]);
    // And back again: the guest's own first frame takes the address from the uplink.
    switch.ports.note_receiver(QueueId::receive(STREAM, 0), true);
    switch.send(STREAM, &[(BROADCAST, mac(60))]);
    switch.receivers();
    switch.send(OTHER, &[(mac(60), mac(OTHER))]);
    assert_eq!(switch.receivers(), [STREAM]);
    assert_eq!(switch.dropped(STREAM, DropReason::AddressConflict), 0);
}

fn probe(token: u64) -> Vec<u8> {
    let addresses = (loop_probe::GROUP, mac(77));
    let mut probe = frame(addresses, 1);
    probe[NET_HDR_LEN + 12..][..2].copy_from_slice(&[0x88, 0xb5]);
    probe[NET_HDR_LEN + 14..][..8].copy_from_slice(&token.to_be_bytes());
    probe
}

#[test]
fn a_probe_stays_at_the_uplink_where_it_comes_in_and_only_a_known_token_is_noted() {
    let mut switch = Switch::new();
    switch.ports.get(UPLINK).unwrap().rules.set_token(0x1234_5678_9abc_def0);
    let mut short = probe(0x1234_5678_9abc_def0);
    short.truncate(NET_HDR_LEN + 14 + 7);
    switch.send_octets(SECOND_UPLINK, vec![probe(1), short, probe(0)]);
    let rules = &switch.ports.get(SECOND_UPLINK).unwrap().rules;
    assert_eq!((rules.take_loop(), switch.forwarder.take_noted()), (None, false));
    switch.send_octets(SECOND_UPLINK, vec![probe(0x1234_5678_9abc_def0); 5]);
    assert_eq!((rules.take_loop(), switch.forwarder.take_noted()), (Some(0x1234_5678_9abc_def0), true));
    switch.send_octets(SECOND_UPLINK, vec![probe(0x1234_5678_9abc_def0); 5]);
    assert_eq!((rules.take_loop(), switch.forwarder.take_noted()), (None, false), "within 100 ms");
    assert_eq!((switch.receivers(), switch.dropped(SECOND_UPLINK, DropReason::LoopProbe)), (vec![], 13));
    assert_eq!(switch.forwarder.fdb.find(mac(77), 1000), None, "it is learnt");
    // The same octets with another EtherType, and a probe at a guest's port: ordinary frames.
    let mut other = probe(1);
    other[NET_HDR_LEN + 13] = 0xb6;
    switch.send_octets(UPLINK, vec![other]);
    assert_eq!(switch.receivers(), [GUEST, OTHER, STREAM, SECOND_UPLINK]);
    switch.send_octets(GUEST, vec![probe(0x1234_5678_9abc_def0)]);
    assert_eq!(switch.receivers(), [OTHER, STREAM, UPLINK, SECOND_UPLINK]);
}

#[test]
fn what_is_sent_as_a_probe_is_known_as_one() {
    let mut switch = Switch::new();
    let port = switch.ports.get(UPLINK).unwrap();
    assert!(loop_probe::send(&mut switch.forwarder, (port, 0), 99));
    port.rules.set_token(99);
    let mut sent = switch.with(QueueId::receive(UPLINK, 0), |queue| std::mem::take(&mut queue.received));
    assert_eq!((sent.len(), switch.receivers()), (1, vec![]));
    let frame = &sent[0][NET_HDR_LEN..];
    assert_eq!((frame.len(), frame[0] & 3, frame[6] & 3), (60, 3, 2), "locally administered, a group and none");
    sent[0][10] = 0;
    switch.send_octets(SECOND_UPLINK, sent);
    assert_eq!(switch.ports.get(SECOND_UPLINK).unwrap().rules.take_loop(), Some(99));
    // Another thread has the queue.
    let lease = port.receive(0).unwrap().lease(1).unwrap();
    assert!(!loop_probe::send(&mut switch.forwarder, (port, 0), 99));
    drop(lease);
}

#[test]
fn guests_are_announced_out_of_all_uplinks_and_stations_of_the_network_are_not() {
    let mut switch = Switch::new();
    let mut announcer = Announcer::new();
    assert_eq!(announcer.go_on(&mut switch.forwarder), Next::WhenMarked);
    switch.forwarder.now_ns += PASS_NS;
    switch.send(GUEST, &[(mac(OTHER), mac(GUEST))]);
    switch.send(STREAM, &[(mac(OTHER), mac(STREAM))]);
    switch.send(UPLINK, &[(mac(OTHER), mac(UPLINK))]);
    switch.receivers();
    assert!(switch.forwarder.take_noted() && switch.ports.marked.take());
    announcer.wake();
    let lease = switch.ports.get(UPLINK).unwrap().receive(0).unwrap().lease(1).unwrap();
    assert_eq!(announcer.go_on(&mut switch.forwarder), Next::Now, "another thread has an uplink");
    drop(lease);
    // One may be lost, so each is repeated.
    for left in (0..=REPEATS).rev() {
        let next = switch.forwarder.now_ns + REPEAT_NS;
        assert_eq!(announcer.go_on(&mut switch.forwarder), Next::At(next));
        for slot in [UPLINK, SECOND_UPLINK] {
            let mut announced = switch.announced(slot);
            announced.sort_unstable();
            assert_eq!(announced, [GUEST, STREAM].map(u64::from), "{left} are left");
        }
        switch.forwarder.now_ns = next;
    }
    assert_eq!(announcer.go_on(&mut switch.forwarder), Next::WhenMarked);
    assert_eq!(switch.receivers().len(), 0);
    // Guests that have gone, and addresses that uplinks took, are not announced.
    switch.send(GUEST, &[(BROADCAST, mac(70)), (BROADCAST, mac(71))]);
    switch.ports.note_receiver(QueueId::receive(GUEST, 0), false);
    switch.send(UPLINK, &[(BROADCAST, mac(70))]);
    switch.forwarder.now_ns += PASS_NS;
    announcer.wake();
    assert_eq!(announcer.go_on(&mut switch.forwarder), Next::WhenMarked);
    assert_eq!(switch.announced(SECOND_UPLINK).len(), 0);
}

/// One guest speaks for thousands of addresses, and others for one each.
#[test]
fn a_flood_of_addresses_is_announced_slowly_and_delays_nobody() {
    let mut switch = Switch::new();
    let mut announcer = Announcer::new();
    let start = switch.forwarder.now_ns;
    let flood = |first: u16| (first..first + 60).map(|n| (mac(OTHER), mac(n))).collect::<Vec<_>>();
    (0..50).for_each(|n| switch.send(GUEST, &flood(1000 + n * 60)));
    announcer.wake();
    let (mut total, mut waits) = (0, None);
    for step in 0..1000u64 {
        switch.forwarder.now_ns = start + step * 1_000_000;
        if step % 100 == 50 {
            switch.send(OTHER, &[(BROADCAST, mac(9000 + step as u16))]);
            waits = Some(step);
        }
        if switch.ports.marked.take() {
            announcer.wake();
        }
        while announcer.go_on(&mut switch.forwarder) == Next::Now {}
        let announced = switch.announced(UPLINK);
        total += announced.iter().filter(|mac| (1000..9000).contains(*mac)).count();
        let announced_again = announced.iter().filter(|mac| (9000..10_000).contains(*mac));
        if let Some(since) =
            announced_again.map(|mac| mac - 9000).max().and_then(|step| waits.take_if(|at| *at == step))
        {
            // It may wait behind repeats for the other addresses of its own port, of which there are ten at most.
            assert!(step - since <= 12 * PASS_NS / 1_000_000, "announced after {} ms", step - since);
        }
    }
    assert_eq!(waits, None, "one is not announced");
    let passes = 1_000_000_000 / PASS_NS as usize;
    assert!((passes - 2..=passes + 1).contains(&total), "{total} announcements in a second");
}

#[test]
fn all_ports_together_announce_at_a_bounded_rate_and_a_slice_at_a_time() {
    let mut switch = Switch::new();
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    for slot in 5..305 {
        switch.ports.make(slot, ledger).unwrap();
        switch.ports.note_receiver(QueueId::receive(slot, 0), true);
        switch.forwarder.learn(mac(slot), slot);
    }
    let mut announcer = Announcer::new();
    let start = switch.forwarder.now_ns;
    let mut after = Vec::new();
    for step in 0..300u64 {
        switch.forwarder.now_ns = start + step * EACH_NS;
        loop {
            let next = announcer.go_on(&mut switch.forwarder);
            let count = switch.announced(UPLINK).len();
            assert!(count <= SLICE);
            after.extend(std::iter::repeat_n(step, count));
            if next != Next::Now {
                break;
            }
        }
    }
    assert_eq!(after.len(), 300, "each once");
    let in_time = |at: u64| after.iter().filter(|step| **step < at).count();
    assert_eq!([1, 101, 201].map(in_time), [100, 200, 300]);
}
