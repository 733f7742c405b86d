//! Waiting: one epoll for the control socket and the kick fds of transmit rings.
//!
//! Kicks are edge-triggered and the eventfds never read: each write is a new edge, and the counter's value says nothing
//! that the ring does not. So an fd of the wrong kind costs no hang and no read.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Most events of one wait.
pub const MAX_EVENTS: usize = 64;
const CONTROL: u64 = u64::MAX;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The control socket can be read.
    Control,
    /// A guest kicked: slot, vring index. May be stale: the ring may be gone.
    Kick(u16, u16),
}

/// The epoll.
pub struct Notify {
    epoll: Epoll,
    events: [EpollEvent; MAX_EVENTS],
}

impl Notify {
    /// An epoll that waits for `control`.
    pub fn new(control: &impl AsFd) -> nix::Result<Notify> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(control, EpollEvent::new(EpollFlags::EPOLLIN, CONTROL))?;
        Ok(Notify { epoll, events: [EpollEvent::empty(); MAX_EVENTS] })
    }

    /// Waits for kicks of a ring.
    pub fn watch(&self, kick: &OwnedFd, slot: u16, ring: u16) -> nix::Result<()> {
        let data = u64::from(slot) << 16 | u64::from(ring);
        self.epoll.add(kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data))
    }

    /// Waits no more; before the fd is closed, since the client holds the file as well.
    pub fn forget(&self, kick: &OwnedFd) {
        let _ = self.epoll.delete(kick);
    }

    /// What has happened; `block`: waits until something does.
    pub fn wait(&mut self, block: bool) -> nix::Result<impl Iterator<Item = Woken> + '_> {
        let timeout = if block { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        Ok(self.events.iter().take(count).map(|event| match event.data() {
            CONTROL => Woken::Control,
            data => Woken::Kick((data >> 16) as u16, data as u16),
        }))
    }
}
