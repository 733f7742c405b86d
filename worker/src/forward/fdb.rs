//! The forwarding table: which port an address was seen on (802.1Q, 8.8).
//!
//! The table lives in the ledger, so that a new worker knows what the last one learnt. It has buckets of eight
//! entries, and an address may use any entry of its bucket. An entry is available if it is free or if its address has
//! not been seen for [`AGE_S`] seconds. Otherwise one port must give up an entry: the port that has most entries in
//! the bucket; among equals, the port that has most in the whole table; among equals, the port of the oldest entry.
//! The new address counts as an entry of its own port. If that port is the one to give up an entry, it loses one of
//! its own here, or, if it has none here, the new address is not learnt. So a port that floods source addresses
//! displaces only its own, wherever they fall, and the table never grows.
//!
//! The ledger counts the entries of each port. The thread that changes an entry updates the count afterwards. If a
//! worker dies in between, a count is wrong by one, so the next worker counts all entries before it serves
//! ([`Fdb::recount`]).
//!
//! **Which bucket** an address falls into depends on a secret of 256 bits, which the supervisor draws for this
//! ledger: two multiplications of 64 by 64 bits with folded products (as in wyhash), each with two secret words. An
//! attacker that knows everything except the secret can only guess. To get eight entries into the bucket of a
//! neighbour's address, each of a port without other addresses, takes some 2,048 to the power of eight tries, because
//! addresses that collide under one secret do not collide under another. That one pair of addresses shares a bucket
//! says nothing about other pairs; with a single multiplication it would, because there the difference of two
//! addresses decides. This is no proven pseudo-random function. What depends on it is only which ports receive a few
//! frames.
//!
//! What an attacker can learn, it learns from the table. It fills the table with its own addresses, waits for a
//! neighbour's first frame, and tries which of its own addresses are flooded again: these shared the neighbour's
//! bucket, under this secret. That takes all entries of the table. To use the result, the attacker needs eight ports
//! that were closed and opened again and have no other address. It then gets the frames that arrive between its eight
//! frames and the neighbour's next frame, which takes the entry back. A limit on ports for each user prevents that;
//! nothing here does.
//!
//! Several threads learn at the same time, without a lock. One exchange of the key changes the owner of an entry. A
//! thread that is too late loses what it learnt until the next frame of that address. So an address may stand in two
//! entries of its bucket: the first one counts and is kept up to date; the other one is not seen again and ages.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use sv3::MAX_PORTS;
use sv3::frame::MacAddr;
use sv3::ledger::{FDB_ENTRIES, FdbEntry, Ledger};

/// Seconds after which an address that was not seen is forgotten (802.1Q, 8.8.3: ageing time).
pub const AGE_S: u64 = 300;

const WAYS: usize = 8;
const BUCKETS: usize = FDB_ENTRIES / WAYS;
const MAC_BITS: u64 = (1 << 48) - 1;

/// A view of the ledger's entries.
#[derive(Clone, Copy)]
pub struct Fdb<'l> {
    entries: &'l [FdbEntry; FDB_ENTRIES],
    /// Number of entries of each port.
    held: &'l [AtomicI32; MAX_PORTS],
    /// The secret, read when the worker started.
    key: [u64; 4],
}

impl<'l> Fdb<'l> {
    /// The table in a ledger.
    pub fn new(ledger: &'l Ledger) -> Fdb<'l> {
        let [a, b, c, d] = ledger.fdb_head.key.each_ref().map(|word| word.load(Relaxed));
        // Two words are made odd, so that no multiplication loses bits.
        Fdb { entries: &ledger.fdb, held: &ledger.fdb_head.held, key: [a, b | 1, c, d | 1] }
    }

    /// Counts each port's entries again. Must run before any thread learns.
    pub fn recount(&self) {
        self.held.iter().for_each(|held| held.store(0, Relaxed));
        self.entries.iter().for_each(|entry| self.count(entry.key.load(Relaxed), 1));
    }

    /// The port that `mac` was last seen on.
    #[inline]
    pub fn find(&self, mac: MacAddr, now_s: u64) -> Option<u16> {
        // The zero address would match a free entry.
        if mac.is_zero() {
            return None;
        }
        let entry = self.entry_of(mac)?;
        fresh(entry, now_s).then(|| port_of(entry.key.load(Relaxed)))
    }

    /// Notes that `mac` was seen on `port`. True: the answer of [`Fdb::find`] has changed.
    #[inline]
    pub fn learn(&self, mac: MacAddr, port: u16, now_s: u64) -> bool {
        let key = mac.bits() | u64::from(port) << 48;
        let known = self.entry_of(mac);
        let Some(entry) = known.or_else(|| self.victim(mac, port, now_s)) else { return false };
        // Written only when it changes: other processors have this entry in their caches.
        let mut news = false;
        if entry.seen.load(Relaxed) != now_s {
            news = !fresh(entry, now_s);
            entry.seen.store(now_s, Relaxed);
        }
        let before = entry.key.load(Relaxed);
        if before != key {
            news = true;
            if entry.key.compare_exchange(before, key, Relaxed, Relaxed).is_ok() {
                self.count(before, -1);
                self.count(key, 1);
            }
        }
        news
    }

    /// Removes all addresses of `port`.
    pub fn forget(&self, port: u16) {
        for entry in self.entries {
            let key = entry.key.load(Relaxed);
            if key != 0 && port_of(key) == port && entry.key.compare_exchange(key, 0, Relaxed, Relaxed).is_ok() {
                self.count(key, -1);
            }
        }
    }

    /// An entry with this key was added or removed.
    fn count(&self, key: u64, change: i32) {
        if key != 0
            && let Some(held) = self.held.get(usize::from(port_of(key)))
        {
            held.fetch_add(change, Relaxed);
        }
    }

    #[inline]
    fn bucket(&self, mac: MacAddr) -> &'l [FdbEntry] {
        let [a, b, c, d] = self.key;
        let hash = fold(fold(mac.bits() ^ a, b) ^ c, d) >> (u64::BITS - BUCKETS.trailing_zeros());
        let first = hash as usize * WAYS;
        self.entries.get(first..first + WAYS).unwrap_or(&[])
    }

    #[inline]
    fn entry_of(&self, mac: MacAddr) -> Option<&'l FdbEntry> {
        self.bucket(mac).iter().find(|entry| entry.key.load(Relaxed) & MAC_BITS == mac.bits())
    }

    /// The entry for `mac`, which is new at `port`. `None`: by the rule above, `port` itself must give way and has no
    /// entry here.
    #[cold]
    fn victim(&self, mac: MacAddr, port: u16, now_s: u64) -> Option<&'l FdbEntry> {
        let bucket = self.bucket(mac);
        if let Some(free) = bucket.iter().find(|entry| entry.key.load(Relaxed) == 0 || !fresh(entry, now_s)) {
            return Some(free);
        }
        let owner = |entry: &FdbEntry| port_of(entry.key.load(Relaxed));
        let greed = |of: u16, more: usize| {
            let here = bucket.iter().filter(|entry| owner(entry) == of).count();
            let all = self.held.get(usize::from(of)).map_or(0, |held| held.load(Relaxed));
            (here + more, all.saturating_add(more as i32))
        };
        let oldest = |entry: &&FdbEntry| Reverse(entry.seen.load(Relaxed));
        let own = bucket.iter().filter(|entry| owner(entry) == port).max_by_key(oldest);
        let others = bucket.iter().filter(|entry| owner(entry) != port);
        match others.max_by_key(|entry| (greed(owner(entry), 0), oldest(entry))) {
            Some(entry) if greed(owner(entry), 0) >= greed(port, 1) => Some(entry),
            _ => own,
        }
    }
}

/// Xor of the two halves of the product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> u64::BITS) as u64 ^ product as u64
}

fn port_of(key: u64) -> u16 {
    (key >> 48) as u16
}

fn fresh(entry: &FdbEntry, now_s: u64) -> bool {
    now_s.saturating_sub(entry.seen.load(Relaxed)) < AGE_S
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    fn mac(n: u64) -> MacAddr {
        MacAddr::from_bits(0x0200_0000_0000 | n)
    }

    fn counts(ledger: &Ledger) -> [i32; MAX_PORTS] {
        ledger.fdb_head.held.each_ref().map(|held| held.load(Relaxed))
    }

    #[test]
    fn learns_moves_ages_and_forgets() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger);
        assert_eq!((fdb.find(mac(1), 10), fdb.find(MacAddr::from_bits(0), 10)), (None, None));
        assert!(fdb.learn(mac(1), 0, 10));
        assert!(!fdb.learn(mac(1), 0, 11));
        assert_eq!(fdb.find(mac(1), 12), Some(0));
        assert!(fdb.learn(mac(1), 7, 13));
        assert_eq!(fdb.find(mac(1), 13 + AGE_S - 1), Some(7));
        assert_eq!(fdb.find(mac(1), 13 + AGE_S), None);
        assert!(fdb.learn(mac(1), 7, 13 + AGE_S), "what had been forgotten is known again");
        fdb.learn(mac(2), 7, 20);
        fdb.learn(mac(3), 8, 20);
        fdb.forget(7);
        assert_eq!((fdb.find(mac(2), 20), fdb.find(mac(3), 20)), (None, Some(8)));
    }

    #[test]
    fn threads_learn_at_the_same_time() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger);
        let pass = |port: u64| (0..250).filter(|n| !fdb.learn(mac(n * 4 + port), port as u16, 5)).count();
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
                .for_each(|port| drop(scope.spawn(move || (0..10_000).filter(|_| fdb.learn(mac(1), port, 7)).count())))
        });
        assert!(fdb.find(mac(1), 8).is_some());
        // Each entry is counted once, whichever thread changed it.
        let counted = counts(&ledger);
        fdb.recount();
        assert_eq!(counts(&ledger), counted);
        (0..4).for_each(|port| fdb.forget(port));
        assert_eq!(counts(&ledger), [0; MAX_PORTS]);
        assert!((0..1000).all(|n| fdb.find(mac(n), 6).is_none()));
    }

    #[test]
    fn a_flood_of_addresses_crowds_out_only_the_flooder() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger);
        for n in 0..1000 {
            fdb.learn(mac(n), (n % 500) as u16, 5);
        }
        for n in 0..2_000_000 {
            fdb.learn(mac(0x1_0000_0000 + n), 999, 6);
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
        assert!((0..neighbours).all(|port| fdb.learn(mac(port.into()), port, 5)));
        let held =
            |fdb: &Fdb<'_>| (0..neighbours).filter(|port| fdb.find(mac((*port).into()), 9) == Some(*port)).count();
        // Addresses that would displace each neighbour if the attacker's guess of the secret were right.
        for port in 0..neighbours {
            let bucket = guess.bucket(mac(port.into())).as_ptr();
            let falls_there = |n: &u64| guess.bucket(mac(*n)).as_ptr() == bucket;
            for (own, n) in (0..2 * WAYS as u16).zip((0x1_0000..).filter(falls_there)) {
                fdb.learn(mac(n), 600 + own % WAYS as u16, 8);
                guess.learn(mac(n), 600 + own % WAYS as u16, 8);
            }
        }
        assert_eq!(held(&fdb), usize::from(neighbours));
        // And addresses that fill the table, from each of the attacker's ports.
        for n in 0..200_000 {
            fdb.learn(mac(0x1_0000_0000 + n), 600 + (n % 8) as u16, 8);
        }
        assert_eq!(held(&fdb), usize::from(neighbours));
    }

    #[test]
    fn a_worker_that_died_between_line_and_count_leaves_no_count_wrong_for_ever() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger);
        assert!((0..100).all(|n| fdb.learn(mac(n), (n % 3) as u16, 5)));
        let right = counts(&ledger);
        assert_eq!(right[..4], [34, 33, 33, 0]);
        for (port, wrong) in [(0, -1), (1, 1000), (2, i32::MAX), (9, i32::MIN)] {
            ledger.fdb_head.held[port].store(wrong, Relaxed);
        }
        Fdb::new(&ledger).recount();
        assert_eq!(counts(&ledger), right);
    }
}
