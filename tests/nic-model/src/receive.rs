//! A receive queue: frames into buffers, and what the card writes back (data sheet, 7.1.6 to 7.1.9).

use crate::ring::{ENABLE, Ring};
use crate::{Complaints, Memory};

/// SRRCTL: descriptor type 1, advanced with one buffer.
const ONE_BUFFER: u32 = 1 << 25;
const TYPE: u32 = 7 << 25;
/// SRRCTL: frames without a descriptor are dropped.
const DROP: u32 = 1 << 28;
/// SRRCTL after a reset (8.2.3.8.7): buffers of 2 KiB, room for headers of 256 octets.
const SRRCTL: u32 = 4 << 8 | 2;
/// The status of a descriptor that the card has written: it is done, it is the last one of its frame.
pub const DD: u32 = 1;
pub const EOP: u32 = 1 << 1;
/// Most descriptors of one frame: 16 KiB in buffers of 1 KiB.
const PIECES: usize = 16;

/// What the card tells of a frame in its last descriptor.
#[derive(Clone, Copy, Default)]
pub struct Report {
    /// Type of RSS 0 to 3, type of packet 4 to 16, RSCCNT 17 to 20.
    pub info: u32,
    /// Hash of RSS, or the fragment's checksum and identification.
    pub hash: u32,
    /// Extended status, without DD and EOP, and errors from bit 20 on.
    pub status: u32,
    /// The tag that was stripped, or that is in the frame.
    pub vlan: u16,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It lies in buffers.
    Stored,
    /// There are too few descriptors now.
    Waits,
    /// It is lost: the queue drops, or the driver made an error.
    Lost,
}

/// One receive queue.
#[derive(Clone)]
pub struct ReceiveQueue {
    /// Its ring.
    pub ring: Ring,
    /// SRRCTL.
    pub srrctl: u32,
    /// RXDCTL, with the enable bit of the ring.
    pub rxdctl: u32,
    /// RSCCTL.
    pub rscctl: u32,
    /// DCA_RXCTRL.
    pub dca: u32,
    /// QDE: frames without a descriptor are dropped.
    pub drops: bool,
    /// QPRC.
    pub frames: u32,
    /// QBRC.
    pub octets: u64,
    /// QPRDC.
    pub dropped: u32,
}

impl Default for ReceiveQueue {
    /// A queue after a reset.
    fn default() -> ReceiveQueue {
        ReceiveQueue {
            ring: Ring::default(),
            srrctl: SRRCTL,
            rxdctl: 0,
            rscctl: 0,
            dca: 0,
            drops: false,
            frames: 0,
            octets: 0,
            dropped: 0,
        }
    }
}

impl ReceiveQueue {
    /// The register at `offset` of the queue; none if there is none.
    pub fn read(&mut self, offset: u32) -> Option<u32> {
        Some(match offset {
            0x0C => self.dca,
            0x14 => self.srrctl,
            0x28 => self.rxdctl | if self.ring.enabled { ENABLE } else { 0 },
            0x2C => self.rscctl,
            0x30 => std::mem::take(&mut self.frames),
            0x34 => {
                let low = self.octets as u32;
                self.octets -= u64::from(low);
                low
            }
            0x38 => (std::mem::take(&mut self.octets) >> 32) as u32 & 0xF,
            _ => return self.ring.read(offset),
        })
    }

    /// The driver writes the register. False: there is none.
    pub fn write(&mut self, offset: u32, value: u32, complaints: &mut Complaints) -> bool {
        match offset {
            0x0C => self.dca = value,
            0x14 => {
                if self.ring.enabled && (self.srrctl ^ value) & 0x1F != 0 {
                    complaints.add("the size of buffers changes while the queue runs".into());
                }
                self.srrctl = value;
            }
            0x28 => self.control(value, complaints),
            0x2C => self.rscctl = value,
            0x30..=0x3C => {}
            _ => return self.ring.write(offset, value, complaints),
        }
        true
    }

    fn control(&mut self, value: u32, complaints: &mut Complaints) {
        self.rxdctl = value & !ENABLE;
        if value & ENABLE != 0 && !self.ring.enabled {
            if self.srrctl & TYPE != ONE_BUFFER {
                complaints.add(format!("SRRCTL {:#x}: the model knows advanced descriptors, one buffer", self.srrctl));
            }
            if !(1..=16).contains(&(self.srrctl & 0x1F)) {
                complaints.add(format!("SRRCTL {:#x}: buffers are 1 to 16 KiB", self.srrctl));
                return;
            }
        }
        self.ring.enable(value & ENABLE != 0, complaints);
    }

    /// Octets of a buffer.
    pub fn buffer(&self) -> usize {
        (self.srrctl & 0x1F).clamp(1, 16) as usize * 1024
    }

    /// Stores a frame, in several buffers if it is longer than one.
    pub fn put(&mut self, frame: &[u8], report: &Report, memory: &mut dyn Memory, complaints: &mut Complaints) -> Put {
        let pieces = frame.len().div_ceil(self.buffer()).max(1);
        if !self.ring.enabled || pieces > PIECES {
            return Put::Lost;
        }
        if self.ring.ready() < pieces as u32 {
            if self.drops || self.srrctl & DROP != 0 {
                self.dropped = self.dropped.saturating_add(1);
                return Put::Lost;
            }
            return Put::Waits;
        }
        self.store(frame, report, memory, complaints)
    }

    fn store(&mut self, frame: &[u8], report: &Report, memory: &mut dyn Memory, complaints: &mut Complaints) -> Put {
        let mut pieces = frame.chunks(self.buffer()).peekable();
        while let Some(piece) = pieces.next() {
            let at = self.ring.address(self.ring.head);
            let Some(buffer) = self.fetch(at, memory, complaints) else { return Put::Lost };
            if !memory.write(buffer, piece) {
                complaints.add(format!("DMA: {} octets of a frame cannot be written at {buffer:#x}", piece.len()));
                return Put::Lost;
            }
            let last = pieces.peek().is_none();
            let done = if last { write_back(piece.len(), report) } else { middle(piece.len(), 0, 0) };
            if !memory.write(at, &done) {
                complaints.add(format!("DMA: no descriptor can be written at {at:#x}"));
                return Put::Lost;
            }
            self.ring.advance(1);
        }
        self.frames = self.frames.wrapping_add(1);
        self.octets = self.octets.wrapping_add(frame.len() as u64);
        Put::Stored
    }

    /// Reads the descriptor at `at`: where its buffer is.
    pub fn fetch(&self, at: u64, memory: &mut dyn Memory, complaints: &mut Complaints) -> Option<u64> {
        let mut descriptor = [0; 16];
        if !memory.read(at, &mut descriptor) {
            complaints.add(format!("DMA: no receive descriptor can be read at {at:#x}"));
            return None;
        }
        let (buffer, header) = halves(&descriptor);
        if header & 1 != 0 {
            complaints.add("a receive descriptor for the card has its bit DD set (7.1.6.1)".into());
        }
        Some(buffer)
    }
}

/// The two words of a descriptor.
pub fn halves(descriptor: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*descriptor);
    (both as u64, (both >> 64) as u64)
}

/// What a frame's last descriptor tells (data sheet, 7.1.6.2).
pub fn write_back(len: usize, report: &Report) -> [u8; 16] {
    let low = u64::from(report.info) | u64::from(report.hash) << 32;
    let high = u64::from(report.status | DD | EOP) | (len as u64) << 32 | u64::from(report.vlan) << 48;
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// What another one of its descriptors tells. `next` is the next descriptor of joined segments, `info` their count.
pub fn middle(len: usize, next: u32, info: u32) -> [u8; 16] {
    let high = u64::from(DD | next << 4) | (len as u64) << 32;
    (u128::from(high) << 64 | u128::from(info)).to_le_bytes()
}
