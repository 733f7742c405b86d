//! The writer's end of a ring. The tail was written by the reader, which may lie or be gone.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{HEAD_OCTETS, RING_OCTETS, Record, Ring, STEP};

/// Writes one ring, a burst at a time: [`Writer::begin`], records, [`Writer::publish`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer {
    /// Up to where there are records, those included that are not published.
    head: u64,
    /// Up to where the reader has read when the burst began.
    tail: u64,
    /// Frames of the burst that found no room.
    lost: u64,
}

impl Writer {
    /// Goes on where the ring's last writer has stopped.
    #[inline]
    pub fn begin(&mut self, ring: &Ring) {
        let head = ring.head.octets.load(Relaxed);
        *self = Writer { head: head - head % STEP as u64, tail: ring.tail.octets.load(Acquire), lost: 0 };
    }

    /// Writes a record. Returns the words for the octets of its frame, and the index of the word that [`Record::what`] tells.
    /// `None`: there is no room, and the frame counts as lost.
    #[inline]
    pub fn write<'r>(&mut self, ring: &'r Ring, record: &Record) -> Option<(&'r [AtomicU64], usize)> {
        let size = record.size();
        let (at, used) = (self.head as usize % RING_OCTETS, self.head.wrapping_sub(self.tail));
        let room = RING_OCTETS.saturating_sub(usize::try_from(used).unwrap_or(RING_OCTETS));
        let rest = RING_OCTETS - at;
        let filler = if size > rest { rest } else { 0 };
        if size.saturating_add(filler) > room {
            self.lost += 1;
            return None;
        }
        let at = match filler {
            0 => at / STEP,
            octets => {
                ring.words.0.get(at / STEP)?.store(Record::filler(octets), Relaxed);
                0
            }
        };
        let words = ring.words.0.get(at..at + size / STEP)?;
        let (head, frame) = words.split_at_checked(HEAD_OCTETS / STEP)?;
        for (word, value) in head.iter().zip(record.to_words()) {
            word.store(value, Relaxed);
        }
        self.head = self.head.wrapping_add((filler + size) as u64);
        Some((frame, at + 1))
    }

    /// Shows the reader all records.
    #[inline]
    pub fn publish(&mut self, ring: &Ring) {
        ring.head.octets.store(self.head, Release);
        if self.lost > 0 {
            ring.head.lost.store(ring.head.lost.load(Relaxed).wrapping_add(self.lost), Relaxed);
            self.lost = 0;
        }
    }
}
