//! Waiting: an epoll for each thread, and one more while the worker is on standby, for the kick fds of its transmit rings; the control thread's is for the control
//! socket, too, and for the kick fds of receive rings if no other thread moves frames. Each has an eventfd beside, by which
//! others nudge it.
//!
//! Kicks are edge-triggered and the eventfds never read: each write is a new edge, and the counter's value says nothing
//! that the ring does not. So an fd of the wrong kind costs no hang and no read.

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

/// Room for the events of one wait.
pub type Events = [EpollEvent; MAX_EVENTS];

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The control socket can be read.
    Control,
    /// Another thread has left something to be done.
    Nudge,
    /// A guest kicked. May be stale: the queue may be gone.
    Kick(QueueId),
}

/// What one thread waits by, which the control thread changes.
pub struct Notify {
    /// For all but kicks: while the worker is on standby.
    quiet: Epoll,
    /// For all, once it serves. Kicks are watched from the start, so that there is nothing to do for each ring then.
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

    /// Waits for the control socket, too.
    pub fn watch_control(&self, control: &impl AsFd) -> nix::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, CONTROL);
        self.quiet.add(control, event)?;
        self.all.add(control, event)
    }

    /// Waits for kicks as well from now on.
    pub fn serve(&self) {
        self.serves.store(true, Relaxed);
        self.nudge();
    }

    fn epoll(&self) -> &Epoll {
        if self.serves.load(Relaxed) { &self.all } else { &self.quiet }
    }

    /// Waits for the control socket no more, but for its end; or waits again.
    pub fn heed_control(&self, control: &impl AsFd, heed: bool) {
        let flags = if heed { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let _ = self.epoll().modify(control, &mut EpollEvent::new(flags, CONTROL));
    }

    /// Waits for kicks of a ring, once the worker serves.
    pub fn watch(&self, kick: &OwnedFd, queue: QueueId) -> nix::Result<()> {
        let data = u64::from(queue.slot) << 16 | u64::from(queue.index);
        self.all.add(kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data))
    }

    /// Waits no more; before the fd is closed, since the client holds the file as well.
    pub fn forget(&self, kick: &OwnedFd) {
        let _ = self.all.delete(kick);
    }

    /// Wakes the thread, or has it look around if it is awake.
    pub fn nudge(&self) {
        // Full it would be after 2^64 nudges.
        let _ = nix::unistd::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// What has happened; waits until something does for at most `timeout`.
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
            data => Woken::Kick(QueueId::new((data >> 16) as u16, data as u16)),
        }))
    }
}

/// The timeout of a wait that ends at `until`, in nanoseconds; `None`: when something happens.
pub fn until(until: Option<u64>, now: u64) -> EpollTimeout {
    let Some(until) = until else { return EpollTimeout::NONE };
    let ms = until.saturating_sub(now).div_ceil(1_000_000);
    EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::ZERO)
}
