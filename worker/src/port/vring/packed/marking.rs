//! A packed ring whose client wants to know which pages it writes.

use super::*;
use crate::memory::dirty_log::DirtyLog;
use crate::port::vring::marks::{Marks, STEPS, STEPS_AT_START};

impl PackedRing {
    /// Marks pages from now on, or no more. What was written to the ring before and may not be marked is marked now.
    pub fn set_marks(&mut self, marks: Option<Box<Marks>>) {
        self.marks = marks;
        let Some(marks) = &self.marks else { return };
        DirtyLog::order();
        marks.device_area(0, 4);
        marks.descriptors(0, self.size.into());
    }

    /// Marks the available chains: a worker that died may have written to some of them.
    pub fn mark_available(&self) {
        let Some(marks) = &self.marks else { return };
        DirtyLog::order();
        let (mut at, mut steps, mut seen) = (self.next, STEPS_AT_START, 0);
        while seen < self.size && steps > 0 {
            let mut descriptor = self.read(at);
            if !is_available(at, descriptor.flags) {
                break;
            }
            let mut written = marks.written(Marks::LONGEST, &mut steps);
            loop {
                written.packed(&descriptor);
                (at, seen) = (at.ahead(1, self.size), seen + 1);
                if descriptor.flags & VIRTQ_DESC_F_NEXT == 0 || seen >= self.size {
                    break;
                }
                descriptor = self.read(at);
            }
        }
    }

    /// Publishes the entries of the journal.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_marked(&mut self) {
        let (first, mut at, mut steps) = (self.published, self.published, STEPS);
        if let Some(marks) = &self.marks {
            DirtyLog::order();
            for word in self.journal.entries.iter().take(self.pending.into()) {
                let Entry { descriptors, len, .. } = Entry::from_word(word.load(Relaxed));
                let mut written = marks.written(len.into(), &mut steps);
                let mut chain = (0..descriptors).map(|ahead| self.read(at.ahead(ahead, self.size)));
                while len > 0 && chain.next().is_some_and(|descriptor| written.packed(&descriptor)) {}
                at = at.ahead(descriptors, self.size);
            }
        }
        pass(CrashPoint::Marked);
        self.flush_all();
        if let Some(marks) = &self.marks {
            DirtyLog::order();
            let count = u64::from(first.distance(at, self.size));
            let (size, first) = (u64::from(self.size), u64::from(first.index()));
            let before_end = count.min(size - first);
            marks.descriptors(first, before_end);
            marks.descriptors(0, count - before_end);
        }
    }

    /// The device's event suppression was written.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_suppression(&self) {
        let Some(marks) = &self.marks else { return };
        DirtyLog::order();
        marks.device_area(0, 4);
    }
}
