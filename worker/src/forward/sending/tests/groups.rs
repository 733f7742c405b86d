//! Who gets frames to multicast groups in a switch that snoops, and where reports and queries go.

use sv3::groups::Family;
use sv3::rules::{Isolation, PortRules, TagType, VidRange, Vids, Vlan};
use sv3::snooping::{Snooping as Setting, SnoopingRun};

use super::*;
use crate::forward::snooping::message::write::*;
use crate::forward::snooping::message::{Message, parse};
use crate::forward::snooping::question::{self, Question};
use crate::port::traffic_rules::{Domain, TrafficRules};

const SECOND: u64 = 1_000_000_000;
const GROUP: &str = "239.1.2.3";
const GROUP6: &str = "ff15::1:2:3";
const V3: &str = "224.0.0.22";
const UPLINKS: [u16; 2] = [UPLINK, SECOND_UPLINK];

/// A frame with net header: a packet from a port's station to a group.
fn to_group(from: u16, to: &str, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let head = [&[0; NET_HDR_LEN][..], &group_mac(to).octets(), &mac(from).octets(), &ethertype.to_be_bytes()].concat();
    let mut frame = [head.as_slice(), packet].concat();
    frame.resize(frame.len().max(NET_HDR_LEN + 60), 0);
    frame
}

impl Switch {
    /// A switch that snoops, whose queries were answered long since.
    fn snooping() -> Switch {
        let mut switch = Switch::new();
        switch.forwarder.snooping.table.set(Some(&SnoopingRun { settings: Setting::default(), run: 1 }));
        for family in Family::BOTH {
            switch.forwarder.snooping.table.has_asked(0, family, switch.forwarder.now_ns);
        }
        switch.pass(20);
        switch
    }

    fn pass(&mut self, seconds: u64) {
        self.forwarder.now_ns += seconds * SECOND;
        self.forwarder.now_s += seconds;
    }

    /// Who gets a frame of this port's.
    fn who(&mut self, from: u16, frame: Vec<u8>) -> Vec<u16> {
        self.send_octets(from, vec![frame]);
        self.receivers()
    }

    /// Who gets a datagram to this group.
    fn datagram(&mut self, from: u16, to: &str) -> Vec<u16> {
        let frame = match to.contains(':') {
            false => to_group(from, to, 0x800, &ipv4("10.0.0.2", to, 17, &[5; 30])),
            true => {
                let mut packet = icmpv6("fe80::2", to, &[5; 30]);
                packet.drain(40..48);
                (packet[5], packet[6]) = (30, 17);
                to_group(from, to, 0x86dd, &packet)
            }
        };
        self.who(from, frame)
    }

    fn igmp(&mut self, from: u16, to: &str, body: &[u8]) -> Vec<u16> {
        self.who(from, to_group(from, to, 0x800, &igmp("10.0.0.2", to, body)))
    }

    fn mld(&mut self, from: u16, to: &str, body: &[u8]) -> Vec<u16> {
        self.who(from, to_group(from, to, 0x86dd, &icmpv6("fe80::2", to, body)))
    }
}

fn but(slot: u16) -> Vec<u16> {
    ALL.into_iter().filter(|to| *to != slot).collect()
}

#[test]
fn without_snooping_all_of_it_is_flooded() {
    let mut switch = Switch::new();
    assert_eq!(switch.igmp(GUEST, V3, &igmp3_report(&[(4, GROUP, &[])])), but(GUEST));
    assert_eq!(switch.datagram(OTHER, GROUP), but(OTHER));
}

#[test]
fn a_group_s_frames_go_to_members_and_uplinks() {
    let mut switch = Switch::snooping();
    for (group, v6) in [(GROUP, false), (GROUP6, true)] {
        assert_eq!(switch.datagram(OTHER, group), but(OTHER), "no member is known");
        let heard = match v6 {
            false => switch.igmp(GUEST, V3, &igmp3_report(&[(4, group, &[])])),
            true => switch.mld(GUEST, "ff02::16", &mld2_report(&[(4, group, &[])])),
        };
        assert_eq!(heard, UPLINKS);
        assert_eq!(switch.datagram(OTHER, group), [&[GUEST][..], &UPLINKS].concat());
        assert_eq!(switch.datagram(GUEST, group), UPLINKS, "from the only member");
        assert_eq!(switch.datagram(UPLINK, group), [GUEST, SECOND_UPLINK]);
    }
    assert_eq!(switch.datagram(OTHER, "239.9.9.9"), but(OTHER));
    for reserved in ["224.0.0.251", "224.0.0.1", "ff02::fb", "ff02::1"] {
        assert_eq!(switch.datagram(OTHER, reserved), but(OTHER), "{reserved}");
    }
    // Not of the group's family; behind a tag; broken off.
    for frame in [to_group(OTHER, GROUP, 0x86dd, &[0; 40]), to_group(OTHER, GROUP, 0x8100, &[0; 40])] {
        assert_eq!(switch.who(OTHER, frame), but(OTHER));
    }
    let mut short = to_group(OTHER, GROUP, 0x800, &[0; 40]);
    short.truncate(NET_HDR_LEN + 20);
    let (port, id) = (switch.ports.get(OTHER).unwrap(), QueueId::transmit(OTHER, 0));
    switch.with(id, |queue| queue.to_send.push(short));
    let mut queue = port.transmit(0).unwrap().lease(0).unwrap();
    switch.burst.serve(&mut switch.forwarder, (port, id), &mut queue, 64 * TURN, false).unwrap();
    drop(queue);
    assert_eq!(switch.with(QueueId::receive(STREAM, 0), |queue| queue.received.len()), 1);
    assert_eq!(
        ALL.map(|slot| switch.ports.get(slot).unwrap().counters().drops.iter().map(|n| n.load(Relaxed)).sum::<u64>()),
        [0; 5]
    );
}

#[test]
fn reports_go_to_routers_queries_to_all_and_oddities_where_they_are_addressed_to() {
    let mut switch = Switch::snooping();
    let query = to_group(STREAM, "224.0.0.1", 0x800, &igmp("10.0.0.1", "224.0.0.1", &igmp2(0x11, 100, "0.0.0.0")));
    assert_eq!(switch.who(STREAM, query), but(STREAM));
    assert_eq!(switch.igmp(GUEST, GROUP, &igmp2(0x16, 0, GROUP)), [STREAM, UPLINK, SECOND_UPLINK]);
    assert_eq!(switch.datagram(OTHER, GROUP), [GUEST, STREAM, UPLINK, SECOND_UPLINK]);
    assert_eq!(switch.igmp(GUEST, "224.0.0.2", &igmp2(0x17, 0, GROUP)), [STREAM, UPLINK, SECOND_UPLINK]);
    // Unknown messages, and a report whose checksum is wrong, are frames like any other.
    assert_eq!(switch.igmp(OTHER, GROUP, &[0x77, 0, 0, 0, 0, 0, 0, 0]), [GUEST, STREAM, UPLINK, SECOND_UPLINK]);
    let broken = ipv4("10.0.0.2", V3, 2, &igmp3_report(&[(4, "239.5.5.5", &[])]));
    assert_eq!(switch.who(OTHER, to_group(OTHER, V3, 0x800, &broken)), but(OTHER));
    assert_eq!(switch.datagram(GUEST, "239.5.5.5"), but(GUEST), "nobody has joined");
    // A report that is too long to be read: its port gets all groups.
    let long = ipv4("10.0.0.2", V3, 2, &[0x22; 3000]);
    assert_eq!(switch.who(OTHER, to_group(OTHER, V3, 0x800, &long)), but(OTHER));
    assert_eq!(switch.datagram(STREAM, GROUP), [GUEST, OTHER, UPLINK, SECOND_UPLINK]);
}

#[test]
fn members_are_asked_when_one_leaves_and_frames_are_flooded_when_nobody_asks() {
    let mut switch = Switch::snooping();
    for slot in [GUEST, OTHER] {
        switch.igmp(slot, V3, &igmp3_report(&[(4, GROUP, &[])]));
    }
    switch.igmp(OTHER, V3, &igmp3_report(&[(3, GROUP, &[])]));
    assert!(switch.forwarder.take_noted());
    let table = switch.forwarder.snooping.table;
    assert_eq!(table.take_left().collect::<Vec<_>>(), [OTHER]);
    assert_eq!(table.next_left(OTHER, &[], switch.forwarder.now_ns), Some((0, Family::V4)));
    let question = Question { vid: 0, family: Family::V4, response_ns: SECOND };
    assert!(question::send(&mut switch.forwarder, &question, Some(OTHER)));
    assert_eq!(switch.receivers(), [OTHER], "the port is asked alone");
    table.was_asked(OTHER, (0, Family::V4), switch.forwarder.now_ns + 2 * SECOND);
    let all = [GUEST, OTHER, UPLINK, SECOND_UPLINK];
    assert_eq!(switch.datagram(STREAM, GROUP), all);
    switch.pass(1);
    assert_eq!(switch.datagram(STREAM, GROUP), all);
    switch.pass(1);
    assert_eq!(switch.datagram(STREAM, GROUP), [GUEST, UPLINK, SECOND_UPLINK]);
    // A port that is gone is no member, and when nobody has asked for long, nobody is known to be one.
    switch.pass(200);
    assert_eq!(switch.datagram(STREAM, GROUP), [GUEST, UPLINK, SECOND_UPLINK]);
    switch.pass(200);
    assert_eq!(switch.datagram(STREAM, GROUP), but(STREAM));
    assert_eq!(switch.igmp(GUEST, V3, &igmp3_report(&[(4, GROUP, &[])])), but(GUEST), "reports as well");
}

/// A guest that asks, with an hour to answer, is a member as well and says so again and again. Others answer within that
/// hour (RFC 3376, 5.2), and must get their groups until then.
#[test]
fn a_query_that_is_answered_late_ends_no_membership() {
    for late in [255, 0x8f + 0x40] {
        let mut switch = Switch::snooping();
        for slot in [GUEST, STREAM] {
            switch.igmp(slot, V3, &igmp3_report(&[(4, GROUP, &[])]));
        }
        let all = "224.0.0.1";
        assert_eq!(switch.igmp(STREAM, all, &igmp3_query(late, "0.0.0.0", 7, 255, &[])), but(STREAM));
        for _ in 0..10 {
            switch.pass(100);
            switch.igmp(STREAM, V3, &igmp3_report(&[(2, GROUP, &[])]));
            let got = switch.datagram(OTHER, GROUP);
            assert!(got.contains(&GUEST), "{got:?} get it");
        }
    }
}

/// Isolated ports do not hear each other's queries, so the switch goes on asking.
#[test]
fn a_query_that_not_all_hear_ends_no_membership() {
    let mut switch = Switch::snooping();
    for slot in [GUEST, STREAM] {
        switch.rule(slot, PortRules { isolation: Isolation::Isolated, ..PortRules::default() });
        switch.igmp(slot, V3, &igmp3_report(&[(4, GROUP, &[])]));
    }
    for _ in 0..4 {
        let heard = switch.igmp(STREAM, "224.0.0.1", &igmp3_query(100, "0.0.0.0", 2, 125, &[]));
        assert_eq!(heard, [OTHER, UPLINK, SECOND_UPLINK]);
        assert!(switch.forwarder.snooping.table.is_querier(0, Family::V4, switch.forwarder.now_ns));
        switch.pass(100);
        switch.igmp(STREAM, V3, &igmp3_report(&[(2, GROUP, &[])]));
        let got = switch.datagram(OTHER, GROUP);
        assert!(got.contains(&GUEST), "{got:?} get it");
    }
}

#[test]
fn the_switch_s_queries_are_what_the_rfcs_say() {
    let mut switch = Switch::snooping();
    for (family, to, wanted) in [(Family::V4, "224.0.0.1", 60), (Family::V6, "ff02::1", 90)] {
        let question = Question { vid: 0, family, response_ns: 10 * SECOND };
        assert!(question::send(&mut switch.forwarder, &question, None));
        for slot in ALL {
            let mut got = switch.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
            let (frame, none) = (got.pop().unwrap().split_off(NET_HDR_LEN), got.len());
            assert_eq!((frame.len(), none, &frame[..6]), (wanted, 0, &group_mac(to).octets()[..]));
            let Message::Query(query) = parse(group_mac(to), family, &frame[14..], true) else {
                panic!("{frame:x?}");
            };
            assert_eq!((query.group, query.response_ns, query.interval_s), (None, 10 * SECOND, 125));
            assert_eq!((query.robustness, query.source), (2, switch.forwarder.snooping.table.address(family)));
        }
    }
    // While another thread has a queue, nobody is asked.
    let theirs = switch.ports.get(OTHER).unwrap().receive(0).unwrap().lease(1).unwrap();
    let question = Question { vid: 0, family: Family::V4, response_ns: SECOND };
    assert!(!question::send(&mut switch.forwarder, &question, None));
    drop(theirs);
    assert!(switch.receivers().is_empty());
}

#[test]
fn each_vlan_has_members_and_a_querier_of_its_own() {
    let mut switch = Switch::snooping();
    let both = Vids([10, 20].map(|vid| VidRange { first: vid, last: vid }).to_vec());
    let vlans = [
        (GUEST, Vlan::Access { vid: 10 }),
        (OTHER, Vlan::Trunk { native: None, allowed: both, tag: TagType::Customer }),
        (STREAM, Vlan::Access { vid: 20 }),
    ];
    for (slot, vlan) in vlans {
        let rules = TrafficRules::of(&PortRules { vlan, ..PortRules::default() }).unwrap();
        for queue in [QueueId::receive(slot, 0), QueueId::transmit(slot, 0)] {
            *switch.ports.get(slot).unwrap().seize(queue, || ()).unwrap().rules() = Some(rules.clone());
        }
        switch.ports.members.change(slot, &Domain::Unaware, &rules.vlan);
    }
    let tagged = |vid: u8, mut frame: Vec<u8>| {
        frame.splice(NET_HDR_LEN + 12..NET_HDR_LEN + 12, [0x81, 0, 0, vid]);
        frame
    };
    let report = |slot| to_group(slot, V3, 0x800, &igmp("10.0.0.2", V3, &igmp3_report(&[(4, GROUP, &[])])));
    let datagram = |slot| to_group(slot, GROUP, 0x800, &ipv4("10.0.0.2", GROUP, 17, &[5; 30]));
    switch.who(GUEST, report(GUEST));
    switch.who(OTHER, tagged(20, report(OTHER)));
    assert_eq!(switch.who(STREAM, datagram(STREAM)), [OTHER], "nobody has asked there yet");
    let table = switch.forwarder.snooping.table;
    assert_eq!(table.vlans().collect::<Vec<_>>(), [0, 10, 20]);
    for vid in [10, 20] {
        table.has_asked(vid, Family::V4, switch.forwarder.now_ns);
    }
    switch.pass(20);
    assert_eq!(switch.who(STREAM, datagram(STREAM)), [OTHER]);
    assert_eq!(switch.who(OTHER, tagged(10, datagram(OTHER))), [GUEST]);
    assert!(switch.who(OTHER, tagged(20, datagram(OTHER))).is_empty(), "it is the only member there");
    assert!(switch.who(GUEST, datagram(GUEST)).is_empty(), "the same");
    assert_eq!(switch.who(UPLINK, datagram(UPLINK)), [SECOND_UPLINK], "which is in no VLAN");
    // A query has the tag of its VLAN at the trunk.
    let question = Question { vid: 10, family: Family::V4, response_ns: SECOND };
    assert!(question::send(&mut switch.forwarder, &question, None));
    let len = |switch: &Switch, slot| {
        switch.with(QueueId::receive(slot, 0), |queue| queue.received.pop().map(|frame| frame.len()))
    };
    assert_eq!(ALL.map(|slot| len(&switch, slot)), [Some(72), Some(76), None, None, None]);
}
