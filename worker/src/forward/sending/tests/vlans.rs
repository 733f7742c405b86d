//! In which form a frame arrives at ports of every kind, or why it does not.

use sv3::rules::{Isolation, PortRules, TagType, Vid, VidRange, Vids, Vlan};

use super::*;
use crate::forward::fdb::Address;

const OPEN: u16 = 0;
const ACCESS: u16 = 1;
const SECOND_ACCESS: u16 = 2;
const ACCESS_20: u16 = 3;
const TRUNK: u16 = 4;
/// A trunk with native VLAN 10.
const NATIVE: u16 = 5;
const SERVICE: u16 = 6;
const TUNNEL: u16 = 7;
const PORTS: u16 = 8;

/// A tag: what it begins with, and the rest.
type Tag = (u16, u16);

fn c(vid: Vid) -> Tag {
    (0x8100, vid)
}

fn s(vid: Vid) -> Tag {
    (0x88a8, vid)
}

fn trunk(native: Option<Vid>, tag: TagType) -> Vlan {
    let both = [10, 20].map(|vid| VidRange { first: vid, last: vid });
    Vlan::Trunk { native, allowed: Vids(both.to_vec()), tag }
}

/// A switch whose ports have VLANs of every kind. All learn.
fn switch() -> Switch {
    let mut switch = Switch::of(&[Learning::Free; PORTS as usize]);
    for (slot, vlan) in [
        (ACCESS, Vlan::Access { vid: 10 }),
        (SECOND_ACCESS, Vlan::Access { vid: 10 }),
        (ACCESS_20, Vlan::Access { vid: 20 }),
        (TRUNK, trunk(None, TagType::Customer)),
        (NATIVE, trunk(Some(10), TagType::Customer)),
        (SERVICE, trunk(None, TagType::Service)),
        (TUNNEL, Vlan::Tunnel { vid: 10 }),
    ] {
        switch.rule(slot, PortRules { vlan, ..PortRules::default() });
    }
    switch
}

fn tagged((dst, src): (MacAddr, MacAddr), tags: &[Tag], n: u8) -> Vec<u8> {
    let tags: Vec<u8> =
        tags.iter().flat_map(|(kind, rest)| [kind.to_be_bytes(), rest.to_be_bytes()].concat()).collect();
    [&[0; NET_HDR_LEN][..], &dst.octets(), &src.octets(), &tags, &[8, 0], &[n; 50]].concat()
}

/// What each port has got since the last call: its slot and the tags of its frame. All else is as it was sent.
fn arrived(switch: &Switch, addresses: (MacAddr, MacAddr)) -> Vec<(u16, Vec<Tag>)> {
    let mut all = Vec::new();
    for slot in 0..PORTS {
        let received = switch.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
        for mut frame in received {
            frame[10] = 0;
            let behind = &frame[NET_HDR_LEN + 12..];
            let (words, _) = behind.as_chunks::<4>();
            let tags = words.iter().map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
            let tags: Vec<Tag> = tags.take_while(|(kind, _)| *kind != 0x0800).collect();
            assert_eq!(frame, tagged(addresses, &tags, 7));
            all.push((slot, tags));
        }
    }
    all
}

/// Sender, its tags, and who gets the frame with which tags; or why nobody does.
type Row = (u16, Vec<Tag>, Result<Vec<(u16, Vec<Tag>)>, DropReason>);

fn rows() -> Vec<Row> {
    use DropReason::*;
    let plain = || vec![];
    vec![
        (
            ACCESS,
            plain(),
            Ok(vec![
                (SECOND_ACCESS, plain()),
                (TRUNK, vec![c(10)]),
                (NATIVE, plain()),
                (SERVICE, vec![s(10)]),
                (TUNNEL, plain()),
            ]),
        ),
        // A priority tag goes, and its priority stays where there is a tag.
        (
            ACCESS,
            vec![c(0xb000)],
            Ok(vec![
                (SECOND_ACCESS, plain()),
                (TRUNK, vec![c(0xb00a)]),
                (NATIVE, plain()),
                (SERVICE, vec![s(0xb00a)]),
                (TUNNEL, plain()),
            ]),
        ),
        (ACCESS, vec![c(10)], Err(VlanTag)),
        (ACCESS, vec![c(20)], Err(VlanTag)),
        (ACCESS, vec![s(0)], Err(VlanTag)),
        (ACCESS, vec![(0x9100, 20)], Err(VlanTag)),
        // VLAN hopping: a second tag would count behind the first one.
        (
            ACCESS,
            vec![c(0), c(20)],
            Ok(vec![(TRUNK, vec![c(10), c(20)]), (SERVICE, vec![s(10), c(20)]), (TUNNEL, vec![c(20)])]),
        ),
        (
            TRUNK,
            vec![c(0x600a)],
            Ok(vec![
                (ACCESS, plain()),
                (SECOND_ACCESS, plain()),
                (NATIVE, plain()),
                (SERVICE, vec![s(0x600a)]),
                (TUNNEL, plain()),
            ]),
        ),
        (TRUNK, vec![c(20)], Ok(vec![(ACCESS_20, plain()), (NATIVE, vec![c(20)]), (SERVICE, vec![s(20)])])),
        (TRUNK, vec![c(10), c(20)], Ok(vec![(SERVICE, vec![s(10), c(20)]), (TUNNEL, vec![c(20)])])),
        (
            TRUNK,
            vec![c(10), (0x9100, 20)],
            Ok(vec![(SERVICE, vec![s(10), (0x9100, 20)]), (TUNNEL, vec![(0x9100, 20)])]),
        ),
        (TRUNK, plain(), Err(VlanTag)),
        (TRUNK, vec![c(0)], Err(VlanTag)),
        (TRUNK, vec![c(30)], Err(VlanTag)),
        (TRUNK, vec![c(4095)], Err(VlanTag)),
        (TRUNK, vec![s(10)], Err(VlanTag)),
        (
            NATIVE,
            plain(),
            Ok(vec![
                (ACCESS, plain()),
                (SECOND_ACCESS, plain()),
                (TRUNK, vec![c(10)]),
                (SERVICE, vec![s(10)]),
                (TUNNEL, plain()),
            ]),
        ),
        (
            NATIVE,
            vec![c(0x1000)],
            Ok(vec![
                (ACCESS, plain()),
                (SECOND_ACCESS, plain()),
                (TRUNK, vec![c(0x100a)]),
                (SERVICE, vec![s(0x100a)]),
                (TUNNEL, plain()),
            ]),
        ),
        (NATIVE, vec![c(20)], Ok(vec![(ACCESS_20, plain()), (TRUNK, vec![c(20)]), (SERVICE, vec![s(20)])])),
        (NATIVE, vec![s(10)], Err(VlanTag)),
        (SERVICE, vec![s(10), c(5)], Ok(vec![(TRUNK, vec![c(10), c(5)]), (TUNNEL, vec![c(5)])])),
        (SERVICE, vec![c(10)], Err(VlanTag)),
        (TUNNEL, vec![c(77)], Ok(vec![(TRUNK, vec![c(10), c(77)]), (SERVICE, vec![s(10), c(77)])])),
        (TUNNEL, vec![s(3), c(4)], Ok(vec![(TRUNK, vec![c(10), s(3), c(4)]), (SERVICE, vec![s(10), s(3), c(4)])])),
        (
            TUNNEL,
            plain(),
            Ok(vec![
                (ACCESS, plain()),
                (SECOND_ACCESS, plain()),
                (TRUNK, vec![c(10)]),
                (NATIVE, plain()),
                (SERVICE, vec![s(10)]),
            ]),
        ),
        (OPEN, vec![c(10)], Err(NoDestination)),
        (OPEN, plain(), Err(NoDestination)),
    ]
}

#[test]
fn a_flood_arrives_in_the_form_of_each_port_of_its_vlan() {
    let mut switch = switch();
    for (from, tags, wanted) in rows() {
        let addresses = (BROADCAST, mac(from));
        let before = DropReason::ALL.map(|reason| switch.dropped(from, reason));
        switch.send_octets(from, vec![tagged(addresses, &tags, 7)]);
        let got = arrived(&switch, addresses);
        let news = DropReason::ALL.into_iter().zip(before).filter(|(why, old)| switch.dropped(from, *why) != *old);
        let news: Vec<DropReason> = news.map(|(reason, _)| reason).collect();
        match wanted {
            Ok(wanted) => assert_eq!((got, news), (wanted, vec![]), "from {from} with {tags:x?}"),
            Err(reason) => assert_eq!((got, news), (vec![], vec![reason]), "from {from} with {tags:x?}"),
        }
    }
}

/// Each frame once more, to an address of each port in turn, which the table knows in both VLANs: it goes there or nowhere.
#[test]
fn a_frame_to_one_port_arrives_as_a_flood_would_there() {
    let mut switch = switch();
    let station = |port: u16| mac(100 + port);
    for (from, tags, wanted) in rows() {
        for to in (1..PORTS).filter(|to| *to != from) {
            let addresses = (station(to), mac(from));
            for vid in [10, 20] {
                assert!(switch.forwarder.add(Address::new(station(to), vid), to));
            }
            let why = [DropReason::NoDestination, DropReason::VlanHop, DropReason::VlanTag];
            let before = why.map(|reason| switch.dropped(from, reason));
            switch.send_octets(from, vec![tagged(addresses, &tags, 7); 3]);
            let got = arrived(&switch, addresses);
            let dropped: u64 = why.iter().zip(before).map(|(reason, old)| switch.dropped(from, *reason) - old).sum();
            let at_port = |port: &(u16, Vec<Tag>)| (port.0 == to).then(|| port.1.clone());
            match wanted.as_ref().ok().and_then(|wanted| wanted.iter().find_map(at_port)) {
                Some(form) => {
                    assert_eq!((got, dropped), (vec![(to, form); 3], 0), "from {from} with {tags:x?} to {to}")
                }
                None => assert_eq!((got, dropped), (vec![], 3), "from {from} with {tags:x?} to {to}"),
            }
        }
    }
}

/// A guest's address is announced in its own VLAN, with a tag where the uplink is a trunk, and a probe goes out in the
/// uplink's own VLAN.
#[test]
fn the_switch_speaks_in_the_vlan_that_it_speaks_of() {
    let learning = [Learning::Free, Learning::Free, Learning::Uplink, Learning::Uplink];
    let mut switch = Switch::of(&learning);
    switch.rule(0, PortRules { vlan: Vlan::Access { vid: 10 }, ..PortRules::default() });
    switch.rule(1, PortRules { vlan: Vlan::Access { vid: 20 }, ..PortRules::default() });
    switch.rule(2, PortRules { vlan: trunk(None, TagType::Customer), ..PortRules::default() });
    switch.rule(3, PortRules { vlan: Vlan::Access { vid: 20 }, ..PortRules::default() });
    [0, 1].into_iter().for_each(|slot| switch.send(slot, &[(BROADCAST, mac(slot))]));
    let all =
        |switch: &Switch, slot| switch.with(QueueId::receive(slot, 0), |queue| std::mem::take(&mut queue.received));
    (0..4).for_each(|slot| drop(all(&switch, slot)));
    let mut announcer = Announcer::new();
    switch.forwarder.now_ns += PASS_NS;
    announcer.go_on(&mut switch.forwarder);
    let forms = |switch: &Switch, slot| {
        let mut forms: Vec<_> = all(switch, slot)
            .iter()
            .map(|frame| (frame[NET_HDR_LEN + 11], frame[NET_HDR_LEN + 12..][..6].to_vec()))
            .collect();
        forms.sort();
        forms
    };
    let tagged = |vid| vec![0x81, 0, 0, vid, 0x80, 0x35];
    assert_eq!(forms(&switch, 2), [(0, tagged(10)), (1, tagged(20))]);
    assert_eq!(forms(&switch, 3), [(1, vec![0x80, 0x35, 0, 1, 8, 0])]);
    // A probe out of the trunk, which comes back at the same trunk, and at the other uplink without its tag.
    let port = switch.ports.get(2).unwrap();
    port.rules.set_token(77);
    assert!(loop_probe::send(&mut switch.forwarder, (port, 10), 77));
    let mut probe = all(&switch, 2).pop().unwrap();
    assert_eq!(probe[NET_HDR_LEN + 12..][..6], [0x81, 0, 0, 10, 0x88, 0xb5]);
    probe[10] = 0;
    switch.send_octets(2, vec![probe.clone()]);
    assert_eq!(port.rules.take_loop(), Some(77));
    probe.drain(NET_HDR_LEN + 12..NET_HDR_LEN + 16);
    switch.send_octets(3, vec![probe]);
    assert_eq!(switch.ports.get(3).unwrap().rules.take_loop(), Some(77));
}

/// One address in two VLANs is two: each is where it was seen in its VLAN.
#[test]
fn each_vlan_has_addresses_of_its_own() {
    let mut switch = switch();
    for (slot, n) in [(ACCESS, 1), (ACCESS_20, 1), (SECOND_ACCESS, 2), (TRUNK, 3)] {
        let tags = if slot == TRUNK { vec![c(20)] } else { vec![] };
        switch.send_octets(slot, vec![tagged((BROADCAST, mac(n)), &tags, 7)]);
    }
    (0..PORTS).for_each(|slot| drop(switch.got(slot)));
    switch.send(SECOND_ACCESS, &[(mac(1), mac(2)); 2]);
    assert_eq!([ACCESS, ACCESS_20].map(|slot| switch.got(slot).len()), [2, 0]);
    switch.send_octets(TRUNK, vec![tagged((mac(1), mac(3)), &[c(20)], 7), tagged((mac(1), mac(4)), &[c(10)], 7)]);
    assert_eq!([ACCESS, ACCESS_20].map(|slot| switch.got(slot).len()), [1, 1]);
}

#[test]
fn a_port_has_as_many_addresses_as_it_may_have_and_a_static_one_is_nobody_else_s() {
    let mut switch = Switch::of(&[Learning::Free, Learning::Free, Learning::Uplink]);
    switch.rule(0, PortRules { max_addresses: 2, ..PortRules::default() });
    assert!(switch.forwarder.add(mac(50).into(), 1));
    let frames = [1, 2, 3, 1, 3, 2].map(|n| (BROADCAST, mac(n)));
    switch.send(0, &frames);
    assert_eq!((switch.got(1), switch.dropped(0, DropReason::AddressLimit)), (vec![0, 1, 3, 5], 2));
    for (slot, reason) in [(0, DropReason::AddressConflict), (2, DropReason::UplinkEcho)] {
        switch.send(slot, &[(BROADCAST, mac(50))]);
        assert_eq!((switch.dropped(slot, reason), switch.forwarder.find(mac(50))), (1, Some(1)));
    }
    switch.got(1);
    switch.send(2, &[(mac(50), mac(9)), (mac(50), mac(9))]);
    assert_eq!(switch.got(1), [0, 1]);
}

/// Frames in one burst to one receiver, of which some need another tag and some are refused.
#[test]
fn a_frame_is_held_to_its_vlan_wherever_it_stands_in_its_burst() {
    let mut switch = switch();
    switch.send_octets(SECOND_ACCESS, vec![tagged((BROADCAST, mac(SECOND_ACCESS)), &[], 7)]);
    arrived(&switch, (BROADCAST, mac(SECOND_ACCESS)));
    let addresses = (mac(SECOND_ACCESS), mac(ACCESS));
    let frames = [vec![], vec![], vec![c(20)], vec![], vec![c(0)], vec![], vec![c(0), c(20)], vec![s(10)], vec![]];
    switch.send_octets(ACCESS, frames.iter().map(|tags| tagged(addresses, tags, 7)).collect());
    let got = arrived(&switch, addresses);
    assert_eq!(got, vec![(SECOND_ACCESS, vec![]); 6]);
    let dropped = [DropReason::VlanTag, DropReason::VlanHop].map(|reason| switch.dropped(ACCESS, reason));
    assert_eq!(dropped, [2, 1]);
}

#[test]
fn isolated_ports_reach_uplinks_alone() {
    let mut switch = Switch::of(&[Learning::Free; 3]);
    for slot in [0, 1] {
        switch.rule(slot, PortRules { isolation: Isolation::Isolated, ..PortRules::default() });
    }
    for slot in 0..3 {
        switch.send(slot, &[(BROADCAST, mac(slot))]);
    }
    assert_eq!([0, 1, 2].map(|slot| switch.got(slot).len()), [1, 1, 2]);
    switch.send(0, &[(mac(1), mac(0)), (mac(2), mac(0)), (mac(1), mac(0))]);
    assert_eq!([0, 1, 2].map(|slot| switch.got(slot)), [vec![], vec![], vec![1]]);
    assert_eq!(switch.dropped(0, DropReason::Isolated), 2);
    switch.send(2, &[(mac(1), mac(2)); 3]);
    assert_eq!(switch.got(1), [0, 1, 2]);
}

#[test]
fn floods_go_to_those_that_take_them_and_what_is_known_to_all() {
    let mut switch = Switch::of(&[Learning::Free; 4]);
    let group = MacAddr::new([1, 0, 0x5e, 1, 2, 3]);
    switch.rule(1, PortRules { flood: false, ..PortRules::default() });
    switch.rule(2, PortRules { mcast_flood: false, ..PortRules::default() });
    switch.rule(3, PortRules { bcast_flood: false, ..PortRules::default() });
    switch.send(3, &[(BROADCAST, mac(3))]);
    switch.send(1, &[(BROADCAST, mac(1))]);
    (0..4).for_each(|slot| drop(switch.got(slot)));
    switch.send(0, &[(UNKNOWN, mac(0)), (group, mac(0)), (BROADCAST, mac(0)), (mac(1), mac(0)), (mac(3), mac(0))]);
    assert_eq!([1, 2, 3].map(|slot| switch.got(slot)), [vec![1, 2, 3], vec![0, 2], vec![0, 1, 4]]);
}
