//! Files that a service manager leaves open for a process that it starts, and their names (sd_listen_fds(3)): the sockets
//! of socket activation, and what the last process left in its file descriptor store.
//!
//! The manager counts them from number 3 on, and says in the environment how many there are, for which process, and what
//! each is called. They stay open as long as nobody closes them, and programs that this process starts inherit them.
#![allow(unsafe_code)] // fds by number have no safe form

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The number of the first one (SD_LISTEN_FDS_START).
pub const FIRST: RawFd = 3;
/// Most files that are looked at. No unit passes as many.
const MOST: usize = 4096;

/// A file that the service manager passed.
#[derive(Debug)]
pub struct Passed {
    /// What the manager calls it (FileDescriptorName=, FDNAME=); several may have one name.
    pub name: String,
    /// A duplicate, which is closed on exec.
    pub fd: OwnedFd,
}

/// How many files were passed to this process.
pub fn count() -> usize {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    let is_ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    number("LISTEN_FDS").filter(|count| is_ours && *count <= MOST).unwrap_or(0)
}

/// Duplicates of the files. It is an error if one of them is not open.
pub fn duplicates() -> io::Result<Vec<Passed>> {
    // A duplicate must not take the number of a file that is missing.
    each().try_for_each(|fd| fcntl(fd, FcntlArg::F_GETFD).map(drop))?;
    let named = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = named.split(':');
    let file = |fd: BorrowedFd<'_>| {
        let name = names.next().unwrap_or_default().to_string();
        Ok(Passed { name, fd: fd.try_clone_to_owned()? })
    };
    each().map(file).collect()
}

/// Lets programs that this process starts or becomes have the files, or not.
pub fn pass_on(may: bool) -> io::Result<()> {
    let flags = if may { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    each().try_for_each(|fd| Ok(fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)?))
}

fn each() -> impl Iterator<Item = BorrowedFd<'static>> {
    (FIRST..).take(count()).map(|number| {
        // SAFETY: the service manager opened it for this process, which closes none of them by its number before it is
        // done with them. If one is not open, calls for it fail.
        unsafe { BorrowedFd::borrow_raw(number) }
    })
}
