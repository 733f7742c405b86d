//! Asks the kernel about files that clients send.
//!
//! On a FUSE file system, fstat(2) can stall the supervisor, because a process of the client answers it. The kernel
//! alone answers `F_GET_SEALS`, and only files on tmpfs and hugetlbfs have seals. So the supervisor asks for seals
//! first.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};

/// `F_SEAL_FUTURE_WRITE` of linux/fcntl.h: no new mapping for writing.
pub const F_SEAL_FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(0x10);

/// Identifies a file: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(pub u64, pub u64);

/// The size of a file.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Octets.
    pub size: u64,
    /// Octets of the file that exist: pages that some process has touched.
    pub present: u64,
}

/// A memory file, as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryFile {
    /// Identifies the file.
    pub file: FileId,
    /// Its size.
    pub extent: Extent,
    /// Size of a page or huge page, in octets.
    pub block: u64,
    /// Seals.
    pub seals: SealFlag,
    /// Whether it may be mapped for writing.
    pub writable: bool,
}

/// Asks the kernel about fds; a fake in tests.
pub trait Inspect {
    /// Examines a memory file; `None` if the file is not on tmpfs or hugetlbfs.
    fn memory(&self, fd: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>>;
    /// Asks for the size of a memory file that was admitted.
    fn extent(&self, fd: BorrowedFd<'_>) -> io::Result<Extent>;
    /// Whether `fd` is an eventfd; makes it non-blocking if so.
    fn claim_eventfd(&self, fd: BorrowedFd<'_>) -> bool;
}

/// The real kernel. The policy permits fstat(2) and no similar syscall, so this calls fstat(2) itself, whatever the C
/// library would use.
pub struct Kernel;

/// Whether reads and writes of an open file may wait.
pub fn blocks(fd: BorrowedFd<'_>) -> bool {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_or(OFlag::empty(), OFlag::from_bits_retain);
    !flags.contains(OFlag::O_NONBLOCK)
}

fn extent(stat: &rustix::fs::Stat) -> Extent {
    let octets = |count: i64, unit: u64| u64::try_from(count).unwrap_or(0).saturating_mul(unit);
    Extent { size: octets(stat.st_size, 1), present: octets(stat.st_blocks, 512) }
}

impl Inspect for Kernel {
    fn memory(&self, fd: BorrowedFd<'_>) -> io::Result<Option<MemoryFile>> {
        let seals = match fcntl(fd, FcntlArg::F_GET_SEALS) {
            Err(Errno::EINVAL) => return Ok(None),
            seals => SealFlag::from_bits_retain(seals?),
        };
        let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
        let stat = rustix::fs::fstat(fd)?;
        Ok(Some(MemoryFile {
            file: FileId(stat.st_dev, stat.st_ino),
            extent: extent(&stat),
            block: u64::try_from(stat.st_blksize).unwrap_or(0),
            seals,
            writable: mode == OFlag::O_RDWR && !seals.intersects(SealFlag::F_SEAL_WRITE | F_SEAL_FUTURE_WRITE),
        }))
    }

    fn extent(&self, fd: BorrowedFd<'_>) -> io::Result<Extent> {
        Ok(extent(&rustix::fs::fstat(fd)?))
    }

    fn claim_eventfd(&self, fd: BorrowedFd<'_>) -> bool {
        let link = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str());
        link.is_ok_and(|link| link == "anon_inode:[eventfd]")
            && fcntl(fd, FcntlArg::F_GETFL)
                .map(|flags| OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK)
                .and_then(|flags| fcntl(fd, FcntlArg::F_SETFL(flags)))
                .is_ok()
    }
}

/// Names of seals for `sv3 status`.
pub fn seal_names(seals: SealFlag) -> Vec<String> {
    let known = [
        (SealFlag::F_SEAL_SEAL, "seal"),
        (SealFlag::F_SEAL_SHRINK, "shrink"),
        (SealFlag::F_SEAL_GROW, "grow"),
        (SealFlag::F_SEAL_WRITE, "write"),
        (F_SEAL_FUTURE_WRITE, "future_write"),
        (SealFlag::from_bits_retain(0x20), "exec"),
    ];
    known.iter().filter(|(seal, _)| seals.contains(*seal)).map(|(_, name)| name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::eventfd::EventFd;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn only_eventfds_are_eventfds() {
        let eventfd = EventFd::new().unwrap();
        assert!(Kernel.claim_eventfd(eventfd.as_fd()));
        let flags = fcntl(eventfd.as_fd(), FcntlArg::F_GETFL).unwrap();
        assert_ne!(flags & libc::O_NONBLOCK, 0);
        assert!(!Kernel.claim_eventfd(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap().as_fd()));
        assert!(!Kernel.claim_eventfd(nix::unistd::pipe().unwrap().0.as_fd()));
    }
}
