//! One direction of an open file.

use std::sync::Arc;

use sv3::ids::{Direction, QueueId};
use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;
use sv3::virtio::NET_HDR_LEN;

use super::input::Input;
use super::open_file::OpenFile;
use super::outbox::Outbox;
use super::reads::Reads;
use super::source::UNFINISHED_NS;
use super::waiting::Waiting;
use crate::port::cost::FILE_WRITE;
use crate::port::counting::Counting;
use crate::port::kind::{Kind, WhenEmpty};
use crate::process::crash_points::{CrashPoint, pass};

/// The most that one burst from a file may cost: some 6 us, as much as several busy rings share in a turn.
const MOST_OF_BURST: u64 = 48 * 1024;
/// The most that one burst from a stream may cost while rings are busy: some 2 us, and the rest of a read.
const SHORT_BURST: u64 = 16 * 1024;

/// A queue of a port of files. Its direction says which fields are used.
pub struct FileQueue {
    pub(super) file: Arc<OpenFile>,
    pub(super) waiting: Waiting,
    direction: Direction,
    /// This worker serves.
    begun: bool,
    fault: Option<RingFault>,
    /// Transmit: what was read.
    pub(super) input: Option<Input>,
    /// Transmit: there may be more to read than was read.
    pub(super) has_more: bool,
    /// Transmit: the last burst read until there was nothing.
    pub(super) was_empty: bool,
    /// Transmit, of a stream: how much to read at a time.
    pub(super) reads: Reads,
    /// Transmit: when a frame was first seen incomplete, in nanoseconds.
    pub(super) begun_ns: Option<u64>,
    /// Receive, of a stream: what is to be written.
    pub(super) outbox: Option<Outbox>,
    /// Receive: how many frames it took in total.
    pub(super) position: u16,
    /// Receive: an event is to tell that the file can be written.
    pub(super) asked: bool,
}

impl FileQueue {
    /// A queue that does not run yet.
    pub fn new(queue: QueueId, file: Arc<OpenFile>, waiting: Waiting) -> FileQueue {
        let direction = queue.direction();
        let sends = direction == Direction::Receive && file.is_stream();
        let outbox = sends.then(|| Outbox::new(file.settings.send_buffer as usize));
        FileQueue {
            file,
            waiting,
            direction,
            begun: false,
            fault: None,
            input: None,
            has_more: true,
            was_empty: false,
            reads: Reads::new(0),
            begun_ns: None,
            outbox,
            position: 0,
            asked: false,
        }
    }

    /// Begins to serve: goes on where the last worker was.
    pub fn begin(&mut self) -> Result<(), RingFault> {
        if self.direction == Direction::Transmit {
            let OpenFile { settings, input, .. } = &*self.file;
            self.input = Some(Input::open(input, settings.run, self.file.longest())?);
            if self.file.is_stream() {
                self.reads = Reads::begin(self.file.fd());
            }
        }
        self.begun = true;
        Ok(())
    }

    /// Stops serving. The file is closed when both queues of the pair are dropped.
    pub fn end(&mut self) {
        self.begun = false;
        // A standby watches it as well.
        if self.direction == Direction::Transmit {
            self.waiting.end(self.file.fd());
        }
    }
}

impl Kind for FileQueue {
    #[inline]
    fn runs(&self) -> bool {
        self.begun && self.fault.is_none()
    }

    fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn break_with(&mut self, fault: RingFault) {
        self.fault = Some(fault);
    }

    fn features(&self) -> u64 {
        self.file.features()
    }

    fn header_len(&self) -> usize {
        NET_HDR_LEN
    }

    fn arm(&mut self) -> bool {
        // A queue that was read empty is not polled any more.
        true
    }

    fn disarm(&mut self) {}

    fn when_empty(&self) -> WhenEmpty {
        match self.has_more {
            true => WhenEmpty::LooksAgain,
            false => WhenEmpty::Rests(self.begun_ns.map(|begun| begun.saturating_add(UNFINISHED_NS))),
        }
    }

    fn publish(&mut self, _: &PortCounters, _: u16, _: Counting) {
        if let Some(input) = &mut self.input {
            input.publish();
            pass(CrashPoint::Noted);
        }
        if let Some(outbox) = &mut self.outbox
            && let Err(fault) = outbox.flush(self.file.fd())
        {
            self.fault = Some(fault);
        }
    }

    fn is_drained(&self) -> bool {
        self.was_empty && self.begun_ns.is_none() && self.input.as_ref().is_some_and(Input::is_empty)
    }

    fn most_of_burst(&self, others_wait: bool) -> u64 {
        match others_wait {
            false => MOST_OF_BURST,
            // One frame, or what one short read of a stream gives.
            true => match self.file.is_stream() {
                true => SHORT_BURST,
                false => 1,
            },
        }
    }

    fn frame_cost(&self) -> u64 {
        match &self.outbox {
            Some(_) => 0,
            None => FILE_WRITE,
        }
    }

    fn publish_cost(&self) -> u64 {
        match &self.outbox {
            Some(_) => FILE_WRITE,
            None => 0,
        }
    }
}
