//! Addresses that were added: they do not age, nobody displaces them, and no other port takes them.
//!
//! Only the control thread adds and removes them. It holds the entry while it changes it, as any thread does that changes
//! an entry's owner. A static address that finds its bucket full of others takes an entry of the bucket beside it, and
//! from then on every look-up that misses looks there as well ([`sv3::ledger::FdbHead::spilled`]): 10,000 of them leave
//! no bucket pair full but once in a million ledgers, and nearly always room for what is learnt.
//!
//! A thread that learns the same address at the same time may have found no entry of it, and make one in front of the
//! static one, which would then not be found. So both look once more when they have published theirs, and the learnt one
//! goes.

use std::hint::spin_loop;
use std::sync::atomic::{Ordering::*, fence};

use sv3::fdb::{BUSY, FdbLine, STATIC};
use sv3::ledger::FdbEntry;

use super::{Address, Fdb, fresh, is_of, key_of};

impl<'l> Fdb<'l> {
    /// Adds a static address, or moves it to another port. False: there is no room for it.
    #[must_use]
    pub fn add(&self, address: Address, port: u16, now_s: u64) -> bool {
        loop {
            let known = self.entry_of(address);
            let Some(entry) = known.or_else(|| self.place(address, now_s)) else { return false };
            let before = self.hold(entry);
            let seen = entry.seen.load(Relaxed);
            let is_same = is_of(entry, address);
            if known.is_some() != is_same || !is_same && seen & STATIC != 0 {
                entry.key.store(before, Release);
                continue;
            }
            if seen & STATIC == 0 {
                self.count(before, -1);
                self.note_spill(entry, address, 1);
            }
            entry.seen.store(STATIC | u64::from(address.vid()) << 32 | now_s, Relaxed);
            entry.key.store(key_of(address, port), Release);
            fence(SeqCst);
            self.ways(address).filter(|other| !std::ptr::eq(*other, entry)).for_each(|other| {
                self.remove_if(other, |_| is_of(other, address));
            });
            return true;
        }
    }

    /// Removes a static address of a port. False: there is none.
    pub fn remove(&self, address: Address, port: u16) -> bool {
        let is_it = |line: &FdbLine| line.is_static && line.port == port;
        self.ways(address).any(|entry| self.remove_if(entry, |line| is_it(line) && is_of(entry, address)))
    }

    /// Removes all entries but these. Only the control thread calls this.
    pub fn retain(&self, keep: impl Fn(&FdbLine) -> bool) {
        for entry in self.entries {
            self.remove_if(entry, |line| !keep(line));
        }
    }

    /// Frees an entry if what it says is to go.
    pub(super) fn remove_if(&self, entry: &'l FdbEntry, goes: impl Fn(&FdbLine) -> bool) -> bool {
        if !entry.line().is_some_and(|line| goes(&line)) {
            return false;
        }
        let before = self.hold(entry);
        let Some(line) = entry.line().filter(|line| goes(line)) else {
            entry.key.store(before, Release);
            return false;
        };
        match line.is_static {
            true => self.note_spill(entry, Address::new(line.mac, line.vid), -1),
            false => self.count(before, -1),
        }
        entry.seen.store(0, Relaxed);
        entry.key.store(0, Release);
        true
    }

    /// Holds an entry; returns its key. Other threads hold one for some instructions.
    fn hold(&self, entry: &FdbEntry) -> u64 {
        loop {
            let before = entry.key.load(Relaxed);
            let is_free = before & BUSY == 0;
            if is_free && entry.key.compare_exchange(before, before | BUSY, Acquire, Relaxed).is_ok() {
                return before;
            }
            spin_loop();
        }
    }

    /// Where a static address may be: its own bucket, and the one beside it.
    fn ways(&self, address: Address) -> impl Iterator<Item = &'l FdbEntry> {
        self.bucket(address).iter().chain(self.beside(address))
    }

    /// An entry for a new static address: one that is free or has aged, or else one that is not static.
    fn place(&self, address: Address, now_s: u64) -> Option<&'l FdbEntry> {
        let is_vacant = |entry: &&FdbEntry| entry.key.load(Relaxed) == 0 || !fresh(entry, now_s);
        let is_learnt = |entry: &&FdbEntry| entry.seen.load(Relaxed) & STATIC == 0;
        self.ways(address).find(is_vacant).or_else(|| self.ways(address).find(is_learnt))
    }

    /// A static address came into an entry, or went.
    fn note_spill(&self, entry: &FdbEntry, address: Address, change: i32) {
        if !self.bucket(address).iter().any(|own| std::ptr::eq(own, entry)) {
            self.head.spilled.fetch_add(change, Relaxed);
        }
    }

    /// Clears what a worker that died left half done, and counts again. Must run before any thread learns.
    pub fn recount(&self) {
        self.head.held.iter().for_each(|held| held.store(0, Relaxed));
        self.head.spilled.store(0, Relaxed);
        for entry in self.entries {
            let key = entry.key.load(Relaxed);
            if key & BUSY != 0 {
                entry.key.store(0, Relaxed);
                continue;
            }
            match entry.line() {
                Some(line) if line.is_static => self.note_spill(entry, Address::new(line.mac, line.vid), 1),
                Some(_) => self.count(key, 1),
                None => {}
            }
        }
    }
}
