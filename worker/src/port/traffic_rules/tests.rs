//! Which VLAN a frame is of, by what stands in it, and who may get it.

use sv3::rules::{TagType, VidRange, Vids, Vlan};

use super::*;

fn domain(vlan: Vlan) -> Domain {
    vlan.check().unwrap();
    Domain::of(&vlan)
}

fn trunk(native: Option<u16>, ranges: &[(u16, u16)]) -> Domain {
    let allowed = Vids(ranges.iter().map(|(first, last)| VidRange { first: *first, last: *last }).collect());
    domain(Vlan::Trunk { native, allowed, tag: TagType::Customer })
}

#[test]
fn a_trunk_lets_its_ranges_pass_and_no_others() {
    let all = trunk(None, &[(1, 4094)]);
    assert!((1..=4094).all(|vid| all.contains(vid)) && !all.contains(0) && !all.contains(4095));
    let some = trunk(Some(64), &[(2, 2), (63, 65), (4094, 4094)]);
    let passing: Vec<u16> = (0..=u16::MAX).filter(|vid| some.contains(*vid)).collect();
    assert_eq!((passing, some.own()), (vec![2, 63, 64, 65, 4094], 64));
    assert_eq!((trunk(None, &[(7, 9)]).own(), domain(Vlan::Access { vid: 3 }).own(), Domain::Unaware.own()), (7, 3, 0));
}

/// All tags at all kinds of ports; 802.1Q-2022, table 9-2: 0 is no VLAN, and 4095 is never one.
#[test]
fn every_tag_is_of_one_vlan_or_refused() {
    let (native, pure) = (trunk(Some(10), &[(10, 20)]), trunk(None, &[(10, 20)]));
    let access = domain(Vlan::Access { vid: 10 });
    let tunnel = domain(Vlan::Tunnel { vid: 10 });
    let service = Domain::of(&Vlan::Trunk { native: None, allowed: Vids::all(), tag: TagType::Service });
    for (kind, tci) in [0x0800u16, 0x8100, 0x88a8, 0x9100, 0x86dd]
        .into_iter()
        .flat_map(|kind| (0..=u16::MAX).map(move |tci| (kind, tci)))
    {
        let ([a, b], [c, d]) = (kind.to_be_bytes(), tci.to_be_bytes());
        let vid = |domain: &Domain| domain.classify([a, b, c, d, 8, 0], 64).map(|vlan| (vlan.vid, vlan.tag_len())).ok();
        let said = tci & 0xfff;
        let is_tag = ![0x0800, 0x86dd].contains(&kind);
        let of = |is_own: bool, native: Option<u16>, passes: &dyn Fn(u16) -> bool| match (is_tag, is_own, said) {
            (false, ..) => native.map(|vid| (vid, 0)),
            (true, true, 0) => native.map(|vid| (vid, 4)),
            (true, true, said) => passes(said).then_some((said, 4)),
            _ => None,
        };
        let customer = kind == 0x8100;
        assert_eq!(vid(&native), of(customer, Some(10), &|said| (10..=20).contains(&said)), "{kind:x} {tci:x}");
        assert_eq!(vid(&pure), of(customer, None, &|said| (10..=20).contains(&said)), "{kind:x} {tci:x}");
        assert_eq!(vid(&service), of(kind == 0x88a8, None, &|said| (1..4095).contains(&said)), "{kind:x} {tci:x}");
        assert_eq!(vid(&access), of(customer, Some(10), &|_| false), "{kind:x} {tci:x}");
        assert_eq!((vid(&tunnel), vid(&Domain::Unaware)), (Some((10, 0)), Some((0, 0))));
    }
    assert_eq!(pure.classify([0x81, 0, 0, 10, 8, 0], 17), Err(DropReason::ShortFrame));
    assert!(pure.classify([0x81, 0, 0, 10, 8, 0], 18).is_ok());
}

#[test]
fn members_come_and_go_with_commits() {
    let members = VlanMembers::new();
    let (access, tunnel, trunk) =
        (domain(Vlan::Access { vid: 5 }), domain(Vlan::Tunnel { vid: 6 }), trunk(None, &[(5, 5)]));
    let of = |vid| [0, 1, 15].map(|word| members.word(vid, word));
    assert_eq!((of(0), of(5), members.word(4095, 0), members.word(5, 99)), ([u64::MAX; 3], [0; 3], 0, 0));
    members.change(64, &Domain::Unaware, &access);
    members.change(65, &Domain::Unaware, &trunk);
    assert_eq!((of(0), of(5), of(6)), ([u64::MAX, u64::MAX - 3, u64::MAX], [0, 3, 0], [0, 2, 0]));
    members.change(64, &access, &tunnel);
    members.change(65, &trunk, &Domain::Unaware);
    assert_eq!((of(0), of(5), of(6)), ([u64::MAX, u64::MAX - 1, u64::MAX], [0; 3], [0, 1, 0]));
}

#[test]
fn isolation_and_floods_say_who_gets_a_frame() {
    let rules =
        |isolation, mcast_flood| TrafficRules::of(&PortRules { isolation, mcast_flood, ..PortRules::default() });
    let passage = |isolation, cast| Passage { isolation, cast, ..Passage::OPEN };
    use Isolation::*;
    for (sender, receiver, passes) in [
        (Open, Isolated, true),
        (Isolated, Open, true),
        (Isolated, Isolated, false),
        (Group(1), Group(1), true),
        (Group(1), Group(2), false),
        (Group(1), Isolated, false),
        (Group(1), Open, true),
    ] {
        let way = passage(sender, Cast::Known).way_to(rules(receiver, true).as_deref());
        assert_eq!(way, if passes { Ok(Edit::NONE) } else { Err(DropReason::Isolated) }, "{sender:?} {receiver:?}");
    }
    for (cast, passes) in
        [(Cast::Known, true), (Cast::Unknown, true), (Cast::Multicast, false), (Cast::Broadcast, true)]
    {
        assert_eq!(passage(Open, cast).way_to(rules(Open, false).as_deref()).is_ok(), passes, "{cast:?}");
    }
    assert!(TrafficRules::of(&PortRules::default()).is_none());
}
