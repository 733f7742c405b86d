//! The only epoll of the process. [`Token`]s say which file an event is about.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::token::Token;

/// Most events that one wait returns.
const EVENTS_MAX: usize = 64;

/// How long a wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Not,
    /// Until then.
    Until(Instant),
    /// Until something happens.
    Forever,
}

/// The files that are watched.
pub struct Reactor {
    epoll: Epoll,
}

impl Reactor {
    /// Watches no file yet.
    pub fn new() -> io::Result<Reactor> {
        Ok(Reactor { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Watches a file from now on.
    pub fn watch(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.encode()))?)
    }

    /// Changes the events of a watched file. This fails only if the file is not watched, and then there is nothing to
    /// do.
    pub fn change(&self, fd: impl AsFd, token: Token, flags: EpollFlags) {
        let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, token.encode()));
    }

    /// Stops watching a file, if it was watched.
    pub fn forget(&self, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
    }

    /// Waits for events. Urgent ones ([`Token::is_urgent`]) come first.
    pub fn wait(&self, wait: Wait) -> nix::Result<Vec<(Token, EpollFlags)>> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, timeout(wait)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        let events = events.iter().take(count);
        let mut ready: Vec<_> =
            events.filter_map(|event| Some((Token::decode(event.data())?, event.events()))).collect();
        ready.sort_by_key(|(token, _)| !token.is_urgent());
        Ok(ready)
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// The timeout in milliseconds, rounded up, so that the deadline has passed when the wait ends.
fn timeout(wait: Wait) -> EpollTimeout {
    match wait {
        Wait::Not => EpollTimeout::ZERO,
        Wait::Until(due) => {
            let ms = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
        }
        Wait::Forever => EpollTimeout::NONE,
    }
}
