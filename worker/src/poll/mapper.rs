//! The mapper: the thread that maps and unmaps clients' memory, so that no thread that moves frames waits for that.
//!
//! # Theory of operation
//!
//! Clients cause both kinds of work, and can make both slow. Unmapping takes a tenth of a second for each 3 GiB of
//! touched memory. Mapping and unmapping also wait for other users of the file's list of mappings, which the file's
//! owner can make arbitrarily long. In the kernel only those threads wait that touch the same mapping or change any
//! mapping. So a thread of its own does both, and moves no frames.
//!
//! The control thread sends requests through [`MapRequests`]. Map requests come first, one by one. A leaving mapping
//! is no longer used by anybody. The mapper unmaps it in slices that take some tens of microseconds each. After
//! [`WORK_NS`] of them it rests for a millisecond, since it may share its processor with a thread that moves frames.
//!
//! The mapper also opens cards ([`Opener`]): guests' memory is mapped a little later then, and frames go on.
//!
//! The policy has no futex, so the queues are leased ([`crate::sync::lease`]), each for one push or pop. The mapper
//! neither allocates nor frees: in any thread but the first the allocator may need syscalls that the policy does not
//! have. So the queues have their full capacity from the start, and their entries own no allocated memory.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use sv3::ipc::Region;

use crate::memory::mapping::{Mapping, NewMapping, Unmapping};
use crate::poll::notify::{MAX_EVENTS, Notify};
use crate::poll::opener::{Opener, Opening};
use crate::poll::pinning::{Done, PinRequests, Pinner};
use crate::poll::pins::{Pages, Pinned};
use crate::process::clock;
use crate::sync::lease::Leased;

/// Places in each queue.
const ROOM: usize = 64;
/// The control thread's number, for leases.
const CONTROL: u32 = 0;
/// How long the mapper unmaps before it rests, in nanoseconds.
const WORK_NS: u64 = 300_000;
/// How long it rests, in milliseconds.
const REST_MS: u8 = 1;
/// A slice should take a time in this range, in nanoseconds, if there are octets enough.
const SLICE_NS: std::ops::Range<u64> = 20_000..60_000;
/// Least and most octets of a slice. Untouched memory takes no time, but the memory after it may have been touched.
const SLICE: std::ops::RangeInclusive<usize> = 256 << 10..=8 << 20;

/// What a region is mapped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The collected memory table.
    Staged,
    /// The memory table in force.
    InForce,
    /// The client's log.
    Log,
}

/// A request to map a region.
pub struct MapRequest {
    /// Number of the command.
    pub seq: u64,
    /// Slot of the region's port.
    pub port: u16,
    /// What for.
    pub purpose: Purpose,
    /// The region.
    pub region: Region,
    /// Its file.
    pub fd: OwnedFd,
}

/// The answer to a map request.
pub struct Mapped {
    /// Number of the command.
    pub seq: u64,
    /// Slot of the region's port.
    pub port: u16,
    /// What for.
    pub purpose: Purpose,
    /// The mapping.
    pub outcome: Result<NewMapping, Errno>,
}

/// What is to be unmapped.
enum Leaving {
    Mapping(Unmapping),
    /// All mappings that the commands up to this one removed are before this mark.
    Mark(u64),
}

/// What the control thread and the mapper share.
pub struct Mapper {
    wanted: Leased<VecDeque<MapRequest>>,
    mapped: Leased<VecDeque<Mapped>>,
    leaving: Leased<VecDeque<Leaving>>,
    /// The last mark that the mapper reached.
    unmapped: AtomicU64,
    /// Cards that are opened.
    pub opener: Opener,
    /// Memory that is pinned for a card.
    pinner: Pinner,
    notify: Notify,
}

impl Mapper {
    /// A mapper without work.
    pub fn new() -> nix::Result<Mapper> {
        Ok(Mapper {
            wanted: Leased::new(VecDeque::with_capacity(ROOM)),
            mapped: Leased::new(VecDeque::with_capacity(ROOM)),
            leaving: Leased::new(VecDeque::with_capacity(ROOM)),
            unmapped: AtomicU64::new(0),
            opener: Opener::default(),
            pinner: Pinner::default(),
            notify: Notify::new()?,
        })
    }

    /// Has a card opened. See [`Opener::want`].
    pub fn open(&self, card: Opening, waiting: usize) -> Result<(), Opening> {
        self.opener.want(card, waiting)?;
        self.notify.nudge();
        Ok(())
    }

    /// The life of the thread. `tell` makes the control thread look for answers.
    pub fn run(&self, tell: impl Fn()) -> Errno {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let mut remains: Option<Unmapping> = None;
        let mut slice = *SLICE.start();
        loop {
            let mut news = self.opener.open_next();
            let begin = clock::now_ns();
            let mut now = begin;
            while now.saturating_sub(begin) < WORK_NS {
                // Maps and unmaps by turns, so that unmapping keeps up with mapping.
                news |= self.map_next();
                let unpinned = self.pinner.unpin_next();
                if unpinned != Done::Nothing {
                    news |= unpinned == Done::News;
                    now = clock::now_ns();
                    continue;
                }
                let pinned = self.pinner.pin_some();
                news |= pinned == Done::News;
                if let Some(rest) = &mut remains {
                    if !rest.unmap(slice) {
                        remains = None;
                    }
                    let then = std::mem::replace(&mut now, clock::now_ns());
                    slice = next_slice(slice, now.saturating_sub(then));
                    continue;
                }
                let Some(leaving) = self.leaving.seize(|| ()).pop_front() else {
                    if self.wanted.seize(|| ()).is_empty() && pinned == Done::Nothing {
                        break;
                    }
                    now = clock::now_ns();
                    continue;
                };
                news = true;
                match leaving {
                    Leaving::Mapping(mapping) => remains = Some(mapping),
                    Leaving::Mark(seq) => self.unmapped.store(seq, Relaxed),
                }
                now = clock::now_ns();
            }
            if news {
                tell();
            }
            let is_idle = self.wanted.seize(|| ()).is_empty() && !self.opener.has_work() && !self.pinner.has_work();
            let timeout = match (is_idle, self.leaving.seize(|| ()).is_empty()) {
                (false, _) => EpollTimeout::ZERO,
                (true, true) if remains.is_none() => EpollTimeout::NONE,
                _ => EpollTimeout::from(REST_MS),
            };
            match self.notify.wait(&mut events, timeout) {
                Ok(woken) => woken.for_each(drop),
                Err(errno) => return errno,
            }
        }
    }

    /// Maps the next requested region. True: there was one.
    fn map_next(&self) -> bool {
        let Some(wanted) = self.wanted.seize(|| ()).pop_front() else { return false };
        let MapRequest { seq, port, purpose, region, fd } = wanted;
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL));
        let outcome = NewMapping::new(region, fd).map_err(errno);
        self.mapped.seize(|| ()).push_back(Mapped { seq, port, purpose, outcome });
        true
    }
}

/// The size of the next slice, after a slice of this size took `took_ns`.
fn next_slice(slice: usize, took_ns: u64) -> usize {
    match took_ns {
        took if took < SLICE_NS.start => (slice * 2).min(*SLICE.end()),
        took if took >= SLICE_NS.end => (slice / 2).max(*SLICE.start()),
        _ => slice,
    }
}

/// The control thread's end: its requests and the answers that are still to come.
pub struct MapRequests {
    mapper: &'static Mapper,
    wanted: VecDeque<MapRequest>,
    leaving: VecDeque<Leaving>,
    under_way: usize,
    /// Memory for a card that reads it.
    pub pins: PinRequests,
    /// The last mark that was set, and the last one that was reported.
    marked: u64,
    told: u64,
    /// The mapper had just leased a queue.
    again: bool,
}

impl MapRequests {
    /// No requests.
    pub fn new(mapper: &'static Mapper) -> MapRequests {
        MapRequests {
            mapper,
            wanted: VecDeque::new(),
            leaving: VecDeque::new(),
            under_way: 0,
            pins: PinRequests::new(&mapper.pinner),
            marked: 0,
            told: 0,
            again: false,
        }
    }

    /// Requests that a region be mapped. Must not be called while [`MapRequests::is_full`].
    pub fn map(&mut self, wanted: MapRequest) {
        self.under_way += 1;
        self.wanted.push_back(wanted);
    }

    /// Whether so many requests wait that there is no place for another one.
    pub fn is_full(&self) -> bool {
        self.under_way >= ROOM
    }

    /// Whether requests wait for an answer.
    pub fn awaits_mappings(&self) -> bool {
        self.under_way > 0
    }

    /// The next pages that were pinned, or could not be.
    pub fn next_pinned(&mut self) -> Option<Pinned> {
        let answer = self.pins.next_answer();
        self.again |= answer.is_err();
        answer.ok().flatten()
    }

    /// Unmaps mappings that no ring uses any more and that the command `seq` removed.
    pub fn unmap(&mut self, mappings: impl IntoIterator<Item = Arc<Mapping>>, seq: u64) {
        let mappings: Vec<_> = mappings.into_iter().collect();
        self.pins.unpin(mappings.iter().map(|mapping| mapping.pages()).map(|(at, len)| Pages { at, len }), seq);
        // Mappings that somebody still holds are unmapped by their last holder.
        self.leaving.extend(mappings.into_iter().filter_map(Unmapping::of).map(Leaving::Mapping));
        let before = std::mem::replace(&mut self.marked, seq);
        match self.leaving.is_empty() && self.mapper.unmapped.load(Relaxed) == before {
            true => self.mapper.unmapped.store(seq, Relaxed),
            false => self.leaving.push_back(Leaving::Mark(seq)),
        }
    }

    /// Gives the mapper the requests that it has room for.
    pub fn hand_over(&mut self) {
        let mut handed = false;
        let mut give = || {
            if !self.wanted.is_empty() {
                let mut queue = self.mapper.wanted.lease(CONTROL)?;
                // The queue has room for all requests that may wait.
                queue.extend(self.wanted.drain(..));
                handed = true;
            }
            handed |= self.pins.hand_over()?;
            // What is mapped for a card is unpinned before it is unmapped.
            if !self.leaving.is_empty() && !self.pins.has_leaving() {
                let mut queue = self.mapper.leaving.lease(CONTROL)?;
                let count = ROOM.saturating_sub(queue.len()).min(self.leaving.len());
                queue.extend(self.leaving.drain(..count));
                handed |= count > 0;
            }
            Some(())
        };
        self.again |= give().is_none();
        if handed {
            self.mapper.notify.nudge();
        }
    }

    /// The next region that was mapped, or could not be mapped.
    pub fn next_mapped(&mut self) -> Option<Mapped> {
        if self.under_way == 0 {
            return None;
        }
        let Some(mut queue) = self.mapper.mapped.lease(CONTROL) else {
            self.again = true;
            return None;
        };
        let mapped = queue.pop_front()?;
        self.under_way -= 1;
        Some(mapped)
    }

    /// Whether the mapper had just leased a queue, so that the next try is due at once. Clears the mark.
    pub fn must_try_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// The number of the last command whose mappings are all unmapped, if it is new.
    pub fn unmapped(&mut self) -> Option<u64> {
        let seq = self.mapper.unmapped.load(Relaxed);
        (std::mem::replace(&mut self.told, seq) < seq).then_some(seq)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn wanted(seq: u64, octets: u64) -> MapRequest {
        let fd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, octets.cast_signed()).unwrap();
        let region = Region { guest_addr: 0, size: octets, user_addr: 0, offset: 0, block: 4096 };
        MapRequest { seq, port: 0, purpose: Purpose::Staged, region, fd }
    }

    fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_wanted_is_mapped_and_what_goes_is_told_of_in_order() {
        let mapper: &Mapper = Box::leak(Box::new(Mapper::new().unwrap()));
        std::thread::spawn(|| mapper.run(|| ()));
        let mut requests = MapRequests::new(mapper);
        requests.unmap([], 1);
        assert_eq!((requests.unmapped(), requests.unmapped()), (Some(1), None), "there was nothing to wait for");
        let mut seq = 1;
        let mut mappings = Vec::new();
        while !requests.is_full() {
            seq += 1;
            requests.map(wanted(seq, 8 << 20));
        }
        while requests.awaits_mappings() {
            requests.hand_over();
            let Mapped { seq, outcome, .. } = until(|| requests.next_mapped());
            assert_eq!(seq, mappings.len() as u64 + 2);
            mappings.push(Arc::new(Mapping::new(0, outcome.unwrap())));
        }
        // More than the queue has places for.
        let last = seq + mappings.len() as u64;
        for mapping in mappings {
            seq += 1;
            requests.unmap([mapping], seq);
        }
        let mut told = 1;
        while told < last {
            requests.hand_over();
            let news = until(|| {
                requests.hand_over();
                requests.unmapped()
            });
            assert!(news > told && news <= last, "{news}");
            told = news;
        }
    }

    #[test]
    fn slices_grow_while_they_are_quick_and_stay_within_bounds() {
        let mut slice = *SLICE.start();
        for _ in 0..20 {
            slice = next_slice(slice, 1_000);
        }
        assert_eq!(slice, *SLICE.end());
        assert_eq!(next_slice(slice, 30_000), slice);
        for _ in 0..20 {
            slice = next_slice(slice, 1_000_000);
        }
        assert_eq!(slice, *SLICE.start());
    }
}
