//! Builds `sv3 groups` from the ledger, which is a worker's: each number in it may be anything.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::time::{ClockId, clock_gettime};
use sv3::frame::MacAddr;
use sv3::group_status::*;
use sv3::groups::{ASKED, Family, GroupPlace, GroupTable, LEFT, QuerierState, group_key, group_of, router_key, vid_of};
use sv3::snooping::Snooping;

/// What the ledger says of the groups of these ports, which have names.
pub fn groups(table: &GroupTable, setting: Option<Snooping>, ports: &[(u16, String)]) -> GroupsStatus {
    let mut status = GroupsStatus { snooping: setting, ..GroupsStatus::default() };
    let Some(setting) = setting else { return status };
    let now_ns = now_ns();
    status.overflows = table.overflows.load(Relaxed);
    status.queriers = vlans(table)
        .flat_map(|vid| Family::BOTH.map(|family| (vid, family)))
        .filter_map(|(vid, family)| {
            Some(querier((vid, family), table.querier(vid, family)?, (setting.querier, now_ns), ports))
        })
        .collect();
    let (mut groups, mut count) = (BTreeMap::<u64, Vec<Holds>>::new(), 0);
    for (slot, name) in ports.iter().filter(|(slot, _)| has(&table.ports, *slot)) {
        let open = table.open_until.get(usize::from(*slot)).map_or(0, |until| until.load(Relaxed));
        status.open.extend(holds(name, open, now_ns));
        for place in table.places_of(*slot) {
            let Some(one) = member(place, name, now_ns) else { continue };
            let (key, is_left_out) = (place.key.load(Relaxed), count >= GroupsStatus::MOST);
            count += 1;
            match group_of(key) {
                _ if is_left_out => status.left_out += 1,
                Ok(group) if group_key(vid_of(key), group) == key => groups.entry(key).or_default().push(one),
                Err(Some(family)) if router_key(vid_of(key), family) == key => {
                    let (vid, protocol) = (vid_of(key), protocol(family));
                    status.routers.push(RouterStatus { vid, protocol, port: one });
                }
                _ => {}
            }
        }
    }
    status.routers.sort_by(|one, other| {
        (one.vid, &one.protocol, &one.port.port).cmp(&(other.vid, &other.protocol, &other.port.port))
    });
    let group = |(key, members)| GroupStatus { vid: vid_of(key), group: MacAddr::from_bits(key).to_string(), members };
    status.groups = groups.into_iter().map(group).collect();
    status
}

fn querier(
    (vid, family): (u16, Family),
    state: &QuerierState,
    (own, now_ns): (bool, u64),
    ports: &[(u16, String)],
) -> QuerierStatus {
    let is_other = state.other_until.load(Relaxed) > now_ns;
    let [high, low] = state.other.each_ref().map(|word| u128::from(word.load(Relaxed)));
    let address = match family {
        Family::V4 => Ipv4Addr::from_bits(low as u32).to_string(),
        Family::V6 => Ipv6Addr::from_bits(high << 64 | low).to_string(),
    };
    let port = state.port.load(Relaxed);
    let port = ports.iter().find(|(slot, _)| u32::from(*slot) == port).map(|(_, name)| name.clone());
    QuerierStatus {
        vid,
        protocol: protocol(family),
        querier: if is_other {
            "other"
        } else if own {
            "self"
        } else {
            "none"
        }
        .to_string(),
        address: is_other.then_some(address),
        port: port.filter(|_| is_other),
        filters: state.from.load(Relaxed) <= now_ns && now_ns < state.until.load(Relaxed),
    }
}

/// A place that holds.
fn member(place: &GroupPlace, name: &str, now_ns: u64) -> Option<Holds> {
    let leaving = place.until.load(Relaxed) & (LEFT | ASKED) != 0;
    holds(name, place.until_ns(), now_ns).map(|holds| Holds { leaving, ..holds })
}

fn holds(name: &str, until: u64, now_ns: u64) -> Option<Holds> {
    let left = until.checked_sub(now_ns).filter(|left| *left > 0)?;
    Some(Holds { port: name.to_string(), for_ms: left / 1_000_000, leaving: false })
}

fn protocol(family: Family) -> String {
    if family == Family::V4 { "igmp" } else { "mld" }.to_string()
}

/// VLANs in which a message was heard, and 0.
fn vlans(table: &GroupTable) -> impl Iterator<Item = u16> {
    let all = u16::try_from(sv3::groups::VLANS).unwrap_or(u16::MAX);
    (0..all).filter(|vid| *vid == 0 || has(&table.vlans, *vid))
}

fn has(words: &[AtomicU64], at: u16) -> bool {
    words.get(usize::from(at / 64)).is_some_and(|word| word.load(Relaxed) >> (at % 64) & 1 != 0)
}

/// CLOCK_MONOTONIC, as workers read it.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
    now.and_then(|now| u64::try_from(std::time::Duration::from(now).as_nanos()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    fn ports() -> Vec<(u16, String)> {
        vec![(0, "p0".to_string()), (1023, "up".to_string())]
    }

    #[test]
    fn what_holds_is_told() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let (table, now) = (&ledger.groups, now_ns());
        let group = MacAddr::new([1, 0, 0x5e, 1, 1, 1]);
        let later = now + 60_000_000_000;
        let put = |slot: usize, at: usize, key, until| {
            table.ports[slot / 64].fetch_or(1 << (slot % 64), Relaxed);
            table.places[slot][at].key.store(key, Relaxed);
            table.places[slot][at].until.store(until, Relaxed);
        };
        put(0, 3, group_key(0, group), later | LEFT);
        put(1023, 9, group_key(0, group), later);
        put(1023, 10, group_key(0, MacAddr::new([1, 0, 0x5e, 2, 2, 2])), now);
        put(1023, 11, router_key(0, Family::V6), later);
        put(5, 0, group_key(0, group), later);
        let state = table.querier(0, Family::V4).unwrap();
        state.other_until.store(later, Relaxed);
        state.other[1].store(u64::from(Ipv4Addr::new(192, 0, 2, 7).to_bits()), Relaxed);
        state.port.store(1023, Relaxed);
        state.until.store(later, Relaxed);
        let status = groups(table, Some(Snooping::default()), &ports());
        let [one] = &status.groups[..] else { panic!("{status:?}") };
        let members: Vec<_> = one.members.iter().map(|member| (member.port.as_str(), member.leaving)).collect();
        assert_eq!((one.vid, one.group.as_str()), (0, "01:00:5e:01:01:01"));
        assert_eq!(members, [("p0", true), ("up", false)]);
        let [router] = &status.routers[..] else { panic!("{status:?}") };
        assert_eq!((router.protocol.as_str(), router.port.port.as_str()), ("mld", "up"));
        let [igmp, mld] = &status.queriers[..] else { panic!("{status:?}") };
        assert_eq!((igmp.querier.as_str(), igmp.address.as_deref(), igmp.filters), ("other", Some("192.0.2.7"), true));
        assert_eq!((mld.querier.as_str(), mld.filters, mld.port.as_deref()), ("self", false, None));
        assert!(groups(table, None, &ports()).groups.is_empty());
    }

    #[test]
    fn a_ledger_full_of_anything_makes_a_bounded_answer() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let table = &ledger.groups;
        let mut seed = 7u64;
        let mut any = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed ^ seed >> 29
        };
        table.ports.iter().chain(&table.vlans).for_each(|word| word.store(u64::MAX, Relaxed));
        for place in table.places.iter().take(200).flatten() {
            place.key.store(any() | 1 << 40, Relaxed);
            place.until.store(u64::MAX - (any() & 1), Relaxed);
        }
        table.open_until.iter().for_each(|until| until.store(any(), Relaxed));
        let many: Vec<_> = (0..200).map(|slot| (slot, format!("p{slot}"))).collect();
        let status = groups(table, Some(Snooping::default()), &many);
        let members: usize = status.groups.iter().map(|group| group.members.len()).sum();
        assert!(members <= GroupsStatus::MOST && status.left_out > 0, "{members}, {}", status.left_out);
        assert_eq!(status.queriers.len(), 2 * sv3::groups::VLANS);
    }
}
