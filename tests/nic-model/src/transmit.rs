//! A transmit queue: descriptors into frames (data sheet, 7.2.3).

use crate::receive::halves;
use crate::ring::{ENABLE, Ring};
use crate::wire::Frames;
use crate::{Complaints, Memory};

/// Descriptors that are read at once.
const BATCH: usize = 16;
/// Most descriptors of a frame (data sheet, 7.2.1.1).
const MOST: u32 = 40;
/// Longest frame that is not segmented: 15.5 KiB (data sheet, 7.2.1.1).
const LONGEST: usize = 15_872;

/// Bits of a data descriptor's second word (data sheet, 7.2.3.2.4).
mod bit {
    pub const EOP: u64 = 1 << 24;
    pub const IFCS: u64 = 1 << 25;
    pub const RS: u64 = 1 << 27;
    pub const DEXT: u64 = 1 << 29;
    pub const VLE: u64 = 1 << 30;
    pub const TSE: u64 = 1 << 31;
}

/// One transmit queue.
#[derive(Clone, Default)]
pub struct TransmitQueue {
    /// Its ring.
    pub ring: Ring,
    /// TXDCTL, with the enable bit of the ring.
    pub txdctl: u32,
    /// DCA_TXCTRL.
    pub dca: u32,
    /// TDWBAL and TDWBAH.
    pub write_back: u64,
    /// QPTC.
    pub frames: u32,
    /// QBTC.
    pub octets: u64,
    /// What the frame that has begun consists of so far.
    gathered: Option<Gathered>,
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
            0x30 => std::mem::take(&mut self.frames),
            0x34 => std::mem::take(&mut self.octets) as u32,
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
        if self.head_is_written() && value >> 16 & 0x7F != 0 {
            complaints.add("head write-back with a WTHRESH other than 0 (7.2.3.5.2)".into());
        }
        if value & ENABLE == 0 {
            self.gathered = None;
        }
        self.ring.enable(value & ENABLE != 0, complaints);
    }

    fn head_is_written(&self) -> bool {
        self.write_back & 1 != 0
    }

    /// Sends what the ring holds. True: the card has written back that descriptors are done.
    pub fn send(&mut self, to: &mut Frames, memory: &mut dyn Memory, complaints: &mut Complaints) -> bool {
        let mut told = false;
        let mut descriptors = [0; 16 * BATCH];
        while self.ring.ready() > 0 {
            let count = self.ring.ready().min(self.ring.count() - self.ring.head).min(BATCH as u32);
            let at = self.ring.address(self.ring.head);
            let Some(batch) = descriptors.get_mut(..count as usize * 16) else { break };
            if !memory.read(at, batch) {
                complaints.add(format!("DMA: {count} transmit descriptors cannot be read at {at:#x}"));
                self.ring.enabled = false;
                break;
            }
            let mut reports = false;
            for descriptor in batch.as_chunks::<16>().0 {
                let (low, high) = halves(descriptor);
                self.descriptor(low, high, to, memory, complaints);
                self.ring.advance(1);
                if high & bit::RS != 0 {
                    reports = true;
                    self.done(high, memory, complaints);
                }
            }
            told |= reports;
            if reports && self.head_is_written() && !memory.write(self.write_back & !3, &self.ring.head.to_le_bytes()) {
                complaints.add(format!("DMA: the head cannot be written at {:#x}", self.write_back & !3));
            }
        }
        told
    }

    /// The descriptor before the head is done.
    fn done(&self, high: u64, memory: &mut dyn Memory, complaints: &mut Complaints) {
        if self.head_is_written() {
            return;
        }
        let index = self.ring.behind(self.ring.head, self.ring.count() - 1);
        let at = self.ring.address(index);
        // The status is bits 32 to 35 of the second word; the card leaves the rest as it was (7.2.3.2.4).
        if !memory.write(at + 12, &((high >> 32) as u32 | 1).to_le_bytes()) {
            complaints.add(format!("DMA: no descriptor can be written at {at:#x}"));
        }
    }

    fn descriptor(
        &mut self,
        low: u64,
        high: u64,
        to: &mut Frames,
        memory: &mut dyn Memory,
        complaints: &mut Complaints,
    ) {
        match (high & bit::DEXT != 0, high >> 20 & 0xF) {
            (true, 3) => self.data(low, high, to, memory, complaints),
            (true, 2) => {}
            (_, kind) => complaints.add(format!("a transmit descriptor {high:#x}: legacy, or of type {kind}")),
        }
    }

    fn data(&mut self, low: u64, high: u64, to: &mut Frames, memory: &mut dyn Memory, complaints: &mut Complaints) {
        let gathered =
            self.gathered.get_or_insert_with(|| Gathered { frame: to.buffer(), first: high, descriptors: 0 });
        let (len, begin) = ((high & 0xFFFF) as usize, gathered.frame.len());
        gathered.descriptors += 1;
        if len == 0 || gathered.descriptors > MOST {
            complaints.add(format!("a frame of {} descriptors, one of {len} octets", gathered.descriptors));
        }
        gathered.frame.resize(begin + len, 0);
        if !gathered.frame.get_mut(begin..).is_some_and(|piece| memory.read(low, piece)) {
            complaints.add(format!("DMA: {len} octets to be sent cannot be read at {low:#x}"));
        }
        if high & bit::EOP != 0
            && let Some(Gathered { frame, first, .. }) = self.gathered.take()
        {
            self.frame(frame, first, high, to, complaints);
        }
    }

    fn frame(&mut self, mut frame: Vec<u8>, first: u64, last: u64, to: &mut Frames, complaints: &mut Complaints) {
        let payload = (first >> 46) as usize;
        if first & bit::TSE == 0 && payload != frame.len() {
            complaints.add(format!("PAYLEN is {payload} for a frame of {} octets (7.2.3.2.4)", frame.len()));
        }
        if (first | last) & bit::IFCS == 0 {
            complaints.add("a frame without a check sequence (IFCS)".into());
        }
        if first & bit::VLE != 0 || frame.len() < 17 || frame.len() > LONGEST {
            complaints.add(format!("a frame of {} octets, {first:#x}: not for the wire", frame.len()));
            return to.recycle(frame);
        }
        if frame.len() < 60 {
            frame.resize(60, 0);
        }
        self.frames = self.frames.wrapping_add(1);
        self.octets = self.octets.wrapping_add(frame.len() as u64 + 4);
        to.push(frame);
    }
}
