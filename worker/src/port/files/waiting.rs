//! Waiting until a file can be written.

use std::os::fd::BorrowedFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::port::Port;

/// How the thread that owns a queue pair is woken by its file, and where it notes that.
#[derive(Clone, Copy)]
pub struct Waiting {
    epoll: &'static Epoll,
    /// What the epoll says in an event.
    data: u64,
    port: &'static Port,
    pair: u16,
}

/// What wakes the thread always: something to read, or the end.
const ALWAYS: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

impl Waiting {
    /// Events of a queue pair's file are told by `epoll` with `data`, and noted in `port`.
    pub fn new((epoll, data): (&'static Epoll, u64), port: &'static Port, pair: u16) -> Waiting {
        Waiting { epoll, data, port, pair }
    }

    /// Begins to watch the file.
    pub fn begin(&self, file: BorrowedFd<'_>) -> nix::Result<()> {
        self.epoll.add(file, EpollEvent::new(ALWAYS, self.data))
    }

    /// Stops watching the file. Must come before the fd is closed, since the supervisor has the file as well.
    pub fn end(&self, file: BorrowedFd<'_>) {
        let _ = self.epoll.delete(file);
    }

    /// Asks for an event when the file can be written, or at once if it can be. An earlier event does not count.
    pub fn ask(&self, file: BorrowedFd<'_>) {
        self.port.take_event(self.pair);
        self.watch(file, ALWAYS | EpollFlags::EPOLLOUT);
    }

    /// Asks for no such event any more.
    pub fn unask(&self, file: BorrowedFd<'_>) {
        self.watch(file, ALWAYS);
    }

    fn watch(&self, file: BorrowedFd<'_>, flags: EpollFlags) {
        // If this fails, the sender's pause ends by its timeout.
        let _ = self.epoll.modify(file, &mut EpollEvent::new(flags, self.data));
    }

    /// Whether an event came since the last [`Waiting::ask`].
    pub fn is_over(&self) -> bool {
        self.port.has_event(self.pair)
    }
}
