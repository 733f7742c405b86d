//! A transmit queue: descriptors into frames (data sheet, 7.2.3 to 7.2.5).

use crate::offload::{self, Context, Segments};
use crate::receive::halves;
use crate::ring::{ENABLE, Ring};
use crate::statistics::Tally;
use crate::wire::Frames;
use crate::{Complaints, Memory};

/// Descriptors that are read at once.
const BATCH: usize = 16;
/// Most descriptors of a frame (data sheet, 7.2.1.1).
const MOST: u32 = 40;
/// Longest frame that is not segmented: 15.5 KiB (data sheet, 7.2.1.1).
const LONGEST: usize = 15_872;
/// Octets of the shortest frame, without its check sequence.
const SHORTEST: usize = 60;

/// Bits of a data descriptor's second word (data sheet, 7.2.3.2.4).
mod bit {
    pub const EOP: u64 = 1 << 24;
    pub const IFCS: u64 = 1 << 25;
    pub const RS: u64 = 1 << 27;
    pub const DEXT: u64 = 1 << 29;
    pub const VLE: u64 = 1 << 30;
    pub const TSE: u64 = 1 << 31;
    pub const IXSM: u64 = 1 << 40;
    pub const TXSM: u64 = 1 << 41;
}

/// Where frames go, and what they come from.
pub struct Lane<'a> {
    /// The wire.
    pub to: &'a mut Frames,
    /// Where descriptors and frames are.
    pub memory: &'a mut dyn Memory,
    /// Where errors of the driver go.
    pub complaints: &'a mut Complaints,
    /// DTXTCPFLGL and DTXTCPFLGH.
    pub flags: [u32; 2],
    /// What was sent.
    pub tally: Tally,
}

/// One transmit queue.
#[derive(Clone, Default)]
pub struct TransmitQueue {
    /// Its ring.
    pub ring: Ring,
    /// TXDCTL, without the enable bit, which is the ring's.
    txdctl: u32,
    dca: u32,
    /// TDWBAL and TDWBAH.
    write_back: u64,
    /// QPTC and QBTC.
    tally: Tally,
    contexts: [Context; 2],
    /// What the frame that has begun consists of so far.
    gathered: Option<Gathered>,
    /// Descriptors that are done and whose RS bit asks for a write-back, and how many are done in all.
    reports: Vec<u32>,
    done: u32,
}

/// The part of a frame whose last descriptor was not read yet.
#[derive(Clone, Default)]
struct Gathered {
    frame: Vec<u8>,
    /// The second word of its first descriptor, which speaks for the frame.
    first: u64,
    descriptors: u32,
}

impl TransmitQueue {
    /// The register at `offset` of the queue; none if there is none.
    pub fn read(&mut self, offset: u32) -> Option<u32> {
        Some(match offset {
            0x0C => self.dca,
            0x28 => self.txdctl | if self.ring.enabled { ENABLE } else { 0 },
            0x2C => 0,
            0x30 => std::mem::take(&mut self.tally.frames),
            0x34 => std::mem::take(&mut self.tally.octets) as u32,
            0x38 => self.write_back as u32,
            0x3C => (self.write_back >> 32) as u32,
            _ => return self.ring.read(offset),
        })
    }

    /// The driver writes the register. False: there is none.
    pub fn write(&mut self, offset: u32, value: u32, complaints: &mut Complaints) -> bool {
        match offset {
            0x0C => self.dca = value,
            0x28 => self.control(value, complaints),
            0x2C..=0x34 => {}
            0x38 => self.write_back = self.write_back >> 32 << 32 | u64::from(value),
            0x3C => self.write_back = u64::from(value) << 32 | self.write_back & 0xFFFF_FFFF,
            _ => return self.ring.write(offset, value, complaints),
        }
        true
    }

    fn control(&mut self, value: u32, complaints: &mut Complaints) {
        self.txdctl = value & !ENABLE;
        if self.head_is_written() && self.threshold() != 0 {
            complaints.add("head write-back with a WTHRESH other than 0 (7.2.3.5.2)".into());
        }
        if value & ENABLE == 0 {
            self.gathered = None;
            self.reports.clear();
            self.done = 0;
        }
        self.ring.enable(value & ENABLE != 0, complaints);
    }

    fn head_is_written(&self) -> bool {
        self.write_back & 1 != 0
    }

    /// WTHRESH: so many descriptors are done before one is written back.
    fn threshold(&self) -> u32 {
        self.txdctl >> 16 & 0x7F
    }

    /// Sends what the ring holds, at most `most` frames. True: the card has told the driver that descriptors are done.
    pub fn send(&mut self, lane: &mut Lane<'_>, mut most: u32) -> bool {
        let mut told = false;
        let mut descriptors = [0; 16 * BATCH];
        while self.ring.ready() > 0 && most > 0 {
            let count = self.ring.ready().min(self.ring.count() - self.ring.head).min(BATCH as u32);
            let at = self.ring.address(self.ring.head);
            let Some(batch) = descriptors.get_mut(..count as usize * 16) else { break };
            if !lane.memory.read(at, batch) {
                lane.complaints.add(format!("DMA: {count} transmit descriptors cannot be read at {at:#x}"));
                self.ring.enabled = false;
                break;
            }
            for descriptor in batch.as_chunks::<16>().0 {
                let (low, high) = halves(descriptor);
                self.descriptor(low, high, lane);
                self.finish(high);
                if high & bit::EOP != 0 {
                    most -= 1;
                    if most == 0 {
                        break;
                    }
                }
            }
            if self.done >= self.threshold() {
                told |= self.tell(lane.memory, lane.complaints);
            }
        }
        told
    }

    /// The descriptor at the head is done.
    fn finish(&mut self, high: u64) {
        if high & bit::RS != 0 {
            self.reports.push(self.ring.head);
        }
        self.ring.advance(1);
        self.done += 1;
    }

    /// Writes back what waits for it. True: there was something.
    pub fn tell(&mut self, memory: &mut dyn Memory, complaints: &mut Complaints) -> bool {
        self.done = 0;
        let told = !self.reports.is_empty();
        if self.head_is_written() {
            let at = self.write_back & !3;
            if told && !memory.write(at, &self.ring.head.to_le_bytes()) {
                complaints.add(format!("DMA: the head cannot be written at {at:#x}"));
            }
            self.reports.clear();
        }
        for index in self.reports.drain(..) {
            // All but DD is reserved in what is written back (7.2.3.2.4).
            if !memory.write(self.ring.address(index), &(1u128 << 96).to_le_bytes()) {
                complaints.add(format!("DMA: descriptor {index} cannot be written back"));
            }
        }
        told
    }

    fn descriptor(&mut self, low: u64, high: u64, lane: &mut Lane<'_>) {
        match (high & bit::DEXT != 0, high >> 20 & 0xF) {
            (true, 3) => self.data(low, high, lane),
            (true, 2) if self.gathered.is_none() => {
                self.contexts[(high >> 36 & 1) as usize] = Context::of(low, high);
            }
            (_, kind) => {
                lane.complaints.add(format!("a transmit descriptor {high:#x} of type {kind}, or out of place"))
            }
        }
    }

    fn data(&mut self, low: u64, high: u64, lane: &mut Lane<'_>) {
        let gathered =
            self.gathered.get_or_insert_with(|| Gathered { frame: lane.to.buffer(), first: high, descriptors: 0 });
        let (len, begin) = ((high & 0xFFFF) as usize, gathered.frame.len());
        gathered.descriptors += 1;
        if len == 0 || gathered.descriptors > MOST {
            lane.complaints.add(format!("a frame of {} descriptors, one of {len} octets", gathered.descriptors));
        }
        let len = if gathered.descriptors > MOST { 0 } else { len };
        gathered.frame.resize(begin + len, 0);
        if !gathered.frame.get_mut(begin..).is_some_and(|piece| lane.memory.read(low, piece)) {
            lane.complaints.add(format!("DMA: {len} octets to be sent cannot be read at {low:#x}"));
        }
        if high & bit::EOP != 0
            && let Some(Gathered { frame, first, .. }) = self.gathered.take()
        {
            if (first | high) & bit::IFCS == 0 {
                lane.complaints.add("a frame without a check sequence (IFCS)".into());
            }
            self.frame(frame, first, lane);
        }
    }

    fn frame(&mut self, mut frame: Vec<u8>, first: u64, lane: &mut Lane<'_>) {
        let context = self.contexts[(first >> 36 & 1) as usize];
        if first & bit::VLE != 0 {
            lane.complaints.add("VLE: the model inserts no tags".into());
        }
        if first & bit::TSE != 0 {
            self.segments(&frame, first, context, lane);
            return lane.to.recycle(frame);
        }
        let payload = (first >> 46) as usize;
        if payload != frame.len() {
            lane.complaints.add(format!("PAYLEN is {payload} for a frame of {} octets (7.2.3.2.4)", frame.len()));
        }
        let (ip, transport) = (first & bit::IXSM != 0, first & bit::TXSM != 0);
        if ip || transport {
            offload::insert(&mut frame, &context, ip, transport, lane.complaints);
        }
        self.emit(frame, lane);
    }

    fn segments(&mut self, frame: &[u8], first: u64, context: Context, lane: &mut Lane<'_>) {
        let payload = (first >> 46) as usize;
        if payload + context.header() != frame.len() {
            let header = context.header();
            let len = frame.len();
            lane.complaints.add(format!("TSE: PAYLEN is {payload}, headers have {header} octets, the frame {len}"));
        }
        if first & bit::TXSM == 0 || context.ipv4 != (first & bit::IXSM != 0) {
            lane.complaints.add("TSE without TXSM, or with an IXSM that does not fit (7.2.4)".into());
        }
        context.doubt(frame, true, lane.complaints);
        let Some(mut segments) = Segments::of(frame, context, lane.flags) else {
            return lane.complaints.add(format!("TSE: {context:?} for a frame of {} octets", frame.len()));
        };
        let mut segment = lane.to.buffer();
        while segments.next(&mut segment) {
            self.emit(std::mem::replace(&mut segment, lane.to.buffer()), lane);
        }
        lane.to.recycle(segment);
    }

    fn emit(&mut self, mut frame: Vec<u8>, lane: &mut Lane<'_>) {
        if frame.len() < 17 || frame.len() > LONGEST {
            lane.complaints.add(format!("a frame of {} octets is not for the wire (7.2.1.1)", frame.len()));
            return lane.to.recycle(frame);
        }
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        lane.tally.count(&frame);
        self.tally.count(&frame);
        lane.to.push(frame);
    }
}
