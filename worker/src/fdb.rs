//! The forwarding table: which port an address was seen on (802.1Q, 8.8).
//!
//! It lives in the ledger, so that a new worker knows what the last one learnt. Buckets of eight lines, of which an
//! address may take any. A line is free, or its address has not been seen for [`AGE_S`], or it is in the way: then the
//! port that has most lines in the bucket gives up its oldest. So one port that floods source addresses crowds out
//! itself and nobody else, and the table never grows.
//!
//! Several threads learn at the same time, without a lock. A line changes hands by one exchange of its key; who comes too
//! late has lost what it learnt until the address's next frame. An address may so come to stand in two lines of its
//! bucket: the first one counts, is kept up to date, and the other is not seen again and ages.

use std::sync::atomic::Ordering::Relaxed;

use sv3::frame::MacAddr;
use sv3::ledger::{FDB_ENTRIES, FdbLine};

/// Seconds after which an address that was not seen is forgotten (802.1Q, 8.8.3: ageing time).
pub const AGE_S: u64 = 300;

const WAYS: usize = 8;
const BUCKETS: usize = FDB_ENTRIES / WAYS;
const MAC_BITS: u64 = (1 << 48) - 1;

/// A view of the ledger's lines.
#[derive(Clone, Copy)]
pub struct Fdb<'l>(&'l [FdbLine; FDB_ENTRIES]);

impl<'l> Fdb<'l> {
    /// The table in `lines`.
    pub fn new(lines: &'l [FdbLine; FDB_ENTRIES]) -> Fdb<'l> {
        Fdb(lines)
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
        let line = match known {
            Some(line) => line,
            None => self.victim(mac, now_s),
        };
        // Written only when it changes: other processors have it in their caches.
        let mut news = false;
        if line.seen.load(Relaxed) != now_s {
            news = !fresh(line, now_s);
            line.seen.store(now_s, Relaxed);
        }
        let before = line.key.load(Relaxed);
        if before != key {
            news = true;
            let _ = line.key.compare_exchange(before, key, Relaxed, Relaxed);
        }
        news
    }

    /// Forgets all addresses of `port`.
    pub fn forget(&self, port: u16) {
        for line in self.0 {
            let key = line.key.load(Relaxed);
            if key != 0 && port_of(key) == port {
                let _ = line.key.compare_exchange(key, 0, Relaxed, Relaxed);
            }
        }
    }

    #[inline]
    fn bucket(&self, mac: MacAddr) -> &'l [FdbLine] {
        // Fibonacci hashing: the high bits of the product depend on all bits of the address.
        let hash = mac.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BUCKETS.trailing_zeros());
        let first = hash as usize * WAYS;
        self.0.get(first..first + WAYS).unwrap_or(&[])
    }

    #[inline]
    fn line_of(&self, mac: MacAddr) -> Option<&'l FdbLine> {
        self.bucket(mac).iter().find(|line| line.key.load(Relaxed) & MAC_BITS == mac.bits())
    }

    #[cold]
    fn victim(&self, mac: MacAddr, now_s: u64) -> &'l FdbLine {
        let bucket = self.bucket(mac);
        if let Some(free) = bucket.iter().find(|line| line.key.load(Relaxed) == 0 || !fresh(line, now_s)) {
            return free;
        }
        let owner = |line: &FdbLine| port_of(line.key.load(Relaxed));
        let held = |line: &FdbLine| bucket.iter().filter(|other| owner(other) == owner(line)).count();
        let oldest_of_greediest = |line: &&FdbLine| (held(line), std::cmp::Reverse(line.seen.load(Relaxed)));
        bucket.iter().max_by_key(oldest_of_greediest).unwrap_or(&self.0[0])
    }
}

fn port_of(key: u64) -> u16 {
    (key >> 48) as u16
}

fn fresh(line: &FdbLine, now_s: u64) -> bool {
    now_s.saturating_sub(line.seen.load(Relaxed)) < AGE_S
}

#[cfg(test)]
mod tests {
    use sv3::ledger::LedgerMap;

    use super::*;

    fn mac(n: u64) -> MacAddr {
        MacAddr::from_bits(0x0200_0000_0000 | n)
    }

    #[test]
    fn learns_moves_ages_and_forgets() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger.fdb);
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
        let fdb = Fdb::new(&ledger.fdb);
        let pass = |port: u64| (0..2000).filter(|n| !fdb.learn(mac(n * 4 + port), port as u16, 5)).count();
        // What was lost in a race the next frame learns.
        for _ in 0..10 {
            std::thread::scope(|scope| (0..4).for_each(|port| drop(scope.spawn(move || pass(port)))));
        }
        for n in 0..8000 {
            assert_eq!(fdb.find(mac(n), 6), Some((n % 4) as u16), "{n}");
        }
        // One that is everywhere at once is somewhere.
        std::thread::scope(|scope| {
            (0..4u16)
                .for_each(|port| drop(scope.spawn(move || (0..10_000).filter(|_| fdb.learn(mac(1), port, 7)).count())))
        });
        assert!(fdb.find(mac(1), 8).is_some());
        (0..4).for_each(|port| fdb.forget(port));
        assert!((0..8000).all(|n| fdb.find(mac(n), 6).is_none()));
    }

    #[test]
    fn a_flood_of_addresses_crowds_out_only_the_flooder() {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let fdb = Fdb::new(&ledger.fdb);
        for n in 0..1000 {
            fdb.learn(mac(n), (n % 500) as u16, 5);
        }
        for n in 0..2_000_000 {
            fdb.learn(mac(0x1_0000_0000 + n), 999, 6);
        }
        let lost = (0..1000).filter(|n| fdb.find(mac(*n), 7) != Some((n % 500) as u16)).count();
        assert_eq!(lost, 0);
    }
}
