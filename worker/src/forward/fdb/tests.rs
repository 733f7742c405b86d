//! What is learnt, moves, ages and is forgotten, and who can push whom out.

use std::sync::LazyLock;

use sv3::ids::QueueId;
use sv3::ledger::LedgerMap;

use super::*;

mod rules;

fn mac(n: u64) -> MacAddr {
    MacAddr::from_bits(0x0200_0000_0000 | n)
}

/// All ports are free.
static PORTS: LazyLock<Ports> = LazyLock::new(Ports::new);

/// Learns an address of a port without rules.
fn say(fdb: &Fdb<'_>, mac: MacAddr, port: u16, now_s: u64, ports: &Ports) -> Learnt {
    fdb.learn(mac.into(), Speaker { port, rules: None, ports }, now_s)
}

/// True: the answer of [`Fdb::find`] has changed.
fn learn(fdb: &Fdb<'_>, mac: MacAddr, port: u16, now_s: u64) -> bool {
    say(fdb, mac, port, now_s, &PORTS) == Learnt::Changed
}

fn counts(ledger: &Ledger) -> [i32; sv3::MAX_PORTS] {
    ledger.fdb_head.held.each_ref().map(|held| held.load(Relaxed))
}

#[test]
fn learns_moves_ages_and_forgets() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    assert_eq!((fdb.find(mac(1), 10), fdb.find(MacAddr::from_bits(0), 10)), (None, None));
    assert!(learn(&fdb, mac(1), 0, 10));
    assert!(!learn(&fdb, mac(1), 0, 11));
    assert_eq!(fdb.find(mac(1), 12), Some(0));
    assert!(learn(&fdb, mac(1), 7, 13));
    assert_eq!(fdb.find(mac(1), 13 + AGE_S - 1), Some(7));
    assert_eq!(fdb.find(mac(1), 13 + AGE_S), None);
    assert!(learn(&fdb, mac(1), 7, 13 + AGE_S), "what had been forgotten is known again");
    learn(&fdb, mac(2), 7, 20);
    learn(&fdb, mac(3), 8, 20);
    fdb.forget(7);
    assert_eq!((fdb.find(mac(2), 20), fdb.find(mac(3), 20)), (None, Some(8)));
}

#[test]
fn threads_learn_at_the_same_time() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    let pass = |port: u64| (0..250).filter(|n| !learn(&fdb, mac(n * 4 + port), port as u16, 5)).count();
    // The next frame learns what a race lost.
    for _ in 0..10 {
        std::thread::scope(|scope| (0..4).for_each(|port| drop(scope.spawn(move || pass(port)))));
    }
    for n in 0..1000 {
        assert_eq!(fdb.find(mac(n), 6), Some((n % 4) as u16), "{n}");
    }
    // An address that is seen on all ports at once is known on one of them.
    std::thread::scope(|scope| {
        (0..4u16)
            .for_each(|port| drop(scope.spawn(move || (0..10_000).filter(|_| learn(&fdb, mac(1), port, 7)).count())))
    });
    assert!(fdb.find(mac(1), 8).is_some());
    // Each entry is counted once, whichever thread changed it.
    let counted = counts(&ledger);
    fdb.recount();
    assert_eq!(counts(&ledger), counted);
    (0..4).for_each(|port| fdb.forget(port));
    assert_eq!(counts(&ledger), [0; sv3::MAX_PORTS]);
    assert!((0..1000).all(|n| fdb.find(mac(n), 6).is_none()));
}

#[test]
fn a_flood_of_addresses_crowds_out_only_the_flooder() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    for n in 0..1000 {
        learn(&fdb, mac(n), (n % 500) as u16, 5);
    }
    for n in 0..2_000_000 {
        learn(&fdb, mac(0x1_0000_0000 + n), 999, 6);
    }
    let lost = (0..1000).filter(|n| fdb.find(mac(*n), 7) != Some((n % 500) as u16)).count();
    assert_eq!(lost, 0);
}

/// An attacker that knows everything but the secret. It has as many ports as a bucket has entries; each port has
/// one address more than there are neighbours, all seen later than theirs.
#[test]
fn several_ports_of_one_who_does_not_know_the_secret_push_nobody_out() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let (fdb, (_fd, theirs)) = (Fdb::new(&ledger), LedgerMap::create().unwrap());
    let (neighbours, guess) = (500u16, Fdb::new(&theirs));
    assert!((0..neighbours).all(|port| learn(&fdb, mac(port.into()), port, 5)));
    let held = |fdb: &Fdb<'_>| (0..neighbours).filter(|port| fdb.find(mac((*port).into()), 9) == Some(*port)).count();
    // Addresses that would displace each neighbour if the attacker's guess of the secret were right.
    for port in 0..neighbours {
        let bucket = guess.bucket(mac(port.into()).into()).as_ptr();
        let falls_there = |n: &u64| guess.bucket(mac(*n).into()).as_ptr() == bucket;
        for (own, n) in (0..2 * WAYS as u16).zip((0x1_0000..).filter(falls_there)) {
            learn(&fdb, mac(n), 600 + own % WAYS as u16, 8);
            learn(&guess, mac(n), 600 + own % WAYS as u16, 8);
        }
    }
    assert_eq!(held(&fdb), usize::from(neighbours));
    // And addresses that fill the table, from each of the attacker's ports.
    for n in 0..200_000 {
        learn(&fdb, mac(0x1_0000_0000 + n), 600 + (n % 8) as u16, 8);
    }
    assert_eq!(held(&fdb), usize::from(neighbours));
}

#[test]
fn a_worker_that_died_between_line_and_count_leaves_no_count_wrong_for_ever() {
    let (_fd, ledger) = LedgerMap::create().unwrap();
    let fdb = Fdb::new(&ledger);
    assert!((0..100).all(|n| learn(&fdb, mac(n), (n % 3) as u16, 5)));
    let right = counts(&ledger);
    assert_eq!(right[..4], [34, 33, 33, 0]);
    for (port, wrong) in [(0, -1), (1, 1000), (2, i32::MAX), (9, i32::MIN)] {
        ledger.fdb_head.held[port].store(wrong, Relaxed);
    }
    Fdb::new(&ledger).recount();
    assert_eq!(counts(&ledger), right);
}

/// Guests at ports 1 and 2, which are free and guarded; uplinks at 3 and 4. All run.
fn guests_and_uplinks() -> (&'static LedgerMap, &'static Ports) {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let ports: &Ports = Box::leak(Box::new(Ports::new()));
    let rules = [Learning::Free, Learning::Free, Learning::Guarded, Learning::Uplink, Learning::Uplink];
    for (slot, learning) in (0..).zip(rules).skip(1) {
        ports.make(slot, ledger).unwrap();
        ports.set_learning(slot, learning);
        ports.note_receiver(QueueId::receive(slot, 0), true);
    }
    (ledger, ports)
}

#[test]
fn who_may_take_whose_address() {
    use Learnt::*;
    let (ledger, ports) = guests_and_uplinks();
    let fdb = Fdb::new(ledger);
    let key = |port| key_of(mac(9).into(), port);
    // Owner, who speaks for its address, and what becomes of that.
    for (owner, port, learnt) in [
        (1, 2, Refused(key(1))),
        (1, 3, Refused(key(1))),
        (2, 1, Marked),
        (2, 3, Refused(key(2))),
        (3, 1, Marked),
        (3, 2, Marked),
        (3, 4, Changed),
    ] {
        fdb.retain(|_| false);
        say(&fdb, mac(9), owner, 1000, ports);
        assert_eq!(say(&fdb, mac(9), port, 1000, ports), learnt, "{port} speaks for the address of {owner}");
        let taken = !matches!(learnt, Refused(_));
        assert_eq!(fdb.find(mac(9), 1000), Some(if taken { port } else { owner }));
        // And the next frame of the one that had it: a guest takes back what an uplink has.
        assert!(taken || say(&fdb, mac(9), owner, 1000, ports) == Same);
    }
    assert_eq!(say(&fdb, mac(9), 3, 1000, ports), Changed, "an uplink takes what an uplink has");
}

#[test]
fn an_address_is_free_when_its_guest_has_gone_or_it_has_aged() {
    let (ledger, ports) = guests_and_uplinks();
    let fdb = Fdb::new(ledger);
    for taker in [2, 3] {
        let take = |now_s| !matches!(say(&fdb, mac(1), taker, now_s, ports), Learnt::Refused(_));
        let give = |now_s| say(&fdb, mac(1), 1, now_s, ports);
        fdb.retain(|_| false);
        give(1000);
        assert!(!take(1000 + AGE_S - 1) && take(1000 + AGE_S));
        give(2000);
        assert!(!take(2000));
        // Its receive queues stop: it has gone. They start again, and the guest speaks: it is here.
        ports.note_receiver(QueueId::receive(1, 0), false);
        assert!(take(2000));
        ports.note_receiver(QueueId::receive(1, 0), true);
        give(2000);
        assert!(fdb.find(mac(1), 2000) == Some(1) && !take(2000));
        // The port is removed.
        fdb.forget(1);
        assert!(take(2000));
    }
}

#[test]
fn an_address_that_is_new_at_a_guest_is_marked_while_there_is_an_uplink() {
    let (ledger, ports) = guests_and_uplinks();
    let fdb = Fdb::new(ledger);
    let marked = || fdb.next_marked(0).map(|marked| (marked.address.mac(), marked.port));
    let clear = || fdb.next_marked(0).map(|marked| fdb.unmark(marked.place));
    assert_eq!(say(&fdb, mac(1), 1, 5, ports), Learnt::Marked);
    assert_eq!(marked(), Some((mac(1), 1)));
    // The mark outlives later frames and the worker, and changes no time.
    assert_eq!(say(&fdb, mac(1), 1, 6, ports), Learnt::Same);
    assert_eq!((Fdb::new(ledger).find(mac(1), 5 + AGE_S), Fdb::new(ledger).find(mac(1), 6 + AGE_S)), (Some(1), None));
    clear();
    assert_eq!((marked(), say(&fdb, mac(1), 1, 7, ports)), (None, Learnt::Same));
    // Nothing of an uplink is marked, and what an uplink takes is marked no longer.
    assert_eq!(say(&fdb, mac(2), 3, 7, ports), Learnt::Changed);
    assert_eq!(say(&fdb, mac(1), 2, 7 + AGE_S, ports), Learnt::Marked);
    ports.note_receiver(QueueId::receive(2, 0), false);
    assert_eq!((say(&fdb, mac(1), 3, 7 + AGE_S, ports), marked()), (Learnt::Changed, None));
    // A guest that takes its address back is announced.
    assert_eq!((say(&fdb, mac(1), 1, 7 + AGE_S, ports), marked()), (Learnt::Marked, Some((mac(1), 1))));
    clear();
    assert!(fdb.mark_all(7 + AGE_S, |port| port != 3) && !fdb.mark_all(7 + 2 * AGE_S, |_| true));
    assert_eq!(marked(), Some((mac(1), 1)));
    clear();
    [3, 4].into_iter().for_each(|slot| ports.note_receiver(QueueId::receive(slot, 0), false));
    assert_eq!((say(&fdb, mac(5), 1, 8, ports), marked()), (Learnt::Changed, None), "there is no uplink");
}

/// Uplinks and a second machine speak all the time for the addresses of guests. Whenever a guest has spoken, the address
/// is the guest's until it speaks again.
#[test]
fn threads_that_may_not_take_an_address_never_do() {
    let (ledger, ports) = guests_and_uplinks();
    let fdb = Fdb::new(ledger);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for port in [2, 3, 4] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    for n in 0..8 {
                        let _ = say(&fdb, mac(n), port, 5, ports);
                    }
                }
            });
        }
        // Guest 1 is free: it takes its addresses from whoever had them first.
        for n in (0..8).cycle().take(100_000) {
            let learnt = say(&fdb, mac(n), 1, 5, ports);
            assert!(!matches!(learnt, Learnt::Refused(_)));
            if learnt == Learnt::Same {
                assert_eq!(fdb.find(mac(n), 5), Some(1));
            }
        }
        assert!((0..8).all(|n| fdb.find(mac(n), 5) == Some(1)));
        over.store(true, Relaxed);
    });
    let counted = counts(ledger);
    fdb.recount();
    assert_eq!(counts(ledger), counted);
}

#[test]
fn ports_and_switches_have_pseudonyms_of_their_own() {
    let of = |ledger: &Ledger| [0, 1, 1023].map(|port| Fdb::new(ledger).pseudonym(port));
    let ((_fd, one), (_fd2, other)) = (LedgerMap::create().unwrap(), LedgerMap::create().unwrap());
    assert_eq!(of(&one), of(&one), "a new worker has the same");
    let mut all = [of(&one), of(&other)].concat();
    assert!(all.iter().all(|pseudonym| *pseudonym < 1 << 24));
    all.sort_unstable();
    all.dedup();
    assert!(all.len() >= 5, "two of six are the same in one of a million runs");
}
