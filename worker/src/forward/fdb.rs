//! The forwarding table: which port an address was seen on (802.1Q, 8.8).
//!
//! It lives in the ledger, so that a new worker knows what the last one learnt. Buckets of eight lines, of which an
//! address may take any. A line is free, or its address has not been seen for [`AGE_S`], or somebody must give way: the port
//! that has most lines in the bucket, of equals the one that has most in the whole table, of equals the one whose line is
//! the oldest. The port of the new address is one of them, with that address: if it is the greediest, it gives up a line of
//! its own here, or, if it has none, its address is not learnt. So one port that floods source addresses crowds out itself
//! and nobody else, wherever they fall, and the table never grows.
//!
//! Lines of each port are counted in the ledger, by whoever changes a line, after it. A worker that dies in between leaves a
//! count wrong by one; so the next one counts all lines anew before it serves ([`Fdb::recount`]).
//!
//! **Which bucket** an address falls into depends on a secret of 256 bits, which the supervisor drew for this ledger: two
//! multiplications of 64 by 64 bits, of which the halves of the product are folded (as in wyhash), each with two secret
//! words. Who knows all but the secret can do no better than guess: eight lines in the bucket of a neighbour's address, each
//! of a port with no other, take some 2,048 to the power of eight tries, since what falls together by one secret falls
//! apart by another. That one pair of addresses shares a bucket tells nothing of another pair, unlike with a single
//! multiplication, where it is their difference that counts. It is no proven pseudo-random function; what rests on it is
//! who hears a few frames.
//!
//! What an attacker can learn, he learns by the table: one who has filled it with addresses of his own and tries which of
//! them are flooded again after a neighbour's first frame knows which of his shared its bucket, with this secret. It takes
//! all lines of the table and, to use it, eight ports that have been closed and opened again and have no other address; it wins
//! him those frames that come between his eight and the neighbour's next own, which takes the line back. Against that helps what
//! limits ports for one user, and nothing here.
//!
//! Several threads learn at the same time, without a lock. A line changes hands by one exchange of its key; who comes too
//! late has lost what it learnt until the address's next frame. An address may so come to stand in two lines of its
//! bucket: the first one counts, is kept up to date, and the other is not seen again and ages.

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

/// A view of the ledger's lines.
#[derive(Clone, Copy)]
pub struct Fdb<'l> {
    lines: &'l [FdbEntry; FDB_ENTRIES],
    /// Lines of each port.
    held: &'l [AtomicI32; MAX_PORTS],
    /// The secret, as it was when the worker began.
    key: [u64; 4],
}

impl<'l> Fdb<'l> {
    /// The table in a ledger.
    pub fn new(ledger: &'l Ledger) -> Fdb<'l> {
        let [a, b, c, d] = ledger.fdb_head.key.each_ref().map(|word| word.load(Relaxed));
        // Odd, so that no multiplication loses anything.
        Fdb { lines: &ledger.fdb, held: &ledger.fdb_head.held, key: [a, b | 1, c, d | 1] }
    }

    /// Counts each port's lines anew. While nobody learns.
    pub fn recount(&self) {
        self.held.iter().for_each(|held| held.store(0, Relaxed));
        self.lines.iter().for_each(|line| self.count(line.key.load(Relaxed), 1));
    }

    /// The port that `mac` was last seen on.
    #[inline]
    pub fn find(&self, mac: MacAddr, now_s: u64) -> Option<u16> {
        // The address of no one, which in a free line would be found.
        if mac.is_zero() {
            return None;
        }
        let line = self.line_of(mac)?;
        fresh(line, now_s).then(|| port_of(line.key.load(Relaxed)))
    }

    /// Notes that `mac` was seen on `port`. True: [`Fdb::find`] says something else now.
    #[inline]
    pub fn learn(&self, mac: MacAddr, port: u16, now_s: u64) -> bool {
        let key = mac.bits() | u64::from(port) << 48;
        let known = self.line_of(mac);
        let Some(line) = known.or_else(|| self.victim(mac, port, now_s)) else { return false };
        // Written only when it changes: other processors have it in their caches.
        let mut news = false;
        if line.seen.load(Relaxed) != now_s {
            news = !fresh(line, now_s);
            line.seen.store(now_s, Relaxed);
        }
        let before = line.key.load(Relaxed);
        if before != key {
            news = true;
            if line.key.compare_exchange(before, key, Relaxed, Relaxed).is_ok() {
                self.count(before, -1);
                self.count(key, 1);
            }
        }
        news
    }

    /// Forgets all addresses of `port`.
    pub fn forget(&self, port: u16) {
        for line in self.lines {
            let key = line.key.load(Relaxed);
            if key != 0 && port_of(key) == port && line.key.compare_exchange(key, 0, Relaxed, Relaxed).is_ok() {
                self.count(key, -1);
            }
        }
    }

    /// A line with this key has come, or gone.
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
        self.lines.get(first..first + WAYS).unwrap_or(&[])
    }

    #[inline]
    fn line_of(&self, mac: MacAddr) -> Option<&'l FdbEntry> {
        self.bucket(mac).iter().find(|line| line.key.load(Relaxed) & MAC_BITS == mac.bits())
    }

    /// The line that is to be `mac`'s, which is new at `port`; none: it is the greediest itself.
    #[cold]
    fn victim(&self, mac: MacAddr, port: u16, now_s: u64) -> Option<&'l FdbEntry> {
        let bucket = self.bucket(mac);
        if let Some(free) = bucket.iter().find(|line| line.key.load(Relaxed) == 0 || !fresh(line, now_s)) {
            return Some(free);
        }
        let owner = |line: &FdbEntry| port_of(line.key.load(Relaxed));
        let greed = |of: u16, more: usize| {
            let here = bucket.iter().filter(|line| owner(line) == of).count();
            let all = self.held.get(usize::from(of)).map_or(0, |held| held.load(Relaxed));
            (here + more, all.saturating_add(more as i32))
        };
        let oldest = |line: &&FdbEntry| Reverse(line.seen.load(Relaxed));
        let own = bucket.iter().filter(|line| owner(line) == port).max_by_key(oldest);
        let others = bucket.iter().filter(|line| owner(line) != port);
        match others.max_by_key(|line| (greed(owner(line), 0), oldest(line))) {
            Some(line) if greed(owner(line), 0) >= greed(port, 1) => Some(line),
            _ => own,
        }
    }
}

/// The product's halves, one over the other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> u64::BITS) as u64 ^ product as u64
}

fn port_of(key: u64) -> u16 {
    (key >> 48) as u16
}

fn fresh(line: &FdbEntry, now_s: u64) -> bool {
    now_s.saturating_sub(line.seen.load(Relaxed)) < AGE_S
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
        // What was lost in a race the next frame learns.
        for _ in 0..10 {
            std::thread::scope(|scope| (0..4).for_each(|port| drop(scope.spawn(move || pass(port)))));
        }
        for n in 0..1000 {
            assert_eq!(fdb.find(mac(n), 6), Some((n % 4) as u16), "{n}");
        }
        // One that is everywhere at once is somewhere.
        std::thread::scope(|scope| {
            (0..4u16)
                .for_each(|port| drop(scope.spawn(move || (0..10_000).filter(|_| fdb.learn(mac(1), port, 7)).count())))
        });
        assert!(fdb.find(mac(1), 8).is_some());
        // Whoever exchanged what: each line is counted once.
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

    /// One who knows everything but the secret, with as many ports as a bucket has lines, each of which has one address more
    /// than the neighbours have, all later than theirs.
    #[test]
    fn several_ports_of_one_who_does_not_know_the_secret_push_nobody_out() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let (fdb, (_fd, theirs)) = (Fdb::new(&ledger), LedgerMap::create().unwrap());
        let (neighbours, guess) = (500u16, Fdb::new(&theirs));
        assert!((0..neighbours).all(|port| fdb.learn(mac(port.into()), port, 5)));
        let held =
            |fdb: &Fdb<'_>| (0..neighbours).filter(|port| fdb.find(mac((*port).into()), 9) == Some(*port)).count();
        // What would push each of them out if the secret were his.
        for port in 0..neighbours {
            let bucket = guess.bucket(mac(port.into())).as_ptr();
            let falls_there = |n: &u64| guess.bucket(mac(*n)).as_ptr() == bucket;
            for (own, n) in (0..2 * WAYS as u16).zip((0x1_0000..).filter(falls_there)) {
                fdb.learn(mac(n), 600 + own % WAYS as u16, 8);
                guess.learn(mac(n), 600 + own % WAYS as u16, 8);
            }
        }
        assert_eq!(held(&fdb), usize::from(neighbours));
        // And what fills the table, from each of his ports.
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
