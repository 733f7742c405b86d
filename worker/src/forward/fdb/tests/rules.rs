//! VLANs, static addresses, and ports that may have some addresses or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

use sv3::rules::PortRules;

use super::*;

fn rules(learning: bool, max_addresses: u32) -> Arc<TrafficRules> {
    TrafficRules::of(&PortRules { learning, max_addresses, flood: false, ..PortRules::default() }).unwrap()
}

fn held_to(fdb: &Fdb<'_>, mac: MacAddr, port: u16, now_s: u64, rules: &TrafficRules) -> Learnt {
    fdb.learn(mac.into(), Speaker { port, rules: Some(rules), ports: &PORTS }, now_s)
}

#[test]
fn an_address_in_two_vlans_is_two_addresses() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    let say = |vid, port| fdb.learn(Address::new(mac(1), vid), Speaker { port, rules: None, ports: &PORTS }, 5);
    for vid in 0..=4094 {
        assert_eq!(say(vid, vid % 900), Learnt::Changed);
    }
    let found = (0..=4094).filter(|vid| fdb.find(Address::new(mac(1), *vid), 6) == Some(vid % 900)).count();
    assert_eq!((found, fdb.find(Address::new(mac(2), 7), 6)), (4095, None));
    let lines: Vec<_> = ledger.fdb.iter().filter_map(FdbEntry::line).collect();
    assert!(
        lines.len() == 4095
            && lines.iter().all(|line| line.port == line.vid % 900 && line.mac == mac(1) && line.seen_s == 5)
    );
}

#[test]
fn a_static_address_does_not_age_and_nobody_takes_it() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    assert!(learn(&fdb, mac(1), 3, 10));
    assert!(fdb.add(mac(1).into(), 4, 10) && fdb.add(Address::new(mac(1), 9), 5, 10));
    assert_eq!(counts(&ledger)[3..6], [0, 0, 0], "only those that are learnt are counted");
    let key = |port| key_of(mac(1).into(), port);
    for now_s in [11, 10 + AGE_S, 10_000] {
        assert_eq!(fdb.find(mac(1), now_s), Some(4));
        // A port that is free could take any learnt address.
        assert_eq!(say(&fdb, mac(1), 3, now_s, &PORTS), Learnt::Refused(key(4)));
        assert_eq!(held_to(&fdb, mac(1), 3, now_s, &rules(false, 0)), Learnt::Refused(key(4)));
        assert_eq!(say(&fdb, mac(1), 4, now_s, &PORTS), Learnt::Same);
    }
    // A flood of addresses does not displace it, and the next worker has it.
    for n in 0..500_000 {
        let _ = learn(&fdb, mac(0x1_0000_0000 + n), 7, 10_000);
    }
    fdb.recount();
    assert_eq!((fdb.find(mac(1), 20_000), fdb.find(Address::new(mac(1), 9), 20_000)), (Some(4), Some(5)));
    // It moves, and goes.
    assert!(fdb.add(mac(1).into(), 6, 20_000) && !fdb.remove(mac(1).into(), 4) && !fdb.remove(mac(2).into(), 6));
    assert_eq!(fdb.find(mac(1), 20_000), Some(6));
    assert!(fdb.remove(mac(1).into(), 6) && fdb.find(mac(1), 20_000).is_none());
    assert!(learn(&fdb, mac(1), 3, 20_000));
    fdb.forget(5);
    assert_eq!(fdb.find(Address::new(mac(1), 9), 20_000), None, "its port has ended");
}

#[test]
fn ten_thousand_static_addresses_fit_and_leave_room() {
    for round in 0..3u64 {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger);
        let of = |n: u64| Address::new(mac(round << 32 | n), (n % 50) as u16);
        assert!((0..10_000).all(|n| fdb.add(of(n), (n % 1000) as u16, 5)));
        let found = || (0..10_000).filter(|n| fdb.find(of(*n), 10_000) == Some((*n % 1000) as u16)).count();
        let guests = (0..1000).filter(|n| learn(&fdb, mac(round << 32 | 1 << 24 | n), *n as u16, 10_000)).count();
        // A bucket may be full of static ones: that happens to one address in 30,000.
        assert!(found() == 10_000 && guests >= 990, "{} found, {guests} learnt", found());
        fdb.recount();
        assert_eq!(found(), 10_000);
    }
}

/// One bucket gets more than it has entries: they take those of the bucket beside it, and are found there.
#[test]
fn static_addresses_of_one_bucket_spill_into_the_next_one() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    let number = fdb.bucket_number(mac(0).into());
    let mut alike = (0..).map(mac).filter(|mac| fdb.bucket_number((*mac).into()) == number);
    let all: Vec<MacAddr> = alike.by_ref().take(2 * WAYS).collect();
    assert!(learn(&fdb, all[0], 9, 5));
    assert!(all.iter().all(|mac| fdb.add((*mac).into(), 3, 5)));
    assert!(!fdb.add(alike.next().unwrap().into(), 3, 5), "both buckets are full");
    let found = || all.iter().filter(|mac| fdb.find(**mac, 9999) == Some(3)).count();
    assert_eq!((found(), ledger.fdb_head.spilled.load(Relaxed)), (2 * WAYS, WAYS as i32));
    fdb.recount();
    assert_eq!((found(), ledger.fdb_head.spilled.load(Relaxed)), (2 * WAYS, WAYS as i32));
    assert!(all.iter().all(|mac| fdb.remove((*mac).into(), 3)));
    assert_eq!((found(), ledger.fdb_head.spilled.load(Relaxed)), (0, 0));
}

#[test]
fn a_limited_port_has_no_more_addresses_than_it_may_have() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let (fdb, rules) = (Fdb::new(&ledger), rules(true, 3));
    let say = |n, now_s| held_to(&fdb, mac(n), 1, now_s, &rules);
    assert!((0..3).all(|n| say(n, 10) == Learnt::Changed));
    assert_eq!(
        [say(3, 10), say(0, 10), say(3, 11), say(4, 11)],
        [Learnt::Full, Learnt::Same, Learnt::Full, Learnt::Full]
    );
    // One that another port has is one more, and stays there.
    learn(&fdb, mac(9), 2, 11);
    assert_eq!((say(9, 11), fdb.find(mac(9), 11)), (Learnt::Full, Some(2)));
    // One goes elsewhere.
    learn(&fdb, mac(0), 2, 12);
    assert_eq!((say(3, 12), say(4, 12)), (Learnt::Changed, Learnt::Full));
    // What has aged does not count: neither others nor its own.
    let late = 12 + AGE_S;
    assert_eq!([3, 4, 1, 2].map(|n| say(n, late)), [Learnt::Changed, Learnt::Changed, Learnt::Changed, Learnt::Full]);
    assert_eq!(counts(&ledger)[1], 3);
    // Static ones do not count either.
    assert!((20..30).all(|n| fdb.add(mac(n).into(), 1, late)));
    assert_eq!((say(25, late), counts(&ledger)[1]), (Learnt::Same, 3));
    // Of four threads that speak for one port, three addresses are learnt, however they meet.
    fdb.forget(1);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let say = &say;
            scope.spawn(move || (0..2000).filter(|n| say(thread * 10_000 + n, late + 1) == Learnt::Changed).count());
        }
    });
    let known = ledger.fdb.iter().filter_map(FdbEntry::line).filter(|line| line.port == 1).count();
    assert_eq!((known, counts(&ledger)[1]), (3, 3));
}

#[test]
fn a_port_that_does_not_learn_leaves_the_table_as_it_is() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let (fdb, rules) = (Fdb::new(&ledger), rules(false, 0));
    assert_eq!((held_to(&fdb, mac(1), 1, 10, &rules), fdb.find(mac(1), 10)), (Learnt::Same, None));
    learn(&fdb, mac(1), 2, 10);
    assert_eq!((held_to(&fdb, mac(1), 1, 10, &rules), fdb.find(mac(1), 10)), (Learnt::Same, Some(2)));
    // What it was before it stopped learning ages.
    learn(&fdb, mac(3), 1, 10);
    assert_eq!(held_to(&fdb, mac(3), 1, 200, &rules), Learnt::Same);
    assert_eq!((fdb.find(mac(3), 10 + AGE_S - 1), fdb.find(mac(3), 10 + AGE_S)), (Some(1), None));
}

#[test]
fn an_entry_that_a_dying_thread_held_is_free_for_the_next_worker() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    assert!(learn(&fdb, mac(1), 3, 10) && learn(&fdb, mac(2), 3, 10));
    for entry in [fdb.entry_of(mac(1).into()).unwrap(), &ledger.fdb[0]] {
        entry.key.fetch_or(BUSY, Relaxed);
    }
    // While it is held, it is known, and nobody gets it.
    assert_eq!((fdb.find(mac(1), 10), learn(&fdb, mac(1), 5, 10)), (Some(3), true));
    fdb.recount();
    assert_eq!((fdb.find(mac(1), 10), fdb.find(mac(2), 10), counts(&ledger)[3]), (None, Some(3), 1));
    assert!(ledger.fdb.iter().all(|entry| entry.key.load(Relaxed) & BUSY == 0));
}

/// Ends the other threads of a test, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Threads of other ports speak for addresses while these are added and removed as static ones: as long as one is static,
/// it is found where it was added. A thread that began to learn it before that may publish its entry, and takes it back at
/// once.
#[test]
fn a_static_address_is_found_while_others_speak_for_it() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    let (over, spoken) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for port in [2, 3, 4] {
            let (over, spoken) = (&over, &spoken);
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(Relaxed) {
                        break;
                    }
                    for n in 0..4 {
                        let _ = learn(&fdb, mac(n), port, 5 + round % 3 * AGE_S);
                    }
                    spoken.fetch_add(1, Relaxed);
                }
            });
        }
        let ends = Over(&over);
        let is_found = |n| fdb.find(mac(n), 5) == Some(9);
        for n in (0..4).cycle().take(20_000) {
            assert!(fdb.add(mac(n).into(), 9, 5));
            let deadline = Instant::now() + Duration::from_secs(10);
            while !is_found(n) {
                assert!(Instant::now() < deadline, "another port has a static address");
                std::thread::yield_now();
            }
            assert!(fdb.remove(mac(n).into(), 9));
        }
        while spoken.load(Relaxed) < 10 {
            std::thread::yield_now();
        }
        drop(ends);
    });
    let counted = counts(&ledger);
    fdb.recount();
    assert_eq!((counts(&ledger), ledger.fdb_head.spilled.load(Relaxed)), (counted, 0));
}
