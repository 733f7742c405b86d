//! What the mapper does for a card that reads guests' memory: it maps that memory for the card's DMA, which pins it.
//!
//! To pin a page that was never touched, the kernel makes it: a guest's memory takes some tenths of a second for each
//! GiB. So it is pinned in slices, between which regions of guests are mapped and unmapped ([`super::pinning`]). No slice
//! lies across the border of a window of [`WINDOW`] octets of the card's addresses. So what a worker that died has left
//! can be removed window by window, whatever its slices were, and so is all that is unpinned: that takes as long.

use std::collections::VecDeque;

use nix::errno::Errno;
use sv3::card::{GUESTS, guest_iova};

use crate::memory::dma::Container;
use crate::process::clock;

/// Octets of a window.
const WINDOW: usize = 64 << 20;
/// Least octets of a slice.
const SLICE: usize = 1 << 20;
/// How long a slice should take, in nanoseconds, if there are octets enough.
const SLICE_NS: u64 = 2_000_000;
/// Windows that are looked at in a row, while they are empty.
const WINDOWS: u64 = 64;
/// Most mappings that are pinned at a time.
const ROOM: usize = sv3::MAX_REGIONS;

/// Whole pages that are mapped in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Where they begin.
    pub at: usize,
    /// Their octets.
    pub len: usize,
}

/// What is to be done for a card, in order.
pub enum Task {
    /// For another card, of whose port this is the slot, and at most so many octets; or for none.
    Container(Option<(u16, Container, u64)>),
    /// Memory of a port is to be pinned. The answer has this number, which is not 0.
    Pin(u16, u64, Pages),
}

/// The answer to a request to pin pages. Number 0: to a container, in which nothing of an earlier worker is left now.
pub struct Pinned {
    /// Slot of the port whose memory it is; or of the card.
    pub port: u16,
    /// The request's number.
    pub number: u64,
    /// Why the pages are not pinned.
    pub outcome: Result<(), Errno>,
}

/// What is under way.
enum Step {
    /// What is in the container is removed, from this window on. Then memory is pinned for the card of this slot, or the
    /// container is closed.
    Clear(Option<u16>, u64),
    /// Pages are pinned. So many of their octets are.
    Pin(u16, u64, Pages, usize),
}

/// A card's container, and what is pinned for it.
pub struct Pins {
    container: Option<Container>,
    /// What is pinned as a whole. Never more than fits: this thread may not allocate.
    pinned: Vec<Pages>,
    /// How many octets may be pinned, and how many are.
    limit: u64,
    octets: u64,
    step: Option<Step>,
    /// What is being unpinned.
    leaving: Option<Pages>,
    /// Octets of the next slice.
    slice: usize,
}

impl Pins {
    /// No container, and room for all that there may be.
    pub fn new() -> Pins {
        let pinned = Vec::with_capacity(ROOM);
        Pins { container: None, pinned, limit: 0, octets: 0, step: None, leaving: None, slice: SLICE }
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.step.is_some() || self.leaving.is_some()
    }

    /// Whether a task is under way.
    pub fn has_task(&self) -> bool {
        self.step.is_some()
    }

    /// Begins with a task. No other one is under way, and nothing is being unpinned.
    pub fn begin(&mut self, task: Task) {
        self.step = match task {
            Task::Container(None) => {
                self.pinned.clear();
                Some(Step::Clear(None, 0))
            }
            Task::Container(Some((slot, container, limit))) => {
                while let Some(pages) = self.pinned.pop() {
                    self.unmap(pages);
                }
                (self.container, self.limit, self.octets) = (Some(container), limit, 0);
                Some(Step::Clear(Some(slot), 0))
            }
            Task::Pin(port, number, pages) => Some(Step::Pin(port, number, pages, 0)),
        };
    }

    /// Goes on with what is under way. An answer comes when it is over.
    pub fn go_on(&mut self) -> Option<Pinned> {
        match self.step.take()? {
            Step::Clear(slot, window) => self.clear_some(slot, window),
            Step::Pin(port, number, pages, done) => self.pin_some((port, number), pages, done),
        }
    }

    fn clear_some(&mut self, slot: Option<u16>, first: u64) -> Option<Pinned> {
        let all = GUESTS / WINDOW as u64;
        for window in first..all.min(first + WINDOWS) {
            let iova = GUESTS + window * WINDOW as u64;
            // An old kernel lets only the process remove a mapping that made it. Then to pin memory there fails.
            let octets = self.container.as_ref().map_or(0, |it| it.unmap(iova, WINDOW as u64).unwrap_or(0));
            if octets > 0 && window + 1 < all {
                self.step = Some(Step::Clear(slot, window + 1));
                return None;
            }
        }
        if first + WINDOWS < all {
            self.step = Some(Step::Clear(slot, first + WINDOWS));
            return None;
        }
        self.octets = 0;
        if slot.is_none() {
            self.container = None;
        }
        slot.map(|port| Pinned { port, number: 0, outcome: Ok(()) })
    }

    fn pin_some(&mut self, (port, number): (u16, u64), pages: Pages, done: usize) -> Option<Pinned> {
        let (at, left) = (pages.at + done, pages.len.saturating_sub(done));
        let slice = self.slice.min(left).min(WINDOW - at % WINDOW);
        let begin = clock::now_ns();
        let outcome = match &self.container {
            None => Err(Errno::ENODEV),
            Some(_) if self.pinned.len() >= ROOM => Err(Errno::ENOSPC),
            // All of it must be allowed before any of it is pinned.
            Some(_) if done == 0 && self.octets.saturating_add(pages.len as u64) > self.limit => Err(Errno::ENOMEM),
            Some(container) => container.map(at, slice, guest_iova(at)),
        };
        self.octets += if outcome.is_ok() { slice as u64 } else { 0 };
        self.slice = match clock::now_ns().saturating_sub(begin) {
            took if took < SLICE_NS => (2 * self.slice).min(WINDOW),
            _ => (self.slice / 2).max(SLICE),
        };
        if outcome.is_ok() && slice < left {
            self.step = Some(Step::Pin(port, number, pages, done + slice));
            return None;
        }
        match outcome {
            Ok(()) => self.pinned.push(pages),
            Err(_) => self.unmap(Pages { len: done, ..pages }),
        }
        Some(Pinned { port, number, outcome })
    }

    /// Begins to unpin pages, which are pinned, are being pinned, or are not. Those that are not may have the card's address
    /// of others that are. An answer comes if they were being pinned. [`Pins::unpin_some`] goes on.
    pub fn unpin(&mut self, pages: Pages) -> Option<Pinned> {
        if let Some(at) = self.pinned.iter().position(|other| *other == pages) {
            self.pinned.swap_remove(at);
            self.leaving = Some(pages);
        }
        match self.step {
            Some(Step::Pin(port, number, other, done)) if other == pages => {
                self.step = None;
                self.leaving = Some(Pages { len: done, ..pages });
                Some(Pinned { port, number, outcome: Err(Errno::ECANCELED) })
            }
            _ => None,
        }
    }

    /// Unpins what is being unpinned up to the end of its window. False: there was nothing.
    pub fn unpin_some(&mut self) -> bool {
        let Some(Pages { at, len }) = self.leaving.take() else { return false };
        let piece = len.min(WINDOW - at % WINDOW);
        self.unmap(Pages { at, len: piece });
        self.leaving = (piece < len).then_some(Pages { at: at + piece, len: len - piece });
        true
    }

    fn unmap(&mut self, pages: Pages) {
        if let Some(container) = self.container.as_ref().filter(|_| pages.len > 0) {
            let octets = container.unmap(guest_iova(pages.at), pages.len as u64).unwrap_or(0);
            self.octets = self.octets.saturating_sub(octets);
        }
    }
}

/// Tasks that wait, of which [`Pins`] has begun none.
pub type Tasks = VecDeque<Task>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::dma::simulated::Simulated;

    fn go(pins: &mut Pins, task: Task) -> (u16, u64, Result<(), Errno>) {
        pins.begin(task);
        loop {
            if let Some(Pinned { port, number, outcome }) = pins.go_on() {
                assert!(!pins.is_busy());
                return (port, number, outcome);
            }
        }
    }

    /// Unpins all of some pages. Returns the answer and how many pieces they had.
    fn unpin(pins: &mut Pins, at: usize, len: usize) -> (Option<Result<(), Errno>>, usize) {
        let answer = pins.unpin(Pages { at, len });
        (answer.map(|answer| answer.outcome), std::iter::from_fn(|| pins.unpin_some().then_some(())).count())
    }

    fn pin(pins: &mut Pins, at: usize, len: usize) -> Result<(), Errno> {
        let (port, number, outcome) = go(pins, Task::Pin(3, 7, Pages { at, len }));
        assert_eq!((port, number), (3, 7));
        outcome
    }

    fn card(container: &Simulated, limit: u64) -> Task {
        Task::Container(Some((5, Container::Simulated(container.clone()), limit)))
    }

    #[test]
    fn memory_is_pinned_as_a_whole_or_not_at_all() {
        let (container, other) = (Simulated::default(), Simulated::default());
        let mut pins = Pins::new();
        assert_eq!(pin(&mut pins, 0, 4096), Err(Errno::ENODEV));
        for window in [0, 7, 4095] {
            container.0.lock().unwrap().insert(GUESTS + (window << 26) + 5, (0, 99));
        }
        assert_eq!(go(&mut pins, card(&container, 300 << 20)), (5, 0, Ok(())));
        assert_eq!(container.octets(), 0, "what was left is gone");
        let (first, second) = (0x7000_0000_0000, 0x7001_0000_0000);
        assert_eq!(pin(&mut pins, first, 200 << 20), Ok(()));
        assert_eq!(pin(&mut pins, second, 101 << 20), Err(Errno::ENOMEM));
        assert_eq!(container.octets(), 200 << 20);
        // 256 GiB further, an address is the same for the card.
        assert_eq!(pin(&mut pins, first + (1 << 38) + (100 << 20), 4096), Err(Errno::EEXIST));
        assert_eq!(pin(&mut pins, first + (1 << 38) - (64 << 20), 80 << 20), Err(Errno::EEXIST));
        assert_eq!(container.octets(), 200 << 20);
        assert_eq!(unpin(&mut pins, second, 4096), (None, 0));
        assert_eq!(unpin(&mut pins, first + (1 << 38), 200 << 20), (None, 0));
        assert_eq!(container.octets(), 200 << 20);
        assert_eq!(unpin(&mut pins, first, 200 << 20), (None, 4), "a window at a time");
        assert_eq!((container.octets(), pin(&mut pins, second, 101 << 20)), (0, Ok(())));
        assert_eq!(go(&mut pins, card(&other, 1 << 20)), (5, 0, Ok(())));
        assert_eq!((container.octets(), pin(&mut pins, first, 1 << 20), other.octets()), (0, Ok(()), 1 << 20));
        pins.begin(Task::Container(None));
        while pins.is_busy() {
            assert!(pins.go_on().is_none());
        }
        assert_eq!((other.octets(), pin(&mut pins, first, 4096)), (0, Err(Errno::ENODEV)));
    }

    #[test]
    fn what_is_being_pinned_can_go() {
        let container = Simulated::default();
        let mut pins = Pins::new();
        assert_eq!(go(&mut pins, card(&container, 1 << 40)), (5, 0, Ok(())));
        let pages = Pages { at: 0x7000_0000_0000, len: 1 << 30 };
        pins.begin(Task::Pin(1, 2, pages));
        assert!(pins.go_on().is_none() && pins.go_on().is_none() && container.octets() > 0);
        assert_eq!(unpin(&mut pins, pages.at, pages.len).0, Some(Err(Errno::ECANCELED)));
        assert_eq!((container.octets(), pins.is_busy()), (0, false));
    }
}
