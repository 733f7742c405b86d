//! The octets of a pair's frames that are sent: a ring. Each frame lies in one piece behind its [`Request`].
//!
//! An offset is a multiple of [`LINE`] below the area's size. From one offset to the next one lie a request and a frame,
//! or, where no frame fits in front of the area's end, a request of no octets: the next frame is at the beginning.

use sv3::card::CardSettings;
use sv3::frame::MAX_FRAME;

use super::memory::CardMemory;
use super::request::Request;
use crate::memory::slice::GuestSlice;

/// Octets of a request in memory.
pub const REQUEST: usize = 16;
/// Offsets are multiples of this: a cache line.
const LINE: usize = 64;

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

    /// Writes the request in front of a frame.
    #[inline]
    pub fn write(&self, memory: &CardMemory, offset: usize, request: &Request) {
        let [first, second] = request.encode();
        let mut octets = [0; REQUEST];
        let (low, high) = octets.split_at_mut(8);
        low.copy_from_slice(&first.to_ne_bytes());
        high.copy_from_slice(&second.to_ne_bytes());
        memory.slice(self.begin + offset, REQUEST).write(0, &octets);
    }

    /// What is at an offset.
    pub fn step(&self, memory: &CardMemory, offset: usize) -> Step {
        let request = memory.slice(self.begin + offset, REQUEST).read_words(0).map(Request::decode);
        match request {
            Some(request) if request.len == 0 && offset != 0 => Step::Skip,
            Some(request) if (1..=MAX_FRAME).contains(&(request.len as usize)) => {
                let end = offset + REQUEST + request.len as usize;
                if end <= self.size { Step::Frame(request) } else { Step::Nonsense }
            }
            _ => Step::Nonsense,
        }
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
