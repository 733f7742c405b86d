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
//! An entry is of an address in a VLAN ([`Address`]); the same address in two VLANs is two addresses, which may be at
//! different ports (802.1Q, 8.8.8: independent learning).
//!
//! Several threads learn at the same time, without a lock. A thread that changes an entry's owner *holds* the entry
//! meanwhile, by a bit of the key ([`BUSY`]); others that want it as well look again a few times and then leave it: what
//! they lost is learnt with the next frame of that address. So an address may stand in two entries of its bucket: the
//! first one counts and is kept up to date; the other one is not seen again and ages.
//!
//! The key and the VLAN are two words, and a look-up holds nothing. While two threads want one entry for a new address,
//! only the one that holds it writes the VLAN. A look-up at that moment may see the old address with the new one's VLAN:
//! for one frame the answer is a port where the address is in another VLAN. That is harmless, since the rules of the
//! receiver say once more whether the port is in the frame's VLAN ([`crate::port::traffic_rules`]): at worst that frame is
//! dropped, or goes to one port of its VLAN too many or too few, as a flood might.
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

mod address;
pub mod marks;
mod statics;

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::spin_loop;
use std::sync::atomic::{Ordering::*, fence};

use sv3::attachment::Learning;
use sv3::fdb::{BUSY, FdbLine, MARK, STATIC};
use sv3::frame::MacAddr;
use sv3::ledger::{FDB_ENTRIES, FdbEntry, FdbHead, Ledger};
use sv3::rules::Vid;

pub use address::Address;
pub use sv3::fdb::AGE_S;

use crate::port::Ports;
use crate::port::traffic_rules::TrafficRules;

const WAYS: usize = 8;
const BUCKETS: usize = FDB_ENTRIES / WAYS;
const MAC_BITS: u64 = (1 << 48) - 1;
/// In [`FdbEntry::seen`]: the time.
const TIME: u64 = u32::MAX as u64;
/// How often a thread looks at an entry that other threads change meanwhile.
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
    /// The port has as many addresses as it may have.
    Full,
}

/// A port that speaks for an address.
#[derive(Clone, Copy)]
pub struct Speaker<'a> {
    /// Its slot.
    pub port: u16,
    /// Its rules.
    pub rules: Option<&'a TrafficRules>,
    /// All ports.
    pub ports: &'a Ports,
}

/// What would become of an address if a port spoke for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// It is known there.
    Known,
    /// It would be learnt, if its bucket has room for the port.
    New,
    /// It is known at this port, and would move.
    Moves(u16),
    /// The port learns none.
    Ignored,
    /// The port has as many as it may have.
    Full,
    /// The port may not take it.
    Refused,
}

/// A view of the ledger's entries.
#[derive(Clone, Copy)]
pub struct Fdb<'l> {
    entries: &'l [FdbEntry; FDB_ENTRIES],
    head: &'l FdbHead,
    /// The secret, read when the worker started.
    key: [u64; 4],
}

impl<'l> Fdb<'l> {
    /// The table in a ledger.
    pub fn new(ledger: &'l Ledger) -> Fdb<'l> {
        let [a, b, c, d] = ledger.fdb_head.key.each_ref().map(|word| word.load(Relaxed));
        // Two words are made odd, so that no multiplication loses bits.
        Fdb { entries: &ledger.fdb, head: &ledger.fdb_head, key: [a, b | 1, c, d | 1] }
    }

    /// The port that an address was last seen on.
    #[inline]
    pub fn find(&self, address: impl Into<Address>, now_s: u64) -> Option<u16> {
        let address = address.into();
        // The zero address would match a free entry.
        if address.mac().is_zero() {
            return None;
        }
        let entry = self.entry_of(address)?;
        fresh(entry, now_s).then(|| port_of(entry.key.load(Relaxed)))
    }

    /// Notes that an address was seen on a port, if the port may take it.
    #[inline]
    pub fn learn(&self, address: Address, speaker: Speaker<'_>, now_s: u64) -> Learnt {
        let key = key_of(address, speaker.port);
        // Most addresses were seen at this port in this second.
        match self.entry_of(address) {
            Some(entry) if entry.key.load(Relaxed) == key && seconds(entry) == now_s => Learnt::Same,
            _ => self.take(address, speaker, now_s),
        }
    }

    /// What [`Fdb::learn`] would do.
    pub fn foresee(&self, address: Address, speaker: Speaker<'_>, now_s: u64) -> Foreseen {
        let Speaker { port, rules, ports } = speaker;
        let learns = rules.is_none_or(|rules| rules.learning);
        if let Some(entry) = self.entry_of(address) {
            let (before, key) = (entry.key.load(Acquire) & !BUSY, key_of(address, port));
            match self.claim(entry, (before, key), ports.learning(port), (ports, now_s)) {
                Claim::Own if learns || is_static(entry) => return Foreseen::Known,
                Claim::Anothers => return Foreseen::Refused,
                Claim::Nobodys if learns && fresh(entry, now_s) && self.may_have_more(port, rules, now_s) => {
                    return Foreseen::Moves(port_of(before));
                }
                _ => {}
            }
        }
        match learns {
            false => Foreseen::Ignored,
            true if self.may_have_more(port, rules, now_s) => Foreseen::New,
            true => Foreseen::Full,
        }
    }

    /// Whether a port has fewer addresses than it may have. Those that have aged do not count.
    fn may_have_more(&self, port: u16, rules: Option<&TrafficRules>, now_s: u64) -> bool {
        let most = rules.map_or(0, |rules| rules.max_addresses as usize);
        let is_its = |line: &FdbLine| line.port == port && line.is_known(now_s);
        most == 0 || self.entries.iter().filter_map(FdbEntry::line).filter(is_its).take(most).count() < most
    }

    /// The rest of [`Fdb::learn`].
    #[inline(never)]
    fn take(&self, address: Address, speaker: Speaker<'_>, now_s: u64) -> Learnt {
        let Speaker { port, rules, ports } = speaker;
        let (key, learning) = (key_of(address, port), ports.learning(port));
        let learns = rules.is_none_or(|rules| rules.learning);
        for _ in 0..TRIES {
            let known = self.entry_of(address);
            if let Some(entry) = known {
                // Whoever sees a new key sees its time as well: the time is written first.
                let before = entry.key.load(Acquire);
                if before & BUSY != 0 || !is_of(entry, address) {
                    spin_loop();
                    continue;
                }
                match self.claim(entry, (before, key), learning, (ports, now_s)) {
                    Claim::Own if learns || is_static(entry) => {
                        refresh(entry, now_s);
                        return Learnt::Same;
                    }
                    Claim::Anothers => return Learnt::Refused(before),
                    _ => {}
                }
            }
            if !learns {
                return Learnt::Same;
            }
            if !self.reserve(port, rules, now_s) {
                return Learnt::Full;
            }
            let taken = match known.or_else(|| self.victim(address, port, now_s)) {
                Some(entry) => self.change(entry, known.is_some(), (address, speaker), now_s),
                None => Some(Learnt::Same),
            };
            if !matches!(taken, Some(Learnt::Changed | Learnt::Marked)) {
                self.count(key, -1);
            }
            if let Some(learnt) = taken {
                return learnt;
            }
            spin_loop();
        }
        if learning == Learning::Free { Learnt::Changed } else { Learnt::Refused(0) }
    }

    /// Whose an entry of an address is, for a port that speaks for the address. Keys: the entry's, and that of the port.
    fn claim(
        &self,
        entry: &FdbEntry,
        (before, key): (u64, u64),
        learning: Learning,
        (ports, now_s): (&Ports, u64),
    ) -> Claim {
        let is_guarded = || learning != Learning::Free && ports.is_guest(port_of(before));
        match (before == key, fresh(entry, now_s)) {
            (_, false) => Claim::Nobodys,
            (true, true) => Claim::Own,
            (false, true) if is_static(entry) || is_guarded() => Claim::Anothers,
            (false, true) => Claim::Nobodys,
        }
    }

    /// Gives an entry to an address: its own, or one that another must give up. `None`: other threads have changed it
    /// meanwhile.
    fn change(
        &self,
        entry: &'l FdbEntry,
        is_own: bool,
        (address, speaker): (Address, Speaker<'_>),
        now_s: u64,
    ) -> Option<Learnt> {
        let Speaker { port, ports, .. } = speaker;
        let (before, key, learning) = (entry.key.load(Relaxed), key_of(address, port), ports.learning(port));
        if before & BUSY != 0 || entry.key.compare_exchange(before, before | BUSY, Acquire, Relaxed).is_err() {
            return None;
        }
        // What was true before may have changed: now it stays.
        let is_good = match is_own {
            true => {
                let is_mine = || matches!(self.claim(entry, (before, key), learning, (ports, now_s)), Claim::Nobodys);
                is_of(entry, address) && is_mine()
            }
            false => !is_static(entry) && !is_of(entry, address),
        };
        if !is_good {
            entry.key.store(before, Release);
            return None;
        }
        let moves_from = (is_own && fresh(entry, now_s)).then(|| port_of(before));
        let is_announced = || learning != Learning::Uplink && ports.uplinks().next().is_some();
        let mark_bit = if is_announced() { MARK } else { 0 };
        entry.seen.store(now_s | u64::from(address.vid()) << 32 | mark_bit, Relaxed);
        entry.key.store(key, Release);
        self.count(before, -1);
        let learnt = mark(entry, is_announced);
        // See `statics`.
        let is_another = |other: &&FdbEntry| !std::ptr::eq(*other, entry) && is_static(other) && is_of(other, address);
        if self.bucket(address).iter().chain(self.spilled(address)).any(|other| is_another(&other)) {
            self.remove_if(entry, |line| line.port == port && is_of(entry, address));
            // Whoever removed it has counted that, and the caller takes back what it has reserved.
            self.count(key, 1);
            return None;
        }
        if let Some(from) = moves_from {
            ports.note_move(address.bits(), (from, port), now_s);
        }
        Some(learnt)
    }

    /// Counts one more address of a port, if it may have one more.
    fn reserve(&self, port: u16, rules: Option<&TrafficRules>, now_s: u64) -> bool {
        let Some(held) = self.head.held.get(usize::from(port)) else { return false };
        let Some(rules) = rules.filter(|rules| rules.max_addresses > 0) else {
            held.fetch_add(1, Relaxed);
            return true;
        };
        let most = i32::try_from(rules.max_addresses).unwrap_or(i32::MAX);
        let has_room = || held.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1)).is_ok();
        if has_room() {
            return true;
        }
        // Those that have aged do not count. To look for them costs a look at all entries, once a second.
        if rules.swept_s.swap(now_s, Relaxed) == now_s {
            return false;
        }
        for entry in self.entries {
            self.remove_if(entry, |line| line.port == port && !line.is_known(now_s));
        }
        has_room()
    }

    /// Removes all addresses of `port`.
    #[cfg(test)]
    pub fn forget(&self, port: u16) {
        self.retain(|line| line.port != port);
    }

    /// The addresses of these ports that have not aged.
    pub fn addresses(&self, now_s: u64, of: impl Fn(u16) -> bool) -> impl Iterator<Item = MacAddr> {
        let lines = self.entries.iter().filter_map(FdbEntry::line);
        lines.filter(move |line| line.is_known(now_s) && of(line.port)).map(|line| line.mac)
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
            && let Some(held) = self.head.held.get(usize::from(port_of(key)))
        {
            held.fetch_add(change, Relaxed);
        }
    }

    /// Number of an address's bucket.
    #[inline]
    fn bucket_number(&self, address: Address) -> usize {
        let [a, b, c, d] = self.key;
        (fold(fold(address.bits() ^ a, b) ^ c, d) >> (u64::BITS - BUCKETS.trailing_zeros())) as usize
    }

    #[inline]
    fn numbered(&self, bucket: usize) -> &'l [FdbEntry] {
        self.entries.get(bucket * WAYS..bucket * WAYS + WAYS).unwrap_or(&[])
    }

    #[inline]
    fn bucket(&self, address: Address) -> &'l [FdbEntry] {
        self.numbered(self.bucket_number(address))
    }

    /// The bucket beside an address's own.
    fn beside(&self, address: Address) -> &'l [FdbEntry] {
        self.numbered(self.bucket_number(address) ^ 1)
    }

    /// The same, if any static address is not in its own bucket.
    #[inline]
    fn spilled(&self, address: Address) -> &'l [FdbEntry] {
        if self.head.spilled.load(Relaxed) == 0 { &[] } else { self.beside(address) }
    }

    #[inline]
    fn entry_of(&self, address: Address) -> Option<&'l FdbEntry> {
        let own = self.bucket(address).iter().find(|entry| is_of(entry, address));
        own.or_else(|| self.spilled(address).iter().find(|entry| is_of(entry, address)))
    }

    /// The entry for an address that is new at `port`. `None`: by the rule above, `port` itself must give way and has no
    /// entry here.
    #[cold]
    fn victim(&self, address: Address, port: u16, now_s: u64) -> Option<&'l FdbEntry> {
        let bucket = self.bucket(address);
        if let Some(free) = bucket.iter().find(|entry| entry.key.load(Relaxed) == 0 || !fresh(entry, now_s)) {
            return Some(free);
        }
        let bucket = || bucket.iter().filter(|entry| !is_static(entry));
        let owner = |entry: &FdbEntry| port_of(entry.key.load(Relaxed));
        let greed = |of: u16, more: usize| {
            let here = bucket().filter(|entry| owner(entry) == of).count();
            let all = self.head.held.get(usize::from(of)).map_or(0, |held| held.load(Relaxed));
            (here + more, all.saturating_add(more as i32))
        };
        let oldest = |entry: &&FdbEntry| Reverse(seconds(entry));
        let own = bucket().filter(|entry| owner(entry) == port).max_by_key(oldest);
        let others = bucket().filter(|entry| owner(entry) != port);
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

/// Whose an entry is.
enum Claim {
    Own,
    /// Another's, and the port may not take it.
    Anothers,
    /// The port may take it.
    Nobodys,
}

fn key_of(address: Address, port: u16) -> u64 {
    address.mac().bits() | u64::from(port) << 48
}

fn port_of(key: u64) -> u16 {
    ((key & !BUSY) >> 48) as u16
}

/// Whether an entry is of this address, whichever port has it.
#[inline]
fn is_of(entry: &FdbEntry, address: Address) -> bool {
    entry.key.load(Relaxed) & MAC_BITS == address.mac().bits() && vid_of(entry.seen.load(Relaxed)) == address.vid()
}

#[inline]
fn vid_of(seen: u64) -> Vid {
    (seen >> 32 & 0xfff) as Vid
}

fn is_static(entry: &FdbEntry) -> bool {
    entry.seen.load(Relaxed) & STATIC != 0
}

/// When the address was seen last, in seconds.
fn seconds(entry: &FdbEntry) -> u64 {
    entry.seen.load(Relaxed) & TIME
}

fn fresh(entry: &FdbEntry, now_s: u64) -> bool {
    let seen = entry.seen.load(Relaxed);
    now_s.saturating_sub(seen & TIME) < AGE_S || seen & STATIC != 0
}

/// The address was seen again. Keeps all but the time, which another thread may change meanwhile.
fn refresh(entry: &FdbEntry, now_s: u64) {
    let seen = entry.seen.load(Relaxed);
    // Written only when it changes: other processors have this entry in their caches.
    if seen & TIME != now_s {
        let _ = entry.seen.compare_exchange(seen, now_s | seen & !TIME, Relaxed, Relaxed);
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
