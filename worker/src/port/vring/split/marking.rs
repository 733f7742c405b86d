//! A split ring whose client wants to know which pages it writes.

use super::*;
use crate::memory::dirty_log::DirtyLog;
use crate::port::vring::marks::{Marks, STEPS, STEPS_AT_START};
use crate::process::crash_points::{CrashPoint, pass};

/// Offset of `used.idx` in the used ring.
const IDX: u64 = 2;
/// Offset of the entries in the used ring, and octets of one.
const ENTRIES: u64 = 4;
const ENTRY: u64 = 8;

impl SplitRing {
    /// Marks pages from now on, or no more. What was written to the ring before and may not be marked is marked now.
    pub fn set_marks(&mut self, marks: Option<Box<Marks>>) {
        self.marks = marks;
        let Some(marks) = &self.marks else { return };
        DirtyLog::order();
        let event = if self.event_idx { 2 } else { 0 };
        marks.device_area(0, ENTRIES + ENTRY * u64::from(self.size) + event);
    }

    /// What marks have cost since the last call.
    pub fn take_marks_cost(&self) -> u64 {
        self.marks.as_ref().map_or(0, |marks| marks.take_cost())
    }

    /// Marks the available chains: a worker that died may have written to some of them.
    pub fn mark_available(&self) {
        let Some(marks) = self.marks.as_ref().filter(|marks| !marks.only_reads) else { return };
        let seen = u16::from_le(self.avail_head.at(1).load(Acquire));
        let (available, mut look) = (seen.wrapping_sub(self.next).min(self.size), marks.look(STEPS_AT_START));
        for at in 0..available {
            if let Some(first) = self.descriptor(self.head(self.next.wrapping_add(at))) {
                look.chain(self, first, Marks::LONGEST);
            }
        }
    }

    /// Publishes what was completed since `old`.
    #[cold]
    #[inline(never)]
    pub(super) fn publish_marked(&self, old: u16) {
        let Some(marks) = &self.marks else { return };
        let count = self.next.wrapping_sub(old);
        match marks.only_reads {
            true => DirtyLog::order(),
            false => self.mark_completed(marks, old, count),
        }
        let (first, count, size) = (u64::from(old & (self.size - 1)), u64::from(count), u64::from(self.size));
        let before_end = count.min(size - first);
        marks.device_area(ENTRIES + ENTRY * first, ENTRY * before_end);
        marks.device_area(ENTRIES, ENTRY * (count - before_end));
        pass(CrashPoint::Marked);
        self.used_head.at(1).store(self.next.to_le(), Release);
        DirtyLog::order();
        pass(CrashPoint::Marked);
        marks.device_area(IDX, 2);
    }

    /// Marks what was written to completed chains.
    #[inline]
    fn mark_completed(&self, marks: &Marks, old: u16, count: u16) {
        let (size, desc, used, mut look) = (self.size, self.desc.view(), self.used.view(), marks.look(STEPS));
        for at in 0..count {
            let [id, len] = used.at(old.wrapping_add(at));
            let (id, len) = (u32::from_le(id.load(Relaxed)) as u16, u32::from_le(len.load(Relaxed)));
            if len == 0 || id >= size {
                continue;
            }
            let first = Descriptor::read(desc.at(id));
            if !look.plain(&first, len) {
                look.chain(self, first, len.into());
            }
        }
    }

    /// The flags or the event of the used ring were written.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_suppression(&self) {
        let Some(marks) = &self.marks else { return };
        DirtyLog::order();
        match self.event_idx {
            true => marks.device_area(ENTRIES + ENTRY * u64::from(self.size), 2),
            false => marks.device_area(0, 2),
        }
    }
}
