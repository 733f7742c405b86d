//! Snooping's part of the control thread: it asks, and a worker's death forgets no member.

use std::sync::atomic::Ordering::Relaxed;

use sv3::groups::{Family, group_key};
use sv3::snooping::{Snooping, SnoopingRun};

use super::*;
use crate::forward::snooping::message::write::*;
use crate::forward::snooping::message::{Message, parse};

const GROUP: &str = "239.1.2.3";
const V3: &str = "224.0.0.22";

impl Worker {
    fn snoop(&mut self, settings: Snooping) {
        assert_eq!(self.tell(Command::Snoop { setting: Some(SnoopingRun { settings, run: 1 }) }), None);
    }

    /// Has a port send an IGMP message.
    fn igmp(&mut self, slot: u16, to: &str, body: &[u8]) {
        let head = [&[0; 12][..], &group_mac(to).octets(), &[2, 0, 0, 0, 0, slot as u8], &[8, 0]].concat();
        let frame = [head, igmp("10.0.0.2", to, body)].concat();
        self.with(QueueId::transmit(slot, 0), |queue| queue.to_send.push(frame));
        self.thread.poll(QueueId::transmit(slot, 0));
        assert_eq!(self.tell(Command::Barrier), None);
    }

    /// The IGMP queries that a port has got since the last call: their response times in milliseconds.
    fn queries(&mut self, slot: u16) -> Vec<u64> {
        assert_eq!(self.tell(Command::Barrier), None);
        let received = self.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
        let of = |frame: &Vec<u8>| match parse(group_mac("224.0.0.1"), Family::V4, frame.get(26..)?, true) {
            Message::Query(query) => Some(query.response_ns / 1_000_000),
            _ => None,
        };
        received.iter().filter_map(of).collect()
    }

    fn await_query(&mut self, slot: u16, response_ms: u64) {
        while !self.queries(slot).contains(&response_ms) {}
    }

    fn holds(&self, slot: u16) -> bool {
        let places = self.thread.ledger.groups.places_of(slot);
        places.iter().any(|place| place.key.load(Relaxed) == group_key(0, group_mac(GROUP)))
    }
}

#[test]
fn it_asks_all_ports_and_again_and_those_that_come() {
    let mut worker = Worker::new(false);
    for slot in 0..2 {
        assert_eq!(worker.tell(add(slot)), None);
    }
    assert!(worker.queries(0).is_empty());
    worker.snoop(Snooping { interval_ms: 800, response_ms: 200, ..Snooping::default() });
    for _ in 0..3 {
        [0, 1].into_iter().for_each(|slot| worker.await_query(slot, 200));
    }
    assert_eq!(worker.tell(add(2)), None);
    assert!(worker.thread.ledger.groups.open_until[2].load(Relaxed) > 0, "it gets all groups at first");
    worker.await_query(2, 200);
    assert!(matches!(worker.thread.poller.alarm, Some(at) if at > 0), "it sleeps until the next query");
    assert_eq!(worker.tell(Command::Snoop { setting: None }), None);
    worker.queries(0);
    assert!(worker.queries(0).is_empty());
}

#[test]
fn it_asks_the_port_of_a_member_that_has_left_twice_and_no_other() {
    let mut worker = Worker::new(false);
    (0..3).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    worker.snoop(Snooping { interval_ms: 60_000, last_member_ms: 300, ..Snooping::default() });
    [1, 2].into_iter().for_each(|slot| worker.igmp(slot, V3, &igmp3_report(&[(4, GROUP, &[])])));
    [0, 1, 2].into_iter().for_each(|slot| worker.await_query(slot, 10_000));
    for _ in 0..20 {
        worker.igmp(1, V3, &igmp3_report(&[(3, GROUP, &[])]));
    }
    worker.await_query(1, 300);
    worker.await_query(1, 300);
    assert_eq!([0, 2].map(|slot| worker.queries(slot).contains(&300)), [false; 2]);
    worker.tell(Command::PortRemove { port: 2 });
    assert!(!worker.holds(2) && worker.holds(1));
}

#[test]
fn a_standby_asks_nobody_and_knows_all_members_when_it_serves() {
    let mut worker = Worker::new(true);
    (0..2).for_each(|slot| assert_eq!(worker.tell(add(slot)), None));
    worker.snoop(Snooping { response_ms: 5000, ..Snooping::default() });
    assert!(worker.queries(0).is_empty());
    // What the worker before it has left, of ports that are there and of one that is gone.
    let table = worker.thread.poller.forwarder.snooping.table;
    table.set(Some(&SnoopingRun { settings: Snooping::default(), run: 1 }));
    let report = igmp("10.0.0.2", V3, &igmp3_report(&[(4, GROUP, &[])]));
    for slot in [1, 7] {
        let message = parse(group_mac(V3), Family::V4, &report, true);
        table.hear((slot, 0), Family::V4, &message, 1);
    }
    assert_eq!(worker.tell(Command::Promote), None);
    assert!(worker.holds(1) && !worker.holds(7));
    worker.await_query(0, 5000);
}
