//! Packed rings, device side (virtio 1.3, 2.8).
//!
//! Driver and device write the same descriptors. The driver makes a chain available. The device overwrites the
//! chain's first descriptor with a used element and continues after the chain. Both keep a *position*: an index, and
//! a wrap counter that flips with each lap. The worker completes chains in the order in which it takes them, so one
//! position is enough here too: the next descriptor to take is the next one to use.
//!
//! Guest memory does not contain that position, so the ledger does. A used element destroys the descriptor at its
//! place, so a new worker could not take again a burst that was published in part. Therefore each burst is recorded
//! before it is published:
//!
//! 1. [`PackedRing::complete`] writes each chain into the ring's journal, a part of the ledger. Guest memory is
//!    unchanged.
//! 2. One store to the ring's position says how many entries are to be published at this position. From now on the
//!    burst counts as done: any worker that finds this word finishes it.
//! 3. The used elements go to guest memory, except the first. The driver looks at the first one first, so it sees
//!    none.
//! 4. The first used element: now the driver sees all of them.
//! 5. One store to the position: the new position, nothing to be published.
//!
//! A worker that dies before 2 leaves nothing, and the next one takes all chains again. If a worker dies between 2
//! and 5, the next one checks whether the first descriptor is still available. If it is, 4 did not happen, and the
//! worker repeats 3 and 4 from the journal. If not, the driver may already have used the other descriptors again, and
//! only 5 is left to do.
//!
//! The *run* stored beside the position says whether the position belongs to this life of the ring. In a new life the
//! base from the client counts.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{self, Acquire, Relaxed, Release, SeqCst},
    fence,
};

use sv3::MAX_RING_SIZE;
use sv3::ipc::RingFault;
use sv3::ledger::{JOURNAL_LEN, PublishJournal, RingPosition};
use sv3::virtio::{VIRTIO_RING_F_EVENT_IDX, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::chain::{BadChain, Walker};
use super::descriptor::Descriptor;
use super::marks::Marks;
use super::setup::RingSetup;
use super::virtqueue::{Chain, Virtqueue};
use crate::memory::guest_memory::GuestMemory;
use crate::memory::shared::SharedArray;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;
use crate::process::crash_points::{CrashPoint, pass};

/// Descriptor flag. Together with [`USED`] it says whether driver or device owns the descriptor (2.8.1).
const AVAIL: u16 = 1 << 7;
/// Descriptor flag, see [`AVAIL`].
const USED: u16 = 1 << 15;

/// Event suppression: notify always (2.8.10).
const EVENT_ENABLE: u32 = 0;
/// Event suppression: never notify.
const EVENT_DISABLE: u32 = 1;
/// Event suppression: notify when a certain descriptor is reached.
const EVENT_DESC: u32 = 2;

/// How many descriptors before their use the processor fetches them: the worker reads a descriptor and, when its
/// chain is done, writes it.
const AHEAD: u16 = 16;

/// Index and wrap counter (bit 15) of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position(u16);

impl Position {
    const WRAP: u16 = 1 << 15;

    #[inline]
    fn index(self) -> u16 {
        self.0 & !Position::WRAP
    }

    #[inline]
    fn wrap(self) -> bool {
        self.0 & Position::WRAP != 0
    }

    /// The position `descriptors` further, at most `size`, in a ring of `size`.
    #[inline]
    fn ahead(self, descriptors: u16, size: u16) -> Position {
        let index = u32::from(self.index()) + u32::from(descriptors);
        match index < u32::from(size) {
            true => Position(index as u16 | (self.0 & Position::WRAP)),
            false => Position((index - u32::from(size)) as u16 | (!self.0 & Position::WRAP)),
        }
    }

    /// How many descriptors lie between `self` and `to`, which is at most one lap ahead.
    #[inline]
    fn distance(self, to: Position, size: u16) -> u32 {
        let lap = if self.wrap() == to.wrap() { 0 } else { u32::from(size) };
        (u32::from(to.index()) + lap).wrapping_sub(u32::from(self.index()))
    }
}

/// An entry of the journal.
#[derive(Clone, Copy)]
struct Entry {
    id: u16,
    descriptors: u16,
    len: u32,
}

impl Entry {
    #[inline]
    fn to_word(self) -> u64 {
        u64::from(self.len) | u64::from(self.id) << 32 | u64::from(self.descriptors) << 48
    }

    #[inline]
    fn from_word(word: u64) -> Entry {
        Entry { len: word as u32, id: (word >> 32) as u16, descriptors: (word >> 48) as u16 }
    }
}

/// One packed ring.
pub struct PackedRing {
    size: u16,
    /// Address; length, buffer id, flags.
    desc: SharedArray<[AtomicU64; 2]>,
    /// The driver's event suppression: position in the low half, `EVENT_*` in the high half.
    driver_event: SharedArray<AtomicU32>,
    /// The device's event suppression.
    device_event: SharedArray<AtomicU32>,
    position: &'static RingPosition,
    journal: &'static PublishJournal,
    event_idx: bool,
    /// After all completed chains.
    next: Position,
    /// After all published chains.
    published: Position,
    /// Entries of the journal that are not published yet.
    pending: u16,
    /// Descriptors published since the last look at the driver's event suppression.
    moved: u32,
    /// Nothing was published since the start: the driver gets a signal in any case.
    fresh: bool,
    /// The client wants to know which pages are written.
    marks: Option<Box<Marks>>,
}

impl PackedRing {
    /// Looks the ring up, takes its position from the ledger and finishes an interrupted publication.
    pub fn new(memory: &GuestMemory, setup: &RingSetup, features: u64) -> Result<PackedRing, RingFault> {
        let RingSetup { size, addr, base, run, position, journal } = *setup;
        if size == 0 || size > MAX_RING_SIZE {
            return Err(RingFault::BadSize);
        }
        if !addr.desc.is_multiple_of(16) || !addr.avail.is_multiple_of(4) || !addr.used.is_multiple_of(4) {
            return Err(RingFault::Misaligned);
        }
        let mut ring = PackedRing {
            size,
            desc: SharedArray::new(memory, addr.desc, size)?,
            driver_event: SharedArray::new(memory, addr.avail, 1)?,
            device_event: SharedArray::new(memory, addr.used, 1)?,
            position,
            journal,
            event_idx: VIRTIO_RING_F_EVENT_IDX.of(features),
            next: Position(base),
            published: Position(base),
            pending: 0,
            moved: 0,
            fresh: true,
            marks: None,
        };
        if position.run.load(Acquire) == run {
            ring.recover();
        } else {
            position.used.store(u64::from(base), Relaxed);
            position.run.store(run, Release);
        }
        if ring.next.index() >= size {
            return Err(RingFault::BadBase);
        }
        ring.disarm();
        Ok(ring)
    }

    /// Continues where the last worker stopped.
    fn recover(&mut self) {
        let word = self.position.used.load(Acquire);
        let (first, pending) = (Position(word as u16), (word >> 32) as usize);
        self.next = first;
        // A hijacked worker may have written this.
        let entries = self.journal.entries.get(..pending).unwrap_or(&[]);
        let whole = entries.iter().map(|word| u32::from(Entry::from_word(word.load(Relaxed)).descriptors));
        let (least, total) = whole.fold((1, 0), |(least, total), one| (one.min(least), one + total));
        if first.index() < self.size && !entries.is_empty() && least > 0 && total <= u32::from(self.size) {
            if is_available(first, self.read(first).flags) {
                self.roll_forward(first, entries.len());
            }
            self.next = first.ahead(total as u16, self.size);
        }
        self.published = self.next;
        self.position.used.store(u64::from(self.next.0), Release);
    }

    /// Reads a descriptor once, the flags first.
    #[inline]
    fn read(&self, at: Position) -> Descriptor {
        read(self.desc.view().get(at.index()))
    }

    /// How many descriptors from `at` on were given back and not taken since.
    #[inline]
    fn lap_left(&self, at: Position) -> u32 {
        u32::from(self.size).saturating_sub(self.published.distance(at, self.size))
    }

    /// Writes the first `count` entries of the journal to the descriptors from `first` on, the first one last.
    #[inline]
    fn roll_forward(&self, first: Position, count: usize) {
        let mut entries = self.journal.entries.iter().take(count).map(|word| Entry::from_word(word.load(Relaxed)));
        let Some(head) = entries.next() else { return };
        let mut at = first.ahead(head.descriptors, self.size);
        for entry in entries {
            self.write_used(at, entry, Relaxed);
            at = at.ahead(entry.descriptors, self.size);
        }
        pass(CrashPoint::TailUsed);
        self.write_used(first, head, Release);
    }

    #[inline]
    fn write_used(&self, at: Position, entry: Entry, order: Ordering) {
        let turn = if at.wrap() { AVAIL | USED } else { 0 };
        // 2.8.5: the length is valid only with this flag.
        let written = if entry.len > 0 { VIRTQ_DESC_F_WRITE } else { 0 };
        let word = u64::from(entry.len) | u64::from(entry.id) << 32 | u64::from(turn | written) << 48;
        let [_, rest] = self.desc.view().get(at.index());
        rest.store(word.to_le(), order);
    }

    /// Publishes the entries of the journal.
    #[inline]
    fn flush(&mut self) {
        match self.marks.is_some() {
            _ if self.pending == 0 => {}
            false => self.flush_all(),
            true => self.flush_marked(),
        }
    }

    #[inline(always)]
    fn flush_all(&mut self) {
        self.position.used.store(u64::from(self.published.0) | u64::from(self.pending) << 32, Release);
        pass(CrashPoint::Journaled);
        self.roll_forward(self.published, self.pending.into());
        pass(CrashPoint::HeadUsed);
        self.position.used.store(u64::from(self.next.0), Release);
        self.moved = self.moved.saturating_add(self.published.distance(self.next, self.size));
        self.published = self.next;
        self.pending = 0;
    }

    fn wants_signal(&self, moved: u32) -> bool {
        let event = u32::from_le(self.driver_event.at(0).load(Relaxed));
        match event >> 16 & 3 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                let wanted = Position(event as u16);
                let lap = if wanted.wrap() == self.published.wrap() { 0 } else { i64::from(self.size) };
                let back = i64::from(self.published.index()) - (i64::from(wanted.index()) - lap);
                (1..=i64::from(moved)).contains(&back)
            }
            _ => true,
        }
    }

    /// The descriptors of one chain, all of them, so that the ring can continue after a bad chain.
    #[inline(never)]
    fn chain<'m>(
        &self,
        at: Position,
        head: Descriptor,
        walker: &Walker<'m>,
        out: &mut SliceList<'_, 'm>,
    ) -> Result<Chain, RingFault> {
        let before = out.len();
        let room = self.lap_left(at);
        let (mut len, mut descriptors, mut descriptor) = (Ok(0), 1, head);
        loop {
            out.walked += u64::from(len.is_err());
            len = len.and_then(|total| match descriptor.flags & VIRTQ_DESC_F_INDIRECT {
                0 => walker.buffer(&descriptor, out, total),
                // 2.8.8: a table must be the whole chain.
                _ if descriptors > 1 || descriptor.flags & VIRTQ_DESC_F_NEXT != 0 => Err(BadChain),
                _ => walker.packed_table(&descriptor, out, total),
            });
            if descriptor.flags & VIRTQ_DESC_F_NEXT == 0 {
                break;
            }
            if u32::from(descriptors) >= room {
                return Err(RingFault::EndlessChain);
            }
            descriptor = self.read(at.ahead(descriptors, self.size));
            descriptors += 1;
        }
        if len.is_err() {
            out.truncate(before);
        }
        // 2.8.6: the last descriptor has the buffer id.
        Ok(Chain { id: descriptor.next, descriptors, len: len.ok() })
    }
}

/// Reads a descriptor once, the flags first.
#[inline]
fn read([addr, rest]: &[AtomicU64; 2]) -> Descriptor {
    let rest = u64::from_le(rest.load(Acquire));
    Descriptor::from_words(u64::from_le(addr.load(Relaxed)), rest).as_packed()
}

#[inline]
fn is_available(at: Position, flags: u16) -> bool {
    (flags & AVAIL != 0) == at.wrap() && (flags & USED != 0) != at.wrap()
}

impl Virtqueue for PackedRing {
    fn position(&self) -> u16 {
        self.next.0
    }

    #[inline]
    fn prepare(&mut self, batch: u16) -> Result<u16, RingFault> {
        let ready = is_available(self.next, self.read(self.next).flags);
        Ok(if ready { batch } else { 0 })
    }

    /// The driver makes descriptors available in order: so if the last one is, all are.
    fn ready(&mut self, most: u16) -> u16 {
        let mut ready = most.min(self.lap_left(self.next) as u16);
        while let Some(last) = ready.checked_sub(1) {
            let at = self.next.ahead(last, self.size);
            if is_available(at, self.read(at).flags) {
                break;
            }
            ready /= 2;
        }
        ready
    }

    #[inline(always)]
    fn take<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        out: &mut SliceList<'_, 'm>,
    ) -> Result<Option<Chain>, RingFault> {
        let at = Position(*cursor);
        self.desc.view().prefetch_to_write(at.index().wrapping_add(AHEAD));
        let head = self.read(at);
        // One lap ahead, the descriptor is one that was not given back yet.
        if !is_available(at, head.flags) || self.lap_left(at) == 0 {
            return Ok(None);
        }
        if let Some(len) = walker.append_plain(&head, out) {
            *cursor = at.ahead(1, self.size).0;
            return Ok(Some(Chain { id: head.next, descriptors: 1, len: Some(len) }));
        }
        let chain = self.chain(at, head, walker, out)?;
        *cursor = at.ahead(chain.descriptors, self.size).0;
        Ok(Some(chain))
    }

    fn ready_at(&mut self, cursor: u16, batch: u16) -> Result<u16, RingFault> {
        let at = Position(cursor);
        // One lap ahead, the descriptor is one that was not given back yet.
        let ready = self.lap_left(at) > 0 && is_available(at, self.read(at).flags);
        Ok(if ready { batch } else { 0 })
    }

    fn behind(&self, cursor: u16, chain: &Chain) -> u16 {
        Position(cursor).ahead(chain.descriptors, self.size).0
    }

    #[inline(always)]
    fn take_plain<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        most: usize,
        mut each: impl FnMut(Chain, GuestSlice<'m>) -> bool,
    ) -> usize {
        let (size, plain, desc) = (self.size, walker.plain(), self.desc.view());
        let (mut at, mut taken) = (Position(*cursor), 0);
        let most = most.min(self.lap_left(at) as usize);
        while taken < most {
            desc.prefetch_to_write(at.index().wrapping_add(AHEAD));
            let head = read(desc.get(at.index()));
            let Some(slice) = plain.slice(&head).filter(|_| is_available(at, head.flags)) else { break };
            if !each(Chain { id: head.next, descriptors: 1, len: Some(slice.len()) }, slice) {
                break;
            }
            at = at.ahead(1, size);
            taken += 1;
        }
        *cursor = at.0;
        taken
    }

    #[inline]
    fn has_room(&self, chains: usize) -> bool {
        usize::from(self.pending) + chains <= JOURNAL_LEN
    }

    fn make_room(&mut self) {
        self.flush();
    }

    #[inline]
    fn complete(&mut self, chain: &Chain, len: u32) {
        let entry = Entry { id: chain.id, descriptors: chain.descriptors, len };
        if let Some(place) = self.journal.entries.get(usize::from(self.pending)) {
            place.store(entry.to_word(), Relaxed);
            self.pending += 1;
            self.next = self.next.ahead(chain.descriptors, self.size);
        }
    }

    #[inline(always)]
    fn fill_plain<'m>(
        &mut self,
        walker: &Walker<'m>,
        most: usize,
        mut each: impl FnMut(GuestSlice<'m>) -> Option<u32>,
    ) -> usize {
        let log = self.journal.entries.iter().skip(self.pending.into());
        let (mut places, mut at) = (log, self.next.0);
        let filled = self.take_plain(&mut at, walker, most, |chain, slice| {
            let Some(place) = places.next() else { return false };
            let Some(len) = each(slice) else { return false };
            place.store(Entry { id: chain.id, descriptors: 1, len }.to_word(), Relaxed);
            true
        });
        self.pending += filled as u16;
        self.next = Position(at);
        filled
    }

    #[inline]
    fn publish(&mut self) -> bool {
        self.flush();
        let moved = std::mem::take(&mut self.moved);
        if moved == 0 {
            return false;
        }
        let fresh = std::mem::take(&mut self.fresh);
        // The driver stores its event suppression and then reads the descriptor. The worker stores the descriptor and
        // then reads the driver's event suppression.
        fence(SeqCst);
        fresh || self.wants_signal(moved)
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        let waiter = if self.event_idx { EVENT_DESC << 16 | u32::from(cursor) } else { EVENT_ENABLE << 16 };
        self.device_event.at(0).store(waiter.to_le(), Relaxed);
        fence(SeqCst);
        if self.marks.is_some() {
            self.mark_suppression();
        }
        self.is_ready(cursor)
    }

    #[inline]
    fn is_ready(&self, cursor: u16) -> bool {
        let at = Position(cursor);
        match self.next.distance(at, self.size).cmp(&u32::from(self.size)) {
            Less => is_available(at, self.read(at).flags),
            // One lap ahead: nothing can come before a chain is given back.
            Equal => false,
            Greater => true,
        }
    }

    fn disarm(&mut self) {
        self.device_event.at(0).store((EVENT_DISABLE << 16).to_le(), Relaxed);
        if self.marks.is_some() {
            self.mark_suppression();
        }
    }
}

mod marking;

#[cfg(test)]
mod positions;
#[cfg(test)]
mod tests;
