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

    /// What marks have cost since the last call.
    pub fn take_marks_cost(&self) -> u64 {
        self.marks.as_ref().map_or(0, |marks| marks.take_cost())
    }

    /// Marks the available chains: a worker that died may have written to some of them.
    pub fn mark_available(&self) {
        let Some(marks) = self.marks.as_ref().filter(|marks| !marks.only_reads) else { return };
        let (mut at, mut look, mut seen) = (self.next, marks.look(STEPS_AT_START), 0);
        while seen < self.size && !look.is_over() {
            let mut descriptor = self.read(at);
            if !is_available(at, descriptor.flags) {
                break;
            }
            look.begin(Marks::LONGEST);
            loop {
                look.packed(&descriptor);
                (at, seen) = (at.ahead(1, self.size), seen + 1);
                if descriptor.flags & VIRTQ_DESC_F_NEXT == 0 || seen >= self.size {
                    break;
                }
                descriptor = self.read(at);
            }
        }
    }

    /// Marks what was written to the chains of the journal.
    #[inline]
    fn mark_completed(&self, marks: &Marks) {
        let (mut at, size, desc, mut look) = (self.published, self.size, self.desc.view(), marks.look(STEPS));
        for word in self.journal.entries.iter().take(self.pending.into()) {
            let Entry { descriptors, len, .. } = Entry::from_word(word.load(Relaxed));
            if len > 0 {
                let first = read(desc.get(at.index()));
                if descriptors > 1 || !look.plain(&first, len) {
                    look.begin(len.into());
                    let mut chain = (0..descriptors).map(|ahead| self.read(at.ahead(ahead, size)));
                    while chain.next().is_some_and(|descriptor| look.packed(&descriptor)) {}
                }
            }
            at = at.ahead(descriptors, size);
        }
    }

    /// Publishes the entries of the journal.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_marked(&mut self) {
        let (first, behind) = (self.published, self.next);
        if let Some(marks) = &self.marks {
            match marks.only_reads {
                true => DirtyLog::order(),
                false => self.mark_completed(marks),
            }
        }
        pass(CrashPoint::Marked);
        self.flush_all();
        if let Some(marks) = &self.marks {
            DirtyLog::order();
            let count = u64::from(first.distance(behind, self.size));
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
