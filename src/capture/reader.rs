//! The reader's end of a ring. All that it reads was written by a worker, which may be hijacked.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{HEAD_OCTETS, RING_OCTETS, Record, Ring, STEP};

/// Reads one ring.
pub struct Reader<'r> {
    ring: &'r Ring,
    /// Up to where it has read, in octets since the beginning.
    tail: u64,
    /// How often the ring made no sense.
    broken: u64,
}

impl<'r> Reader<'r> {
    /// Reads what is written from now on.
    pub fn new(ring: &'r Ring) -> Reader<'r> {
        let tail = ring.head.octets.load(Acquire);
        ring.tail.octets.store(tail, Release);
        Reader { ring, tail, broken: 0 }
    }

    /// Frames that found no room in the ring.
    pub fn lost(&self) -> u64 {
        self.ring.head.lost.load(Relaxed)
    }

    /// How often the ring made no sense, so that what was in it was passed over.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// The next frame, which stays in the ring: what is known of it. Each call reads the ring anew.
    pub fn peek(&mut self) -> Option<Record> {
        loop {
            let head = self.ring.head.octets.load(Acquire);
            let there = head.wrapping_sub(self.tail);
            if there == 0 {
                return None;
            }
            match self.record(there) {
                Next::Frame(record) => return Some(record),
                Next::Filler(octets) => self.pass(octets),
                Next::Nonsense => {
                    self.broken = self.broken.saturating_add(1);
                    self.tail = head;
                    self.ring.tail.octets.store(head, Release);
                }
            }
        }
    }

    /// Takes the frame that [`Reader::peek`] has told of. Its octets are in `frame` afterwards.
    pub fn take(&mut self, record: &Record, frame: &mut Vec<u8>) {
        frame.clear();
        let captured = (record.captured as usize).min(RING_OCTETS);
        let first = self.place() + HEAD_OCTETS / STEP;
        let words = self.ring.words.0.get(first..).unwrap_or_default();
        frame.extend(words.iter().take(captured.div_ceil(STEP)).flat_map(|word| word.load(Relaxed).to_ne_bytes()));
        frame.truncate(captured);
        self.pass(record.size());
    }

    /// Index of the next word.
    fn place(&self) -> usize {
        self.tail as usize % RING_OCTETS / STEP
    }

    fn pass(&mut self, octets: usize) {
        self.tail = self.tail.wrapping_add(octets as u64);
        self.ring.tail.octets.store(self.tail, Release);
    }

    /// What lies at the tail, if so many octets are there.
    fn record(&self, there: u64) -> Next {
        let word = |at: usize| self.ring.words.0.get(at).map_or(0, |word| word.load(Relaxed));
        let (at, rest) = (self.place(), RING_OCTETS - self.tail as usize % RING_OCTETS);
        let first = word(at);
        let size = Record::size_of(first);
        let fits = size >= STEP && size.is_multiple_of(STEP) && size <= rest && size as u64 <= there;
        if there > RING_OCTETS as u64 || !self.tail.is_multiple_of(STEP as u64) || !fits {
            return Next::Nonsense;
        }
        if first == Record::filler(size) && size == rest {
            return Next::Filler(size);
        }
        if size < HEAD_OCTETS {
            return Next::Nonsense;
        }
        let words = std::array::from_fn(|n| if n == 0 { first } else { word(at + n) });
        Record::from_words(words).map_or(Next::Nonsense, Next::Frame)
    }
}

/// What lies at the tail.
enum Next {
    Frame(Record),
    /// So many octets without a frame.
    Filler(usize),
    Nonsense,
}
