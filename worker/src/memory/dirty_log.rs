//! The log in which a client wants the pages marked that its device writes (vhost-user, "Migration"): one bit for each
//! page of 4 KiB of guest-physical addresses, lowest bit first, in a file that the client clears while it is marked.
//!
//! The client clears a word by an exchange, and then copies the pages that were marked in it. So a mark must be seen to be
//! set after the page was written: [`DirtyLog::order`] comes between the two. Then a bit that is still set need not be set
//! again: the client clears it later, and copies the page after that.
//!
//! Pages behind the end of the log are not marked: the client asked for no more.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};

use super::mapping::Mapping;

/// Logarithm of the octets of a page of the log.
const PAGE_SHIFT: u32 = 12;

/// The log of one client.
#[derive(Clone)]
pub struct DirtyLog(Arc<Mapping>);

impl DirtyLog {
    /// The log in a mapped file.
    pub fn new(mapping: Arc<Mapping>) -> DirtyLog {
        DirtyLog(mapping)
    }

    /// The mapping, to be unmapped.
    pub fn into_mapping(self) -> Arc<Mapping> {
        self.0
    }

    /// Must come between the writes to pages and their marks.
    #[inline]
    pub fn order() {
        fence(SeqCst);
    }

    /// Marks the pages of `[guest_addr, guest_addr + len)`. Takes time for each page.
    pub fn mark(&self, guest_addr: u64, len: u64) {
        self.view().mark(guest_addr, len);
    }

    /// For many marks of what was written before [`DirtyLog::order`].
    #[inline]
    pub fn view(&self) -> LogView<'_> {
        LogView { octets: self.0.octets(), last: u64::MAX }
    }
}

/// The log, for many marks.
pub struct LogView<'l> {
    octets: &'l [AtomicU8],
    /// The page that was marked last: buffers often lie on the same one.
    last: u64,
}

impl LogView<'_> {
    /// See [`DirtyLog::mark`].
    #[inline]
    pub fn mark(&mut self, guest_addr: u64, len: u64) {
        let Some(last) = len.checked_sub(1).and_then(|more| guest_addr.checked_add(more)) else { return };
        let (mut page, last) = (guest_addr >> PAGE_SHIFT, last >> PAGE_SHIFT);
        page += u64::from(page == self.last);
        while page <= last {
            let Some(octet) = self.octets.get((page / 8) as usize) else { return };
            let bit = 1 << (page % 8);
            // Most pages are marked already, and a locked instruction takes the line from the client.
            if octet.load(Relaxed) & bit == 0 {
                octet.fetch_or(bit, Release);
            }
            self.last = page;
            page += 1;
        }
    }
}

/// For tests: a log in a memfd, as its client sees it.
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub mod client {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use sv3::ipc::Region;

    use super::*;
    use crate::memory::mapping::NewMapping;

    /// The client's end of a log.
    pub struct LogFile {
        file: File,
        size: u64,
        offset: u64,
    }

    impl LogFile {
        /// A log of `size` octets at `offset` of a file that ends with the log's page.
        pub fn new(size: u64, offset: u64) -> LogFile {
            let fd: OwnedFd = memfd_create(c"log", MFdFlags::MFD_CLOEXEC).unwrap();
            nix::unistd::ftruncate(&fd, (offset + size).next_multiple_of(4096).cast_signed()).unwrap();
            LogFile { file: fd.into(), size, offset }
        }

        /// The worker's view.
        pub fn log(&self) -> DirtyLog {
            let LogFile { size, offset, .. } = *self;
            let region = Region { guest_addr: 0, size, user_addr: 0, offset, block: 4096 };
            let bare = NewMapping::new(region, self.file.try_clone().unwrap().into()).unwrap();
            DirtyLog::new(Arc::new(Mapping::new(0, bare)))
        }

        /// Takes all marks: the numbers of the pages.
        pub fn take(&self) -> BTreeSet<u64> {
            let mut octets = vec![0; self.size as usize];
            self.file.read_exact_at(&mut octets, self.offset).unwrap();
            self.file.write_all_at(&vec![0; octets.len()], self.offset).unwrap();
            let marked = (0..).zip(octets).filter(|(_, octet)| *octet != 0);
            let pages =
                |(at, octet): (u64, u8)| (0..8).filter(move |bit| octet >> bit & 1 != 0).map(move |bit| 8 * at + bit);
            marked.flat_map(pages).collect()
        }

        /// Everything in the file that is not the log.
        pub fn around(&self) -> Vec<u8> {
            let mut octets = vec![0; self.file.metadata().unwrap().len() as usize];
            self.file.read_exact_at(&mut octets, 0).unwrap();
            octets.drain(self.offset as usize..(self.offset + self.size) as usize);
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::client::LogFile;

    proptest! {
        #[test]
        fn exactly_the_pages_of_a_range_are_marked_and_none_behind_the_end(
            size in 1u64..100,
            offset in 0u64..9000,
            ranges in proptest::collection::vec((0u64..1 << 22, 0u64..70_000), 0..9),
            wild in proptest::collection::vec((any::<u64>(), 0u64..70_000), 0..3),
        ) {
            let file = LogFile::new(size, offset);
            let log = file.log();
            let mut pages = BTreeSet::new();
            for (addr, len) in ranges.into_iter().chain(wild) {
                log.mark(addr, len);
                if len > 0 && let Some(last) = addr.checked_add(len - 1) {
                    pages.extend((addr >> 12..=last >> 12).filter(|page| *page < 8 * size));
                }
            }
            prop_assert_eq!(file.take(), pages);
            prop_assert!(file.around().iter().all(|octet| *octet == 0));
        }
    }

    #[test]
    fn marks_of_many_threads_are_all_there() {
        let file = LogFile::new(64, 0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let log = file.log();
                scope.spawn(move || (0..64).for_each(|n| log.mark((n * 8 + thread) << 12, 1)));
            }
        });
        assert_eq!(file.take().len(), 512);
    }
}
