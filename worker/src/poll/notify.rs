//! Waiting. Each thread has two epolls. One of them is for the time on standby: it leaves out the kicks. Each thread
//! also has an eventfd by which other threads nudge it. The control thread also waits for the control socket. If no
//! other thread moves frames, it waits for the kick fds of receive rings, too.
//!
//! Kicks are edge-triggered, and the eventfds are never read: each write is a new edge, and the ring says all that
//! the counter could say. So an fd of the wrong kind causes no hang and no read.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sv3::ids::QueueId;

/// Most events of one wait.
pub const MAX_EVENTS: usize = 64;
const CONTROL: u64 = u64::MAX;
const NUDGE: u64 = u64::MAX - 1;
const CARD: u64 = u64::MAX - 2;

/// Room for the events of one wait.
pub type Events = [EpollEvent; MAX_EVENTS];

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The control socket can be read.
    Control,
    /// Another thread has left work for this one.
    Nudge,
    /// A card raised a vector that is no queue's.
    Card,
    /// A guest kicked, a file has an event, or a card raised a queue's vector. May be stale: the queue may have been removed.
    Kick(QueueId),
}

/// What one thread waits for. The control thread changes it.
pub struct Notify {
    /// All but kicks. Used while the worker is on standby.
    quiet: Epoll,
    /// All, including kicks. Used once the worker serves. Kicks are watched from the start, so that a promotion needs
    /// no work for each ring.
    all: Epoll,
    serves: AtomicBool,
    nudge: EventFd,
}

impl Notify {
    /// Waits for nudges only.
    pub fn new() -> nix::Result<Notify> {
        let epoll = || Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let nudge = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let notify = Notify { quiet: epoll()?, all: epoll()?, serves: AtomicBool::new(false), nudge };
        for epoll in [&notify.quiet, &notify.all] {
            epoll.add(&notify.nudge, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, NUDGE))?;
        }
        Ok(notify)
    }

    /// Also waits for the control socket.
    pub fn watch_control(&self, control: &impl AsFd) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, CONTROL);
        self.quiet.add(control, event)?;
        self.all.add(control, event)
    }

    /// Also waits for kicks from now on.
    pub fn serve(&self) {
        self.serves.store(true, Relaxed);
        self.nudge();
    }

    fn epoll(&self) -> &Epoll {
        if self.serves.load(Relaxed) { &self.all } else { &self.quiet }
    }

    /// Stops waiting for the control socket, except for its end; or waits for it again.
    pub fn heed_control(&self, control: &impl AsFd, heed: bool) {
        let flags = if heed { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let _ = self.epoll().modify(control, &mut EpollEvent::new(flags, CONTROL));
    }

    /// The epoll that also tells of kicks, and what it says in events of this queue.
    pub fn events_of(&self, queue: QueueId) -> (&Epoll, u64) {
        (&self.all, data(queue))
    }

    /// Waits for kicks of a ring, once the worker serves.
    pub fn watch(&self, kick: &OwnedFd, queue: QueueId) -> nix::Result<()> {
        self.all.add(kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data(queue)))
    }

    /// Waits for the vector of a card that is no queue's, once the worker serves. The control thread's alone.
    pub fn watch_card(&self, event: &OwnedFd) -> nix::Result<()> {
        self.all.add(event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, CARD))
    }

    /// Stops waiting for kicks of a ring. Must come before the fd is closed, since the client holds the file as well.
    pub fn forget(&self, kick: &OwnedFd) {
        let _ = self.all.delete(kick);
    }

    /// Wakes the thread, or makes it look again if it is awake.
    pub fn nudge(&self) {
        // Cannot fail: the counter is full only after 2^64 nudges.
        let _ = nix::unistd::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Returns what happened. Waits for that at most `timeout`.
    pub fn wait<'e>(
        &self,
        events: &'e mut Events,
        timeout: EpollTimeout,
    ) -> nix::Result<impl Iterator<Item = Woken> + use<'e>> {
        let count = match self.epoll().wait(events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        Ok(events.iter().take(count).map(|event| match event.data() {
            CONTROL => Woken::Control,
            NUDGE => Woken::Nudge,
            CARD => Woken::Card,
            data => Woken::Kick(QueueId::new((data >> 16) as u16, data as u16)),
        }))
    }
}

/// What the kernel says in events of a queue.
fn data(queue: QueueId) -> u64 {
    u64::from(queue.slot) << 16 | u64::from(queue.index)
}

/// The timeout of a wait that ends at `until`, in nanoseconds. `None`: no timeout.
pub fn until(until: Option<u64>, now: u64) -> EpollTimeout {
    let Some(until) = until else { return EpollTimeout::NONE };
    let ms = until.saturating_sub(now).div_ceil(1_000_000);
    EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::ZERO)
}
