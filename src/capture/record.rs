//! One record of a ring: what is known of a frame, and its first octets.

use crate::drop_reason::DropReason;
use crate::virtio::NetHdr;

/// Records begin at multiples of so many octets.
pub const STEP: usize = 8;
/// Words in front of the octets of a frame.
const HEAD_WORDS: usize = 5;
/// Octets of these words.
pub const HEAD_OCTETS: usize = HEAD_WORDS * STEP;

/// Which way a frame passed a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It came from the port.
    In,
    /// It was delivered to the port, or was meant for it.
    Out,
}

/// What a record tells of a frame. It begins with `[octets of the record: u32, of the frame in it: u32]`,
/// `[octets of the frame: u32, slot: u16, passage: u8, reason of a drop plus one: u8]`, the time, and the net header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Octets of the frame that are in the record.
    pub captured: u32,
    /// Octets of the frame.
    pub len: u32,
    /// Slot of the port.
    pub slot: u16,
    /// Which way it passed.
    pub passage: Passage,
    /// Why it was dropped, if it was.
    pub dropped: Option<DropReason>,
    /// When its burst began, in nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Its net header, which tells its offloads: as the port sent it, or as it got it.
    pub hdr: NetHdr,
}

impl Record {
    /// Octets of the record.
    pub fn size(&self) -> usize {
        HEAD_OCTETS.saturating_add(self.captured as usize).saturating_add(STEP - 1) / STEP * STEP
    }

    /// The words in front of the frame.
    pub fn to_words(&self) -> [u64; HEAD_WORDS] {
        let (first, second) = self.hdr.to_words();
        let lengths = self.size() as u64 | u64::from(self.captured) << 32;
        [lengths, self.what(), self.time_ns, first, u64::from(second)]
    }

    /// The second word, which changes if the frame is dropped after the record was written.
    pub fn what(&self) -> u64 {
        let passage = match self.passage {
            Passage::In => 1,
            Passage::Out => 2,
        };
        let reason = self.dropped.map_or(0, |reason| reason as u64 + 1);
        u64::from(self.len) | u64::from(self.slot) << 32 | passage << 48 | reason << 56
    }

    /// The word that a record without a frame begins with, which fills so many octets.
    pub fn filler(octets: usize) -> u64 {
        octets as u64 | u64::from(u32::MAX) << 32
    }

    /// The octets of the record that begins with this word.
    pub fn size_of(first: u64) -> usize {
        first as u32 as usize
    }

    /// What these words tell. `None`: nothing of a frame.
    pub fn from_words([lengths, what, time_ns, first, second]: [u64; HEAD_WORDS]) -> Option<Record> {
        let passage = match what >> 48 & 0xff {
            1 => Passage::In,
            2 => Passage::Out,
            _ => return None,
        };
        let dropped = match (what >> 56) as usize {
            0 => None,
            reason => Some(*DropReason::ALL.get(reason - 1)?),
        };
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, ..]) = (first.to_le_bytes(), second.to_le_bytes());
        let hdr = NetHdr::from_bytes([a, b, c, d, e, f, g, h, i, j, k, l]);
        let (captured, len, slot) = ((lengths >> 32) as u32, what as u32, (what >> 32) as u16);
        let record = Record { captured, len, slot, passage, dropped, time_ns, hdr };
        (captured <= len && record.size() == Record::size_of(lengths)).then_some(record)
    }
}
