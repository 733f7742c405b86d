//! The table against a plain model of who is a member, and the switch's own queries.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sv3::ledger::LedgerMap;
use sv3::snooping::{Snooping as Setting, SnoopingRun};

use super::message::write::*;
use super::querier::Turn;
use super::*;

const SECOND: u64 = 1_000_000_000;
/// So that no router's place is the third in its bucket.
const SLOTS: [u16; 3] = [0, 64, 1023];
const GROUPS: [&str; 3] = ["239.1.1.1", "239.1.1.2", "239.2.2.2"];

fn snooping(setting: Setting) -> (Snooping, Ports, &'static LedgerMap) {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let snooping = Snooping::new(ledger, querier::station(7));
    snooping.table.set(Some(&SnoopingRun { settings: setting, run: 1 }));
    (snooping, Ports::new(), ledger)
}

fn hear(snooping: &Snooping, slot: u16, (to, packet): (&str, Vec<u8>), now_ns: u64) -> (Route, bool) {
    let message = message::parse(group_mac(to), Family::V4, &packet, true);
    snooping.table.hear((slot, 0), Family::V4, &message, now_ns)
}

fn query(from: &str, seconds: u8) -> (&'static str, Vec<u8>) {
    ("224.0.0.1", igmp(from, "224.0.0.1", &igmp3_query(100, "0.0.0.0", 2, seconds, &[])))
}

fn report(kind: u8, group: &str) -> (&'static str, Vec<u8>) {
    ("224.0.0.22", igmp("10.0.0.2", "224.0.0.22", &igmp3_report(&[(kind, group, &[])])))
}

fn slots(wanted: Option<Slots>) -> Option<Vec<u16>> {
    wanted.map(|wanted| (0..MAX_PORTS as u16).filter(|slot| has(&wanted, *slot)).collect())
}

#[derive(Clone, Debug)]
enum Step {
    Joins(usize, usize),
    Leaves(usize, usize),
    /// The control thread asks a port where somebody has left.
    Asks(usize),
    Query,
    Passes(u64),
    Goes(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, group) = (0..SLOTS.len(), 0..GROUPS.len());
    prop_oneof![
        3 => (slot.clone(), group.clone()).prop_map(|(slot, group)| Step::Joins(slot, group)),
        2 => (slot.clone(), group).prop_map(|(slot, group)| Step::Leaves(slot, group)),
        2 => slot.clone().prop_map(Step::Asks),
        2 => Just(Step::Query),
        3 => (1..200u64).prop_map(Step::Passes),
        1 => slot.prop_map(Step::Goes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn members_are_those_of_a_plain_model(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut snooping, ports, _) = snooping(Setting::default());
        let mut now = 1000 * SECOND;
        // Until when somebody is a member, and whether one has left.
        let mut members = BTreeMap::<(u16, usize), (u64, bool)>::new();
        let mut valid: Option<(u64, u64)> = None;
        for step in steps {
            match step {
                Step::Joins(slot, group) => {
                    hear(&snooping, SLOTS[slot], report(4, GROUPS[group]), now);
                    members.insert((SLOTS[slot], group), (now + 260 * SECOND, false));
                }
                Step::Leaves(slot, group) => {
                    hear(&snooping, SLOTS[slot], report(3, GROUPS[group]), now);
                    if let Some(member) = members.get_mut(&(SLOTS[slot], group)).filter(|member| member.0 > now) {
                        member.1 = true;
                    }
                }
                Step::Asks(slot) => {
                    let left = members.iter_mut().filter(|((at, _), _)| *at == SLOTS[slot]);
                    let left: Vec<_> = left.filter(|(_, member)| member.1 && member.0 > now).collect();
                    let scope = snooping.table.next_left(SLOTS[slot], &[], now);
                    prop_assert!(left.is_empty() || scope == Some((0, Family::V4)));
                    if !left.is_empty() {
                        snooping.table.was_asked(SLOTS[slot], (0, Family::V4), now + 2 * SECOND);
                    }
                    left.into_iter().for_each(|(_, member)| *member = (member.0.min(now + 2 * SECOND), false));
                    // All of them again, so that no mark is left.
                    while let Some(scope) = snooping.table.next_left(SLOTS[slot], &[], now) {
                        snooping.table.was_asked(SLOTS[slot], scope, now + 2 * SECOND);
                    }
                }
                Step::Query => {
                    snooping.table.has_asked(0, Family::V4, now);
                    let from = valid.filter(|(_, until)| *until > now).map_or(now + 11 * SECOND, |(from, _)| from);
                    valid = Some((from, now + 255 * SECOND));
                }
                Step::Passes(seconds) => now += seconds * SECOND,
                Step::Goes(slot) => {
                    snooping.table.forget(SLOTS[slot]);
                    members.retain(|(at, _), _| *at != SLOTS[slot]);
                }
            }
            for (group, name) in GROUPS.iter().enumerate() {
                let of: Vec<u16> = members.iter().filter(|((_, of), member)| *of == group && member.0 > now)
                    .map(|((slot, _), _)| *slot).collect();
                let holds = valid.is_some_and(|(from, until)| from <= now && now < until) && !of.is_empty();
                let wanted = slots(snooping.wanted(0, group_mac(name), &ports, now));
                prop_assert_eq!(wanted, holds.then_some(of), "group {}", name);
            }
        }
    }
}

#[test]
fn a_port_that_joins_too_much_gets_all_and_takes_nobody_s_place() {
    let (mut snooping, ports, ledger) = snooping(Setting::default());
    let now = 1000 * SECOND;
    snooping.table.has_asked(0, Family::V4, now - 20 * SECOND);
    hear(&snooping, 1, report(4, "239.3.0.77"), now);
    for n in 0..2000u16 {
        hear(&snooping, 2, report(4, &format!("239.1.{}.{}", n / 256, n % 256)), now);
    }
    assert!(ledger.groups.overflows.load(Relaxed) > 1000);
    assert_eq!(slots(snooping.wanted(0, group_mac("239.3.0.77"), &ports, now)), Some(vec![1, 2]));
    for n in 0..2000u16 {
        let group = group_mac(&format!("239.1.{}.{}", n / 256, n % 256));
        let wanted = slots(snooping.wanted(0, group, &ports, now));
        assert!(wanted.is_none() || wanted == Some(vec![2]), "{wanted:?}");
    }
    // The others have aged, and it asks for no more than it may.
    let later = now + 261 * SECOND;
    snooping.table.has_asked(0, Family::V4, now + 200 * SECOND);
    hear(&snooping, 1, report(4, "239.3.0.77"), later);
    hear(&snooping, 2, report(4, "239.1.0.0"), later);
    assert_eq!(slots(snooping.wanted(0, group_mac("239.3.0.77"), &ports, later)), Some(vec![1]));
    assert_eq!(slots(snooping.wanted(0, group_mac("239.1.0.0"), &ports, later)), Some(vec![2]));
}

#[test]
fn the_lowest_address_asks_and_one_without_displaces_nobody() {
    let address = |address: &str| Setting { address: address.parse().unwrap(), ..Setting::default() };
    let now = 1000 * SECOND;
    let asks = |snooping: &Snooping, now| snooping.table.is_querier(0, Family::V4, now);
    // The switch has no address: whoever has one asks.
    let (table, ports, _) = snooping(Setting::default());
    hear(&table, 3, query("0.0.0.0", 125), now);
    assert!(asks(&table, now) && table.table.is_valid(0, Family::V4, now + 11 * SECOND));
    assert!(!has(&table.table.routers(0, Family::V4, &ports, now), 3));
    hear(&table, 3, query("10.0.0.9", 125), now);
    assert!(!asks(&table, now) && has(&table.table.routers(0, Family::V4, &ports, now), 3));
    assert_eq!(table.table.turn(0, Family::V4, now), Turn::At(now + 255 * SECOND));
    assert!(asks(&table, now + 255 * SECOND) && table.table.turn(0, Family::V4, now + 255 * SECOND) == Turn::Now);
    // It has one.
    let (table, ports, _) = snooping(address("10.0.0.5"));
    for (from, port) in [("10.0.0.9", 4), ("0.0.0.0", 5), ("10.0.0.5", 6)] {
        hear(&table, port, query(from, 125), now);
        assert!(asks(&table, now), "{from}");
    }
    assert_eq!(slots(Some(table.table.routers(0, Family::V4, &ports, now))), Some(vec![4]));
    hear(&table, 5, query("10.0.0.4", 125), now);
    assert!(!asks(&table, now));
    // Nobody asks, and it may not.
    let (table, _, _) = snooping(Setting { querier: false, ..Setting::default() });
    assert_eq!((table.table.turn(0, Family::V4, now), asks(&table, now)), (Turn::Never, false));
}

#[test]
fn members_outlive_the_time_for_which_the_table_holds() {
    for seconds in [0, 1, 125, 250, 255] {
        let (table, _, _) = snooping(Setting::default());
        let now = 1000 * SECOND;
        hear(&table, 3, query("10.0.0.9", seconds), now);
        let member = table.table.member_ns(0, Family::V4);
        let valid = (1..).take_while(|after| table.table.is_valid(0, Family::V4, now + 11 * SECOND + after * SECOND));
        let end = 11 + valid.last().unwrap_or(0);
        assert!(end * SECOND <= member, "an interval of code {seconds}: {end} s and {member} ns");
        assert!(end <= 3 * 500 + 5, "an interval of code {seconds} holds for {end} s");
    }
}

#[test]
fn a_query_about_a_group_ends_only_memberships_that_were_left() {
    let (mut table, ports, _) = snooping(Setting::default());
    let now = 1000 * SECOND;
    hear(&table, 3, query("10.0.0.9", 125), now - 20 * SECOND);
    for slot in [1, 2] {
        hear(&table, slot, report(4, GROUPS[0]), now);
    }
    let (_, news) = hear(&table, 2, report(3, GROUPS[0]), now);
    assert!(news);
    let ask = igmp("10.0.0.9", GROUPS[0], &igmp3_query(10, GROUPS[0], 2, 125, &[]));
    assert_eq!(hear(&table, 3, (GROUPS[0], ask), now), (Route::All, false));
    let mut at = |seconds| slots(table.wanted(0, group_mac(GROUPS[0]), &ports, now + seconds * SECOND));
    assert_eq!((at(1), at(2)), (Some(vec![1, 2, 3]), Some(vec![1, 3])));
}

#[test]
fn another_number_begins_anew_and_other_values_do_not() {
    let (mut table, ports, _) = snooping(Setting::default());
    let now = 1000 * SECOND;
    table.table.has_asked(0, Family::V4, now - 20 * SECOND);
    hear(&table, 1, report(4, GROUPS[0]), now);
    let mut wanted = |setting: SnoopingRun| {
        table.table.set(Some(&setting));
        slots(table.wanted(0, group_mac(GROUPS[0]), &ports, now))
    };
    let other = Setting { interval_ms: 60_000, ..Setting::default() };
    assert_eq!(wanted(SnoopingRun { settings: other, run: 1 }), Some(vec![1]));
    assert_eq!(wanted(SnoopingRun { settings: other, run: 2 }), None);
    table.table.has_asked(0, Family::V4, now);
    assert_eq!(slots(table.wanted(0, group_mac(GROUPS[0]), &ports, now + 12 * SECOND)), None);
}
