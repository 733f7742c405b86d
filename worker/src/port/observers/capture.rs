//! One thread's end of a capture.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sv3::capture::writer::Writer;
use sv3::capture::{CaptureMap, Passage, Record, Ring};
use sv3::drop_reason::DropReason;
use sv3::port_set::PortSet;

use crate::memory::copy::Writer as SliceWriter;
use crate::memory::slice::GuestSlice;
use crate::port::sink::Outgoing;

/// What a thread knows of a capture.
pub struct Capture {
    map: Arc<CaptureMap>,
    thread: usize,
    snaplen: u32,
    /// The ports that are captured.
    pub ports: PortSet,
    writer: Writer,
    /// The writer before the last frame that a sender sent.
    before: Writer,
    /// That frame.
    last: Option<(Record, usize)>,
}

impl Capture {
    /// The ring of a thread, of which no port is captured.
    pub fn new(map: Arc<CaptureMap>, thread: usize, snaplen: u32) -> Capture {
        let (writer, ports) = (Writer::default(), PortSet::default());
        Capture { map, thread, snaplen, ports, writer, before: writer, last: None }
    }

    fn ring(map: &CaptureMap, thread: usize) -> Option<&Ring> {
        map.rings.get(thread)
    }

    /// Begins a burst.
    pub fn begin(&mut self) {
        if let Some(ring) = Capture::ring(&self.map, self.thread) {
            self.writer.begin(ring);
        }
        self.last = None;
    }

    /// Ends a burst.
    pub fn publish(&mut self) {
        if let Some(ring) = Capture::ring(&self.map, self.thread) {
            self.writer.publish(ring);
        }
    }

    /// Records a frame.
    pub fn record(
        &mut self,
        (slot, passage, dropped, time_ns): (u16, Passage, Option<DropReason>, u64),
        frame: &Outgoing<'_, '_, '_>,
    ) {
        let len = u32::try_from(frame.len).unwrap_or(u32::MAX);
        let captured = len.min(self.snaplen);
        let record = Record { captured, len, slot, passage, dropped, time_ns, hdr: *frame.hdr };
        let Some(ring) = Capture::ring(&self.map, self.thread) else { return };
        if passage == Passage::In {
            (self.before, self.last) = (self.writer, None);
        }
        let Some((words, what)) = self.writer.write(ring, &record) else { return };
        if passage == Passage::In {
            self.last = Some((record, what));
        }
        let room = [GuestSlice::of_words(words).part(0, captured as usize)];
        frame.write_frame(SliceWriter::new(&room));
    }

    /// The last frame of a sender was dropped.
    pub fn mark_dropped(&mut self, reason: DropReason) {
        let Some((record, at)) = self.last.take() else { return };
        let what = Capture::ring(&self.map, self.thread).and_then(|ring| ring.words.0.get(at));
        if let Some(what) = what {
            what.store(Record { dropped: Some(reason), ..record }.what(), Relaxed);
        }
    }

    /// The last frame of a sender stays in its ring: nothing was recorded after it.
    pub fn undo(&mut self) {
        self.writer = self.before;
        self.last = None;
    }
}
