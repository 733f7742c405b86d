//! The octets of a pair's frames that are sent: a ring. Each frame lies in one piece behind its [`Request`].
//!
//! An offset is a multiple of [`LINE`] below the area's size. From one offset to the next one lie a request and a frame,
//! or, where no frame fits in front of the area's end, a request of no octets: the next frame is at the beginning. A
//! request has as many octets as a net header, so a frame lies here as it lies behind one.

use std::sync::atomic::AtomicU64;

use sv3::card::CardSettings;
use sv3::frame::MAX_FRAME;

use super::memory::CardMemory;
use super::request::Request;
use crate::memory::slice::GuestSlice;

/// Octets of a request in memory.
pub const REQUEST: usize = sv3::virtio::NET_HDR_LEN;
/// Offsets are multiples of this: a cache line.
pub const LINE: usize = 64;

/// The area of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Where it begins in the card's memory.
    begin: usize,
    /// Its octets.
    size: usize,
}

/// What is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame.
    Frame(Request),
    /// Nothing up to the end: the next frame is at the beginning.
    Skip,
    /// What no worker writes.
    Nonsense,
}

impl Area {
    /// The area of a pair of the card.
    pub fn of(settings: &CardSettings, pair: u16) -> Area {
        Area { begin: settings.layout(pair).transmit, size: settings.transmit as usize }
    }

    /// Its octets.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The offset in a word that another worker wrote.
    pub fn offset(&self, word: u64) -> Option<usize> {
        usize::try_from(word).ok().filter(|offset| *offset < self.size && offset.is_multiple_of(LINE))
    }

    /// The offset behind a frame of `len` octets.
    #[inline]
    pub fn behind(&self, offset: usize, len: usize) -> usize {
        let end = offset + (REQUEST + len).next_multiple_of(LINE);
        if end >= self.size { 0 } else { end }
    }

    /// The offset for the next frame, of `len` octets. `[done, end)` is in use. `None`: there is no room.
    #[inline]
    pub fn find(&self, (done, end): (usize, usize), len: usize) -> Option<usize> {
        let needed = (REQUEST + len).next_multiple_of(LINE);
        // An area that is full would look like an empty one.
        let fits = |from: usize, to: usize| from + needed < to;
        if end < done {
            return fits(end, done).then_some(end);
        }
        let at_end = if done == 0 { fits(end, self.size) } else { end + needed <= self.size };
        if at_end { Some(end) } else { fits(0, done).then_some(0) }
    }

    /// Where the next frames can lie without a gap: they must end before this. `[done, end)` is in use.
    #[inline]
    pub fn limit(&self, (done, end): (usize, usize)) -> usize {
        match (end < done, done) {
            (true, _) => done - 1,
            (false, 0) => self.size - 1,
            (false, _) => self.size,
        }
    }

    /// Writes the request in front of a frame.
    #[inline]
    pub fn write(&self, memory: &CardMemory, offset: usize, request: &Request) {
        let (first, second) = request.encode();
        let to = memory.slice(self.begin + offset, REQUEST);
        to.write(0, &first.to_ne_bytes());
        to.write(8, &second.to_ne_bytes());
    }

    /// What is at an offset.
    pub fn step(&self, memory: &CardMemory, offset: usize) -> Step {
        let mut octets = [0; 16];
        memory.slice(self.begin + offset, REQUEST).read(0, &mut octets);
        let numbers = u128::from_ne_bytes(octets);
        let request = Request::decode((numbers as u64, (numbers >> 64) as u32));
        match request.len as usize {
            0 if offset != 0 => Step::Skip,
            len @ 1..=MAX_FRAME if offset + REQUEST + len <= self.size => Step::Frame(request),
            _ => Step::Nonsense,
        }
    }

    /// All octets, as words and as a whole.
    #[inline]
    pub fn view<'m>(&self, memory: &'m CardMemory) -> (&'m [[AtomicU64; 2]], GuestSlice<'m>) {
        (memory.ring(self.begin, self.size / 16), memory.slice(self.begin, self.size))
    }

    /// The octets of the frame at an offset.
    #[inline]
    pub fn frame<'m>(&self, memory: &'m CardMemory, offset: usize, len: usize) -> GuestSlice<'m> {
        memory.slice(self.begin + offset + REQUEST, len)
    }

    /// Where the card sees the frame at an offset.
    #[inline]
    pub fn address(&self, memory: &CardMemory, offset: usize) -> u64 {
        memory.settings().iova_of(self.begin + offset + REQUEST)
    }

    /// The offset of the frame that the card sees at an address.
    pub fn offset_at(&self, memory: &CardMemory, address: u64) -> Option<usize> {
        self.offset(address.checked_sub(self.address(memory, 0))?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_never_overlap_and_the_area_is_used(lens in proptest::collection::vec((1usize..9000, 0usize..4), 1..400)) {
            let area = Area { begin: 0, size: 256 << 10 };
            let (mut done, mut end, mut frames) = (0, 0, std::collections::VecDeque::new());
            for (len, finished) in lens {
                for _ in 0..finished {
                    if let Some((_, behind)) = frames.pop_front() {
                        done = behind;
                    }
                }
                let Some(at) = area.find((done, end), len) else {
                    let used: usize = frames.iter().map(|((_, len), _): &((usize, usize), usize)| len + 80).sum();
                    prop_assert!(used + len + 80 + 9000 + 80 >= area.size, "{} in use", used);
                    continue;
                };
                for ((from, other), _) in &frames {
                    prop_assert!(at + REQUEST + len <= *from || from + REQUEST + other <= at);
                }
                prop_assert!(at + REQUEST + len <= area.size && at.is_multiple_of(LINE));
                end = area.behind(at, len);
                frames.push_back(((at, len), end));
                prop_assert!(end != done, "looks empty");
            }
        }
    }
}
