//! Which descriptors of a receive ring are in use by joined frames (RSC): these do not follow each other.

use super::circle::Circle;
use super::receive_queue::Part;

/// Most descriptors of a ring.
const MOST: usize = 4096;

/// One bit for each descriptor.
pub struct Bits([u64; MOST / 64]);

impl Bits {
    fn none() -> Bits {
        Bits([0; MOST / 64])
    }

    /// Whether a bit is set.
    #[inline]
    pub fn has(&self, at: u16) -> bool {
        self.0.get(usize::from(at / 64)).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    /// Sets a bit.
    #[inline]
    pub fn set(&mut self, at: u16) {
        if let Some(word) = self.0.get_mut(usize::from(at / 64)) {
            *word |= 1 << (at % 64);
        }
    }

    fn clear(&mut self, at: u16) {
        if let Some(word) = self.0.get_mut(usize::from(at / 64)) {
            *word &= !(1 << (at % 64));
        }
    }
}

/// The state of a ring with joined frames.
pub struct Joining {
    /// Behind the position, and done with.
    pub done: Bits,
    /// Parts of frames that this burst took.
    claimed: Bits,
    /// The same in the order of the frames.
    taken: Vec<u16>,
}

impl Joining {
    /// For a ring of so many descriptors.
    pub fn new(descriptors: u16) -> Joining {
        Joining { done: Bits::none(), claimed: Bits::none(), taken: Vec::with_capacity(descriptors.into()) }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.done = Bits::none();
        self.begin();
    }

    /// Begins a burst.
    pub fn begin(&mut self) {
        self.claimed = Bits::none();
        self.taken.clear();
    }

    /// Whether a descriptor is no beginning of a frame, nor a part of another one.
    #[inline]
    pub fn is_used(&self, at: u16) -> bool {
        self.done.has(at) || self.claimed.has(at)
    }

    /// These parts are a frame's.
    pub fn claim(&mut self, parts: &[Part]) {
        for (at, _) in parts {
            self.claimed.set(*at);
            self.taken.push(*at);
        }
    }

    /// The first `count` parts that were taken are done with. Returns how many descriptors from `position` on, of at most
    /// `window`, are done with now; these are forgotten.
    pub fn finish(&mut self, count: usize, ring: Circle, position: u16, window: u16) -> u16 {
        self.taken.iter().take(count).for_each(|at| self.done.set(*at));
        let passed = (0..window).take_while(|far| self.done.has(ring.behind(position, *far))).count() as u16;
        (0..passed).for_each(|far| self.done.clear(ring.behind(position, far)));
        passed
    }

    /// The first `count` parts that were taken.
    pub fn finished(&self, count: usize) -> impl Iterator<Item = u16> {
        self.taken.iter().take(count).copied()
    }
}
