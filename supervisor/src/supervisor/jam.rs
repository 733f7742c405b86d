//! Clients that jam the worker: whose call eventfd is full, so that the next signal blocks it.
//!
//! We make call eventfds non-blocking, but that is a property of the open file, which the client holds as well and can
//! change back at any time. There is no way to write to an eventfd that heeds nothing else (`RWF_NOWAIT` is for reading it
//! alone). So what holds the worker up is looked for while it has something to do: an eventfd is full after 2^64 - 2
//! signals, which no honest one ever sees, and a file that is full is a fact that needs nobody's word. Such a client is
//! sent away, and the worker that waits for it is replaced.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sv3::wire::Refuse;

use super::Supervisor;
use crate::clients::client::Client;
use crate::telemetry::event::Who;

/// How long the worker may be at an order until one looks what holds it up, and the time between two looks.
const LOOK: Duration = Duration::from_millis(20);

impl Supervisor {
    /// When to look next, if at all. What is looked at while frames pass goes by the watchdog's time.
    pub(super) fn jam_due(&self) -> Option<Instant> {
        let asked = self.worker.as_ref()?.waits_since()?;
        Some(self.jam_look.map_or(asked, |last| last.max(asked)) + LOOK)
    }

    /// Looks, if it is time to. To be called before the watchdog has looked.
    pub(super) fn expire_jams(&mut self, now: Instant) {
        let waits = self.jam_due().is_some_and(|due| due <= now);
        if !waits && self.watchdog.due().is_none_or(|due| due > now) {
            return;
        }
        self.jam_look = Some(now);
        let area = self.worker.as_ref().and_then(|worker| self.ledger.workers.get(usize::from(worker.area)));
        let held_up = waits || area.is_some_and(|area| self.watchdog.stands_still(area));
        // One that was sent away at the last look may have blocked the worker already.
        let jammed = std::mem::take(&mut self.jammed);
        let found = self.send_away_jammers(held_up);
        match self.worker.as_mut().filter(|_| held_up && (found || jammed)) {
            Some(worker) => worker.kill("a client's call eventfd was full, and a signal blocked it"),
            None => self.jammed = found,
        }
    }

    /// Sends away the clients whose call eventfds would block the worker, and those where they may block it now. Returns
    /// whether there were any.
    pub(super) fn send_away_jammers(&mut self, held_up: bool) -> bool {
        let jammers = full_rings(self.slots.ports().filter(|port| port.quarantine.is_none()), held_up);
        let mut blamed = Vec::new();
        for (who, ring) in &jammers {
            let holder = self.slots.holder(who.slot);
            let why = format!("the call eventfd of ring {ring} is full, so that a signal blocks who writes it");
            self.refuse(who.slot, Refuse(why).into());
            if let Some(holder) = holder {
                self.blame_once(&mut blamed, holder, false);
            }
        }
        !jammers.is_empty()
    }
}

/// Ports, each with a ring whose call eventfd is full and blocks, or is full at all. All are asked for at once, since guests
/// wait while this is done.
fn full_rings<'p>(ports: impl Iterator<Item = &'p Client>, at_all: bool) -> Vec<(Who, u16)> {
    let calls = |port: &'p Client| {
        let rings = port.device().rings();
        rings.filter_map(move |(index, ring)| Some((port.who, index, ring.call.as_ref()?)))
    };
    let calls: Vec<_> = ports.flat_map(calls).collect();
    let mut fds: Vec<_> = calls.iter().map(|(.., call)| PollFd::new(call.as_fd(), PollFlags::POLLOUT)).collect();
    if poll(&mut fds, PollTimeout::ZERO).is_err() {
        return Vec::new();
    }
    let full = |fd: &PollFd<'_>| fd.revents().is_some_and(|ready| !ready.contains(PollFlags::POLLOUT));
    let blocks = |fd: &PollFd<'_>| {
        let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL).map_or(OFlag::empty(), OFlag::from_bits_retain);
        at_all || !flags.contains(OFlag::O_NONBLOCK)
    };
    let jams = calls.iter().zip(&fds).filter(|(_, fd)| full(fd) && blocks(fd));
    let mut jammers: Vec<_> = jams.map(|((who, index, _), _)| (*who, *index)).collect();
    jammers.dedup_by_key(|(who, _)| who.slot);
    jammers
}
