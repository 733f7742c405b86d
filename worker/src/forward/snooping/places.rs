//! The places of ports: who is a member of what, and until when.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::groups::{ASKED, Family, GroupPlace, LEFT, PLACES, WAYS, group_key, group_of, vid_of};

use super::Groups;

/// How often a thread tries to take a place that others take at the same moment.
const TRIES: u32 = 8;

impl Groups {
    /// A port is a member until then, unless it is heard of again. Without a free place the port is open until then.
    pub(super) fn join(&self, slot: u16, key: u64, (now_ns, until): (u64, u64)) {
        self.note_port(slot);
        for _ in 0..TRIES {
            if let Some(place) = self.place(slot, key) {
                let was_there = place.until_ns() > now_ns;
                place.until.store(until, Relaxed);
                if !was_there {
                    self.changed();
                }
                return;
            }
            let is_free = |place: &&GroupPlace| place.key.load(Relaxed) == 0;
            let is_over = |place: &&GroupPlace| place.until_ns() <= now_ns;
            let bucket = self.bucket(slot, key);
            let Some(place) = bucket.iter().find(is_free).or_else(|| bucket.iter().find(is_over)) else { break };
            let before = place.key.load(Relaxed);
            if before != 0 && !is_over(&place) {
                continue;
            }
            if place.key.compare_exchange(before, key, Relaxed, Relaxed).is_ok() {
                place.until.store(until, Relaxed);
                return self.changed();
            }
        }
        self.table.overflows.fetch_add(1, Relaxed);
        self.open(slot, until);
    }

    /// A member has left. True: the control thread must ask for others.
    pub(super) fn leave(&self, slot: u16, key: u64, now_ns: u64) -> bool {
        let Some(place) = self.place(slot, key).filter(|place| place.until_ns() > now_ns) else { return false };
        let is_first = place.until.fetch_or(LEFT, Relaxed) & LEFT == 0;
        is_first && set_bit(&self.table.left, slot)
    }

    /// The port is no member.
    pub(super) fn remove(&self, slot: u16, key: u64) {
        if let Some(place) = self.place(slot, key)
            && place.key.compare_exchange(key, 0, Relaxed, Relaxed).is_ok()
        {
            self.changed();
        }
    }

    /// The querier in charge has asked about a group: ports that have left it, and from which no answer comes until then,
    /// are no members.
    pub(super) fn lower(&self, key: u64, until: u64) {
        let places = self.ports().filter_map(|slot| self.place(slot, key));
        for place in places.filter(|place| place.until.load(Relaxed) & LEFT != 0) {
            place.until.store(place.until_ns().min(until), Relaxed);
            self.changed();
        }
    }

    /// The next VLAN and family in which a port is to be asked, because a member has left, and that is not among those
    /// that were `done`.
    pub fn next_left(&self, slot: u16, done: &[(u16, Family)], now_ns: u64) -> Option<(u16, Family)> {
        let places = self.table.places_of(slot).iter();
        let left = places.filter(|place| place.until.load(Relaxed) & (LEFT | ASKED) != 0 && place.until_ns() > now_ns);
        left.filter_map(scope).find(|scope| !done.contains(scope))
    }

    /// The port was asked: members that do not answer until then are members no longer. A place whose member has left is
    /// asked for twice.
    pub fn was_asked(&self, slot: u16, of: (u16, Family), until: u64) {
        for place in self.table.places_of(slot).iter().filter(|place| scope(place) == Some(of)) {
            match place.until.load(Relaxed) {
                word if word & LEFT != 0 => place.until.store(place.until_ns().min(until) | ASKED, Relaxed),
                word if word & ASKED != 0 => place.until.store(place.until_ns(), Relaxed),
                _ => continue,
            }
            self.changed();
        }
    }

    /// The ports with places that are to be asked for. Clears the marks.
    pub fn take_left(&self) -> impl Iterator<Item = u16> {
        bits(&self.table.left, |word| match word.load(Relaxed) {
            0 => 0,
            _ => word.swap(0, Relaxed),
        })
    }

    /// A port gets all groups until then.
    pub fn open(&self, slot: u16, until: u64) {
        if let Some(open) = self.table.open_until.get(usize::from(slot)) {
            self.note_port(slot);
            open.fetch_max(until, Relaxed);
            self.changed();
        }
    }

    /// The port is gone.
    pub fn forget(&self, slot: u16) {
        if self.ports().any(|other| other == slot) {
            self.table.places_of(slot).iter().for_each(|place| place.key.store(0, Relaxed));
            if let Some(open) = self.table.open_until.get(usize::from(slot)) {
                open.store(0, Relaxed);
            }
            if let Some(word) = self.table.ports.get(usize::from(slot / 64)) {
                word.fetch_and(!(1 << (slot % 64)), Relaxed);
            }
            self.changed();
        }
    }

    /// Forgets all other ports than these.
    pub fn retain(&self, keep: impl Fn(u16) -> bool) {
        self.ports().filter(|slot| !keep(*slot)).for_each(|slot| self.forget(slot));
    }

    /// Ports of which there is something in the table.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        bits(&self.table.ports, |word| word.load(Relaxed))
    }

    /// Whether a port is a member.
    pub(super) fn has(&self, slot: u16, key: u64, now_ns: u64) -> bool {
        self.place(slot, key).is_some_and(|place| place.until_ns() > now_ns)
    }

    fn place(&self, slot: u16, key: u64) -> Option<&'static GroupPlace> {
        self.bucket(slot, key).iter().find(|place| place.key.load(Relaxed) == key)
    }

    /// The places that a key may use. Nobody but the port itself has an interest to fill them.
    fn bucket(&self, slot: u16, key: u64) -> &'static [GroupPlace] {
        const BUCKETS: usize = PLACES / WAYS;
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BUCKETS.trailing_zeros());
        let first = hash as usize * WAYS;
        self.table.places_of(slot).get(first..first + WAYS).unwrap_or(&[])
    }

    fn note_port(&self, slot: u16) {
        set_bit(&self.table.ports, slot);
    }

    /// How often the table has changed.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn changes(&self) -> u64 {
        self.table.changes.load(Relaxed)
    }

    fn changed(&self) {
        self.table.changes.fetch_add(1, Relaxed);
    }
}

/// The VLAN and the family of a place's group.
fn scope(place: &GroupPlace) -> Option<(u16, Family)> {
    let key = place.key.load(Relaxed);
    let group = group_of(key).ok().filter(|group| group_key(vid_of(key), *group) == key)?;
    Some((vid_of(key), Family::of(group)?))
}

/// Sets a bit. True: it was not set.
pub(super) fn set_bit(words: &[AtomicU64], at: u16) -> bool {
    let Some(word) = words.get(usize::from(at / 64)) else { return false };
    let bit = 1 << (at % 64);
    // Mostly it is set. Then the cache line stays with those that read it.
    word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0
}

/// The numbers of the bits that are set, by what `read` gives for each word.
pub(super) fn bits(words: &'static [AtomicU64], read: impl Fn(&'static AtomicU64) -> u64) -> impl Iterator<Item = u16> {
    (0..).step_by(64).zip(words).flat_map(move |(first, word)| {
        let mut rest = read(word);
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            Some(first + bit as u16)
        })
    })
}
