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
//!
//! **Which port may take an address** depends on the port ([`Learning`]). A port that is guarded, or an uplink, takes no
//! address of a *guest that runs*: whose entry has not aged, and whose port is no uplink and has a receive queue that
//! runs. It looks at the entry and exchanges its key only if the key is still the one that it looked at; otherwise it
//! looks again. So it never takes what another thread has just given to a guest. Addresses of an uplink are anybody's:
//! a station of the network may have come here, and a guest takes back what the network has claimed in its name.
//!
//! A guest whose receive queues stop has gone, for all that the switch knows: before a live migration ends, the rings
//! here stop, and then the guest speaks elsewhere. If it only restarts its rings, its address may be taken in between.
//! Its next frame takes the address back from an uplink, but not from a guarded port's guest: there the first one to
//! speak has it. An address that was not seen for [`AGE_S`] seconds is nobody's as well. If two ports speak for it at
//! the same moment, one of them gets it, and the frames of that moment are forwarded from both.
//!
//! **Marks.** While there is an uplink, the entry of an address that is new at a guest's port is *marked*: the address
//! is to be announced to the network ([`super::announcer`]). The mark is a bit of the time, so that the next worker goes
//! on with it.

pub mod marks;

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI32, Ordering::*, fence};

use sv3::MAX_PORTS;
use sv3::attachment::Learning;
use sv3::frame::MacAddr;
use sv3::ledger::{FDB_ENTRIES, FdbEntry, Ledger};

use crate::port::Ports;

/// Seconds after which an address that was not seen is forgotten (802.1Q, 8.8.3: ageing time).
pub const AGE_S: u64 = 300;

const WAYS: usize = 8;
const BUCKETS: usize = FDB_ENTRIES / WAYS;
const MAC_BITS: u64 = (1 << 48) - 1;
/// In [`FdbEntry::seen`]: the address is to be announced. The other bits are the time.
const MARK: u64 = 1 << 63;
/// How often a port that may not take any address looks at an entry that other threads change meanwhile.
const TRIES: u32 = 8;

/// What became of an address that was seen on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The answer of [`Fdb::find`] is the same as before.
    Same,
    /// The answer of [`Fdb::find`] has changed.
    Changed,
    /// It has changed, and the address is to be announced.
    Marked,
    /// The port may not take the address. This is the key of its entry; 0: the entry changed too often to tell.
    Refused(u64),
}

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

    /// Notes that `mac` was seen on `port`, if the port may take it.
    #[inline]
    pub fn learn(&self, mac: MacAddr, port: u16, now_s: u64, ports: &Ports) -> Learnt {
        let key = key_of(mac, port);
        // Most addresses were seen at this port in this second.
        match self.entry_of(mac) {
            Some(entry) if entry.key.load(Relaxed) == key && seconds(entry) == now_s => Learnt::Same,
            _ => self.take(mac, port, now_s, ports),
        }
    }

    /// The rest of [`Fdb::learn`].
    #[inline(never)]
    fn take(&self, mac: MacAddr, port: u16, now_s: u64, ports: &Ports) -> Learnt {
        let (key, learning) = (key_of(mac, port), ports.learning(port));
        for _ in 0..TRIES {
            let known = self.entry_of(mac);
            let Some(entry) = known.or_else(|| self.victim(mac, port, now_s)) else { return Learnt::Same };
            // Whoever sees a new key sees its time as well: the time is written first.
            let before = entry.key.load(Acquire);
            let (is_fresh, is_same) = (fresh(entry, now_s), before & MAC_BITS == mac.bits());
            if known.is_some() && !is_same {
                continue;
            }
            if before == key && is_fresh {
                refresh(entry, now_s);
                return Learnt::Same;
            }
            let is_anothers = is_same && before != key && is_fresh;
            if is_anothers && learning != Learning::Free && ports.is_guest(port_of(before)) {
                return Learnt::Refused(before);
            }
            let is_announced = || learning != Learning::Uplink && ports.uplinks().next().is_some();
            entry.seen.store(now_s | if is_announced() { MARK } else { 0 }, Relaxed);
            match entry.key.compare_exchange(before, key, AcqRel, Relaxed) {
                Ok(_) => {
                    self.count(before, -1);
                    self.count(key, 1);
                    return mark(entry, is_announced);
                }
                // The next frame learns what this one lost.
                Err(_) if learning == Learning::Free => return Learnt::Changed,
                Err(_) => {}
            }
        }
        if learning == Learning::Free { Learnt::Changed } else { Learnt::Refused(0) }
    }

    /// Removes all addresses of `port`.
    pub fn forget(&self, port: u16) {
        self.retain(|other| other != port);
    }

    /// Removes all addresses of other ports than these.
    pub fn retain(&self, keep: impl Fn(u16) -> bool) {
        for entry in self.entries {
            let key = entry.key.load(Relaxed);
            if key != 0 && !keep(port_of(key)) && entry.key.compare_exchange(key, 0, Relaxed, Relaxed).is_ok() {
                self.count(key, -1);
            }
        }
    }

    /// The addresses of these ports that have not aged.
    pub fn addresses(&self, now_s: u64, of: impl Fn(u16) -> bool) -> impl Iterator<Item = MacAddr> {
        let keys = self.entries.iter().filter(move |entry| fresh(entry, now_s)).map(|entry| entry.key.load(Relaxed));
        keys.filter(move |key| *key != 0 && of(port_of(*key))).map(MacAddr::from_bits)
    }

    /// 24 bits for a port that differ between switches, and are the same for each worker of one. They tell nothing of
    /// the secret.
    pub fn pseudonym(&self, port: u16) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.key, port).hash(&mut hasher);
        hasher.finish() >> 40
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
        let oldest = |entry: &&FdbEntry| Reverse(seconds(entry));
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

fn key_of(mac: MacAddr, port: u16) -> u64 {
    mac.bits() | u64::from(port) << 48
}

fn port_of(key: u64) -> u16 {
    (key >> 48) as u16
}

/// When the address was seen last, in seconds.
fn seconds(entry: &FdbEntry) -> u64 {
    entry.seen.load(Relaxed) & !MARK
}

fn fresh(entry: &FdbEntry, now_s: u64) -> bool {
    now_s.saturating_sub(seconds(entry)) < AGE_S
}

/// The address was seen again. Keeps the mark, which another thread may change meanwhile.
fn refresh(entry: &FdbEntry, now_s: u64) {
    let seen = entry.seen.load(Relaxed);
    // Written only when it changes: other processors have this entry in their caches.
    if seen & !MARK != now_s {
        let _ = entry.seen.compare_exchange(seen, now_s | seen & MARK, Relaxed, Relaxed);
    }
}

/// Marks an entry that is new, if it is to be announced.
fn mark(entry: &FdbEntry, is_announced: impl Fn() -> bool) -> Learnt {
    // An uplink that began to run before it marked all entries is seen here, or its look at all entries sees this one.
    fence(SeqCst);
    match is_announced() {
        true => {
            entry.seen.fetch_or(MARK, Relaxed);
            Learnt::Marked
        }
        false => Learnt::Changed,
    }
}

#[cfg(test)]
mod tests;
