//! Memory admission: which regions a client may give to the worker.
//!
//! The worker maps these files and accesses them where the guest says. So a page fault in a file must not stall (tmpfs,
//! memfd, hugetlbfs: no network or FUSE file system behind it), and the file must be as long as its region says. A
//! client can truncate an unsealed file later: then the worker dies of SIGBUS, and the client is to blame.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use nix::fcntl::SealFlag;
use sv3::foreign::ForeignFd;
use sv3::ipc::{LOG_GUEST_ADDR, Region};
use sv3::wire::Refuse;
use sv3::wire::vhost_user::MemoryRegion;

use crate::ports::kernel::{Extent, FileId, Inspect, MemoryFile};

/// Most octets of memory that one client may have mapped: all clients share the worker's 128 TiB of address space.
const CLIENT_MEMORY_MAX: u64 = 8 << 40;
/// How often a client may have each octet of its files mapped, on average. Front-ends map each part of a file once,
/// though in several regions, and regions that overlap by some pages do no harm. With this bound the worker's page
/// tables for a client take at most this many 512ths of the sizes of its files.
const ALIASES_MAX: u64 = 2;
/// Octets that a client may have mapped in any case: page tables for these are small.
const ALIASED_MIN: u64 = 16 << 20;

/// Most octets of a log of dirty pages: enough for guest addresses of 32 TiB.
const LOG_MAX: u64 = 1 << 30;

/// One admitted region, or a log.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The region, as the worker is told of it.
    pub region: Region,
    /// The file.
    pub fd: Rc<ForeignFd>,
    /// Identifies the file.
    pub file: FileId,
    /// Octets of the file when it was admitted.
    pub file_size: u64,
    /// Octets of the file that existed then: pages that some process had touched.
    pub present: u64,
    /// `F_SEAL_*` bits of the file.
    pub seals: SealFlag,
}

impl Memory {
    /// Why the client is refused, if the region's file has been truncated since it was admitted.
    pub fn truncated(&self, kernel: &dyn Inspect) -> Option<Refuse> {
        let Region { size, offset, .. } = self.region;
        let needed = offset.saturating_add(size);
        let now = kernel.extent(self.fd.as_fd()).ok()?.size;
        (now < needed).then(|| {
            Refuse(format!("{}: its file was truncated to {now} octets and must be at least {needed}", self.words()))
        })
    }

    fn words(&self) -> String {
        match self.region {
            Region { guest_addr: LOG_GUEST_ADDR, size, .. } => format!("log of dirty pages ({size} octets)"),
            Region { guest_addr, size, .. } => {
                format!("memory region at guest address {guest_addr:#x} ({size} octets)")
            }
        }
    }

    /// Why the client is refused, if the region's file has changed since it was admitted so that a worker can no longer
    /// map it or must not access it.
    pub fn unusable(&self, kernel: &dyn Inspect) -> Option<Refuse> {
        self.truncated(kernel).or_else(|| self.sealed(kernel))
    }

    fn sealed(&self, kernel: &dyn Inspect) -> Option<Refuse> {
        let file = kernel.memory(self.fd.as_fd()).ok().flatten()?;
        (!file.writable).then(|| {
            Refuse(format!(
                "{}: it can no longer be mapped: its file was sealed against writing since it was admitted",
                self.words()
            ))
        })
    }
}

/// Admits a region, given the regions that the client has (`held`). `index` is its position in the client's message.
pub fn admit(
    held: &[Memory],
    (index, wanted): (usize, MemoryRegion),
    fd: ForeignFd,
    kernel: &dyn Inspect,
) -> Result<Memory, Refuse> {
    let refuse = |why: String| {
        let MemoryRegion { guest_addr, size, .. } = wanted;
        Refuse(format!("memory region {index} (guest address {guest_addr:#x}, {size} octets): {why}"))
    };
    let file = examine((wanted.offset, wanted.size), fd.as_fd(), kernel).map_err(refuse)?;
    for (name, start) in [("guest", wanted.guest_addr), ("user", wanted.user_addr)] {
        start.checked_add(wanted.size).ok_or_else(|| refuse(format!("its {name} addresses overflow")))?;
    }
    for other in held.iter().map(|memory| memory.region) {
        let overlaps = |a: u64, b: u64| a < b.saturating_add(other.size) && b < a.saturating_add(wanted.size);
        if overlaps(wanted.guest_addr, other.guest_addr) || overlaps(wanted.user_addr, other.user_addr) {
            return Err(refuse(format!("it overlaps the region at guest address {:#x}", other.guest_addr)));
        }
    }
    let total = held.iter().fold(wanted.size, |sum, memory| sum.saturating_add(memory.region.size));
    if total > CLIENT_MEMORY_MAX {
        return Err(refuse(format!("with it the client's memory is {total} octets, more than {CLIENT_MEMORY_MAX}")));
    }
    let MemoryRegion { guest_addr, size, user_addr, offset } = wanted;
    let region = Region { guest_addr, size, user_addr, offset, block: file.block };
    let Extent { size: file_size, present } = file.extent;
    Ok(Memory { region, fd: Rc::new(fd), file: file.file, file_size, present, seals: file.seals })
}

/// Admits a log of dirty pages: that many octets of its file, from an offset on.
pub fn admit_log((offset, size): (u64, u64), fd: ForeignFd, kernel: &dyn Inspect) -> Result<Memory, Refuse> {
    let refuse = |why: String| Refuse(format!("log of dirty pages ({size} octets): {why}"));
    let file = examine((offset, size), fd.as_fd(), kernel).map_err(refuse)?;
    if size > LOG_MAX {
        return Err(refuse(format!("it is larger than {LOG_MAX}")));
    }
    let region = Region { guest_addr: LOG_GUEST_ADDR, size, user_addr: 0, offset, block: file.block };
    let Extent { size: file_size, present } = file.extent;
    Ok(Memory { region, fd: Rc::new(fd), file: file.file, file_size, present, seals: file.seals })
}

/// Looks whether a worker may map and write a range of a file: offset and size.
fn examine((offset, size): (u64, u64), fd: BorrowedFd<'_>, kernel: &dyn Inspect) -> Result<MemoryFile, String> {
    let file = kernel.memory(fd).map_err(|error| format!("its file cannot be examined: {error}"))?;
    let Some(file) = file else {
        return Err("its file is not on tmpfs or hugetlbfs; use memory-backend-memfd with share=on".to_string());
    };
    if !file.writable {
        return Err("its file is not open for writing, or is sealed against writing".to_string());
    }
    if size == 0 {
        return Err("it is empty".to_string());
    }
    let needed = offset.checked_add(size).ok_or("its end overflows")?;
    let file_size = file.extent.size;
    if needed > file_size {
        return Err(format!(
            "its file is {file_size} octets long and must be at least {needed} (offset {offset} and size)"
        ));
    }
    Ok(file)
}

/// Why a table is refused, if it maps the same octets of files too often.
pub fn aliased<'m>(table: impl Iterator<Item = &'m Memory> + Clone) -> Option<String> {
    let mapped = table.clone().fold(0, |sum: u64, memory| sum.saturating_add(memory.region.size));
    let files =
        distinct(table.map(|memory| (memory.file, memory.file_size))).into_values().fold(0, u64::saturating_add);
    (mapped > files.saturating_mul(ALIASES_MAX).max(ALIASED_MIN)).then(|| {
        format!(
            "the client's regions would be {mapped} octets, more than {ALIASES_MAX} times its files, which are \
             {files}: it maps the same octets again and again"
        )
    })
}

/// Each file once, with the largest of its numbers.
pub fn distinct(files: impl Iterator<Item = (FileId, u64)>) -> BTreeMap<FileId, u64> {
    let mut all = BTreeMap::new();
    for (file, figure) in files {
        let known = all.entry(file).or_insert(figure);
        *known = figure.max(*known);
    }
    all
}

/// Octets of a client's files that exist now, and that existed when they were admitted; each file counts once.
pub fn present(memory: &[Memory], kernel: &dyn Inspect) -> (u64, u64) {
    let sum = |files: BTreeMap<FileId, u64>| files.into_values().fold(0, u64::saturating_add);
    let now = memory.iter().filter_map(|memory| Some((memory.file, kernel.extent(memory.fd.as_fd()).ok()?.present)));
    let then = memory.iter().map(|memory| (memory.file, memory.present));
    (sum(distinct(now)), sum(distinct(then)))
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::ports::kernel::{F_SEAL_FUTURE_WRITE, Kernel, seal_names};

    fn memfd(size: i64) -> OwnedFd {
        let fd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, size).unwrap();
        fd
    }

    fn region(guest_addr: u64, size: u64, user_addr: u64, offset: u64) -> MemoryRegion {
        MemoryRegion { guest_addr, size, user_addr, offset }
    }

    fn try_admit(held: &[Memory], wanted: MemoryRegion, fd: OwnedFd) -> Result<Memory, String> {
        admit(held, (0, wanted), fd.into(), &Kernel).map_err(|refuse| refuse.0)
    }

    #[test]
    fn a_memfd_of_the_right_size_is_admitted_with_its_seals() {
        let fd = memfd(0x3000);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        let memory = try_admit(&[], region(0, 0x2000, 0x7000_0000, 0x1000), fd).unwrap();
        assert_eq!((memory.file_size, memory.region.block), (0x3000, 4096));
        assert_eq!(seal_names(memory.seals), ["shrink"]);
    }

    #[test]
    fn a_short_file_is_refused_with_both_lengths() {
        let error = try_admit(&[], region(0x1000, 0x2000, 0, 0x1001), memfd(0x3000)).unwrap_err();
        let wanted = "memory region 0 (guest address 0x1000, 8192 octets): its file is 12288 octets long and must be \
                      at least 12289 (offset 4097 and size)";
        assert_eq!(error, wanted);
    }

    #[test]
    fn a_file_that_is_truncated_later_is_found_out() {
        let file = memfd(0x3000);
        let same = file.try_clone().unwrap();
        let memory = try_admit(&[], region(0x1000, 0x2000, 0, 0x1000), same).unwrap();
        assert!(memory.truncated(&Kernel).is_none());
        nix::unistd::ftruncate(&file, 0x2fff).unwrap();
        let words = memory.truncated(&Kernel).unwrap().0;
        assert!(words.contains("0x1000") && words.contains("12287") && words.contains("12288"), "{words}");
    }

    #[test]
    fn a_file_that_is_sealed_later_is_found_out_if_it_can_no_longer_be_mapped() {
        let seal = |file: &OwnedFd, seal| fcntl(file, FcntlArg::F_ADD_SEALS(seal)).unwrap();
        for (number, harm) in [
            (SealFlag::F_SEAL_WRITE, true),
            (F_SEAL_FUTURE_WRITE, true),
            (SealFlag::F_SEAL_SHRINK, false),
            (SealFlag::F_SEAL_GROW, false),
            (SealFlag::F_SEAL_SEAL, false),
        ] {
            let file = memfd(0x1000);
            let memory = try_admit(&[], region(0x1000, 0x1000, 0, 0), file.try_clone().unwrap()).unwrap();
            assert!(memory.unusable(&Kernel).is_none());
            seal(&file, number);
            let words = memory.unusable(&Kernel).map(|refuse| refuse.0);
            assert_eq!(
                words.is_some_and(|words| words.contains("0x1000") && words.contains("sealed")),
                harm,
                "{number:?}"
            );
        }
    }

    #[test]
    fn overflows_are_refused() {
        let max = u64::MAX;
        assert!(try_admit(&[], region(0, 0x1000, 0, max), memfd(0x1000)).unwrap_err().contains("end overflows"));
        assert!(try_admit(&[], region(max, 0x1000, 0, 0), memfd(0x1000)).unwrap_err().contains("guest addresses"));
        assert!(try_admit(&[], region(0, 0x1000, max, 0), memfd(0x1000)).unwrap_err().contains("user addresses"));
        assert!(try_admit(&[], region(0, 0, 0, 0), memfd(0x1000)).unwrap_err().contains("empty"));
        assert!(try_admit(&[], region(0, 9 << 40, 0, 0), memfd(9 << 40)).unwrap_err().contains("more than"));
    }

    #[test]
    fn overlaps_are_refused_and_neighbours_are_not() {
        let held = [try_admit(&[], region(0x1000, 0x1000, 0x10_0000, 0), memfd(0x1000)).unwrap()];
        try_admit(&held, region(0x2000, 0x1000, 0x10_1000, 0), memfd(0x1000)).unwrap();
        try_admit(&held, region(0, 0x1000, 0xf_f000, 0), memfd(0x1000)).unwrap();
        assert!(try_admit(&held, region(0x1fff, 1, 0, 0), memfd(0x1000)).unwrap_err().contains("overlaps"));
        assert!(try_admit(&held, region(0, 1, 0x10_0fff, 0), memfd(0x1000)).unwrap_err().contains("overlaps"));
    }

    #[test]
    fn the_same_octets_cannot_be_mapped_again_and_again() {
        const MIB: u64 = 1 << 20;
        let (file, other) = (memfd(16 << 20), memfd(16 << 20));
        let clone = |file: &OwnedFd| file.try_clone().unwrap();
        let mut held = Vec::new();
        // As QEMU does: one file in several regions.
        for at in [0, 8 * MIB] {
            held.push(try_admit(&held, region(at, 8 * MIB, at, at), clone(&file)).unwrap());
        }
        held.push(try_admit(&held, region(64 * MIB, 16 * MIB, 64 * MIB, 0), clone(&file)).unwrap());
        assert_eq!(aliased(held.iter()), None);
        held.push(try_admit(&held, region(128 * MIB, 0x1000, 128 * MIB, 0), file).unwrap());
        let error = aliased(held.iter()).unwrap();
        assert!(error.contains("33558528 octets, more than 2 times its files, which are 16777216"), "{error}");
        held.push(try_admit(&held, region(256 * MIB, 16 * MIB, 256 * MIB, 0), other).unwrap());
        assert_eq!(aliased(held.iter()), None);
        let (small, mut held) = (memfd(0x1000), Vec::new());
        for n in 0..300 {
            held.push(try_admit(&held, region(n * MIB, 0x1000, n * MIB, 0), clone(&small)).unwrap());
        }
        assert_eq!(aliased(held.iter()), None, "so little does not matter");
    }

    #[test]
    fn what_exists_of_files_counts_each_file_once() {
        let file = memfd(0x10000);
        nix::unistd::write(&file, &[1; 0x1000]).unwrap();
        let clone = || file.try_clone().unwrap();
        let first = try_admit(&[], region(0, 0x8000, 0, 0), clone()).unwrap();
        let second = try_admit(&[], region(0x10_0000, 0x8000, 0, 0x8000), clone()).unwrap();
        let memory = [first, second];
        assert_eq!(present(&memory, &Kernel), (0x1000, 0x1000));
        nix::unistd::write(&file, &[1; 0x2000]).unwrap();
        assert_eq!(present(&memory, &Kernel), (0x3000, 0x1000));
    }

    #[test]
    fn files_that_could_stall_a_page_fault_are_refused() {
        let zero = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(try_admit(&[], region(0, 0x1000, 0, 0), zero.into()).unwrap_err().contains("tmpfs"));
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(try_admit(&[], region(0, 0x1000, 0, 0), pipe).unwrap_err().contains("tmpfs"));
    }

    #[test]
    fn files_that_cannot_be_written_are_refused() {
        let sealed = memfd(0x1000);
        fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(try_admit(&[], region(0, 0x1000, 0, 0), sealed).unwrap_err().contains("writing"));
        let fd = memfd(0x1000);
        let read_only = std::fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert!(try_admit(&[], region(0, 0x1000, 0, 0), read_only.into()).unwrap_err().contains("writing"));
    }
}
