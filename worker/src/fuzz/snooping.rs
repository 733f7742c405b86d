//! Target `snooping`: anything that a guest may send as a message about groups, and what an earlier worker that lied has
//! left in the ledger. Nothing panics or hangs. A message changes nothing that its port or its group has nothing to do with:
//! an honest member at another port, of a group that is never named here, stays one as long as somebody asks.

use std::sync::atomic::Ordering::Relaxed;

use sv3::frame::MacAddr;
use sv3::fuzz::Input;
use sv3::groups::{Family, PLACES, group_key, is_reserved};
use sv3::ledger::LedgerMap;
use sv3::snooping::{Snooping as Setting, SnoopingRun};

use crate::forward::snooping::message::write::{group_mac, icmpv6, igmp, igmp3_report};
use crate::forward::snooping::message::{Message, may_be_one, parse};
use crate::forward::snooping::{Snooping, has, querier};
use crate::port::Ports;

const HONEST: u16 = 900;
const MEMBER_OF: &str = "239.77.77.77";
const SECOND: u64 = 1_000_000_000;
const TO: [&str; 8] =
    ["224.0.0.1", "224.0.0.22", "239.1.2.3", "224.0.0.106", "ff02::1", "ff02::16", "ff15::1:2:3", "ff02::6a"];
const FROM: [&str; 4] = ["10.0.0.2", "0.0.0.0", "fe80::2", "::"];

thread_local! {
    static SHARED: (&'static LedgerMap, &'static Ports) =
        (Box::leak(Box::new(LedgerMap::create().unwrap().1)), Box::leak(Box::new(Ports::new())));
}

/// Octets: what was left: count (1), then place (1), key (8), time (8); then messages: form (1), port (1), destination (1),
/// length (1), octets. Bit 0 of the form: a message in a packet that is right, of IGMP or ICMPv6 as the destination has it;
/// else a packet. Bit 1: an hour of nobody's asking passes before it.
pub fn snooping(octets: &[u8]) {
    let (ledger, ports) = SHARED.with(|shared| *shared);
    let mut input = Input::new(octets);
    let mut view = Snooping::new(ledger, querier::station(1));
    view.table.set(None);
    view.table.set(Some(&SnoopingRun { settings: Setting::default(), run: 1 + ledger.groups.run.load(Relaxed) }));
    view.table.retain(|_| false);
    for _ in 0..input.below(8) {
        let place = &ledger.groups.places[3][usize::from(input.u8()) % PLACES];
        place.key.store(input.u64(), Relaxed);
        place.until.store(input.u64(), Relaxed);
    }
    ledger.groups.ports[0].fetch_or(1 << 3, Relaxed);
    let mut now = 1 << 50;
    let asks = |view: &Snooping, now: u64| {
        view.table.has_asked(0, Family::V4, now);
        let report = igmp("10.0.0.9", "224.0.0.22", &igmp3_report(&[(4, MEMBER_OF, &[])]));
        let message = parse(group_mac("224.0.0.22"), Family::V4, &report, true);
        view.table.hear((HONEST, 0), Family::V4, &message, now + 5 * SECOND);
    };
    asks(&view, now);
    for _ in 0..100 {
        if input.is_empty() {
            break;
        }
        let (form, slot, to, len) = (input.u8(), u16::from(input.u8()) % 8, TO[input.below(TO.len())], input.u8());
        let body = input.take(len.into());
        let family = if to.contains(':') { Family::V6 } else { Family::V4 };
        if form & 2 != 0 {
            now += 3600 * SECOND;
            asks(&view, now);
            now += 20 * SECOND;
        }
        let from = FROM[usize::from(family == Family::V6) * 2 + usize::from(form >> 2 & 1)];
        let packet = match (form & 1 != 0 && body.len() >= 4, family) {
            (false, _) => body.to_vec(),
            (true, Family::V4) => igmp(from, to, body),
            (true, Family::V6) => icmpv6(from, to, body),
        };
        say(&view, (slot, family), (group_mac(to), &packet), now);
        let _ = (view.table.next_left(slot, &[], now), view.table.turn(0, family, now));
        view.table.was_asked(slot, (0, family), now + SECOND);
        let wanted = view.wanted(0, group_mac(MEMBER_OF), ports, now);
        assert!(wanted.is_none_or(|slots| has(&slots, HONEST)), "a member is forgotten");
        assert!(view.table.member_ns(0, family) < 4000 * SECOND);
    }
}

fn say(view: &Snooping, (slot, family): (u16, Family), (dst, packet): (MacAddr, &[u8]), now: u64) {
    let message = parse(dst, family, packet, true);
    match &message {
        Message::Query(query) => assert!(query.group.is_some() || !query.lowers),
        Message::Report(records) => records.for_each(|group, _| {
            assert_eq!(Family::of(group), Some(family));
            assert!(is_reserved(group) || group_key(0, group) != 0);
        }),
        _ => {}
    }
    let silent = matches!(message, Message::Other | Message::Malformed);
    assert!(silent || may_be_one(family, packet), "it would not be looked at");
    let changes = view.table.changes();
    view.table.hear((slot, 0), family, &message, now);
    assert!(!silent || changes == view.table.changes(), "what says nothing has changed something");
}
