//! Open files that another process opened.
//!
//! The last close of a file may take as long as its owner likes: a TCP socket lingers until its peer has read, a FUSE
//! server is asked to flush, the kernel frees gigabytes of memory page by page. A process that must not wait keeps
//! such files as [`ForeignFd`]s, and says once who closes them ([`close_by`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::OnceLock;

/// Takes a file whose last close may wait.
pub type Closer = fn(Rc<OwnedFd>);

/// Closes foreign files for this process. If it is not set, the process itself closes them.
static CLOSER: OnceLock<Closer> = OnceLock::new();

/// From now on `closer` gets each [`ForeignFd`] that is dropped. It must not wait. Only the first call counts.
pub fn close_by(closer: Closer) {
    let _ = CLOSER.set(closer);
}

/// An open file that another process opened.
pub struct ForeignFd {
    fd: Rc<OwnedFd>,
    prompt: bool,
}

impl ForeignFd {
    /// Marks a file whose last close never waits: an eventfd, or a file of this process itself.
    pub fn prompt(mut self) -> ForeignFd {
        self.prompt = true;
        self
    }

    /// Marks a stream socket that was read to its end: it has no file in transit, so its last close does not wait.
    pub fn has_ended(&mut self) {
        self.prompt = true;
    }
}

impl From<OwnedFd> for ForeignFd {
    fn from(fd: OwnedFd) -> ForeignFd {
        ForeignFd { fd: Rc::new(fd), prompt: false }
    }
}

impl AsFd for ForeignFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for ForeignFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fd.fmt(f)
    }
}

impl Drop for ForeignFd {
    fn drop(&mut self) {
        if let Some(closer) = CLOSER.get().filter(|_| !self.prompt) {
            closer(self.fd.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// What was taken from this thread. The closer belongs to the whole process; in other threads it takes
        /// nothing.
        static TAKEN: RefCell<Option<Vec<Rc<OwnedFd>>>> = const { RefCell::new(None) };
    }

    #[test]
    fn what_another_process_opened_goes_to_the_closer_and_what_is_prompt_is_closed() {
        TAKEN.set(Some(Vec::new()));
        close_by(|fd| TAKEN.with_borrow_mut(|taken| taken.iter_mut().for_each(|taken| taken.push(fd.clone()))));
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        drop(ForeignFd::from(open()));
        drop(ForeignFd::from(open()).prompt());
        let taken = TAKEN.take().unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken.iter().map(Rc::strong_count).sum::<usize>(), 1, "it is the closer's alone");
    }
}
