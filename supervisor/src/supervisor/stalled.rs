//! Finds stalled clients: their call eventfd is full, so the next signal blocks the worker.
//!
//! The supervisor makes call eventfds non-blocking, but that is a property of the open file, and the client can change
//! it back at any time. No write to an eventfd is non-blocking by itself (`RWF_NOWAIT` works only for reads). So the
//! supervisor looks for full eventfds while the worker makes no progress. An eventfd is full after 2^64 - 2 signals,
//! which no honest client reaches, and the kernel says whether it is full. Such a client is disconnected, and the
//! worker that it blocks is replaced.
//!
//! The same holds for the files of ports: whoever opened a tap or a socket may have kept a copy of the fd, and can make
//! it block. Then the next read of an empty tap would never end. Such a port is stopped.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sv3::wire::Refuse;

use super::Supervisor;
use crate::clients::client::Client;
use crate::ports::kernel::blocks;
use crate::telemetry::event::ClientId;

impl Supervisor {
    /// Looks for clients that block the worker. Must be called before the watchdog looks.
    pub(super) fn look_for_stalled(&mut self, now: Instant) {
        let look = self.workers.begin_stall_look(now);
        let found = self.send_away_stalled(look.held_up);
        self.workers.end_stall_look(&look, found);
    }

    /// Disconnects the clients whose call eventfds would block the worker, or may block it now, and stops ports whose
    /// files do. Returns whether there were any.
    pub(super) fn send_away_stalled(&mut self, held_up: bool) -> bool {
        let blocking: Vec<u16> =
            self.clients.slots.all_files().filter(|port| port.blocks()).map(|it| it.slot).collect();
        for slot in &blocking {
            self.close_files_of(*slot, "somebody made its file block, which would hold up all ports");
        }
        let stalled = full_rings(self.clients.served(), held_up);
        let mut blamed = Vec::new();
        for (id, ring) in &stalled {
            let holder = self.clients.slots.holder(id.slot);
            let why = format!("the call eventfd of ring {ring} is full, so a signal would block the worker");
            self.refuse(id.slot, Refuse(why).into());
            if let Some(holder) = holder {
                self.blame_once(&mut blamed, holder, false);
            }
        }
        !(stalled.is_empty() && blocking.is_empty())
    }
}

/// Ports, each with a ring whose call eventfd is full and blocking, or, with `at_all`, full in any mode. One poll(2)
/// asks for all, because guests wait meanwhile.
fn full_rings<'p>(ports: impl Iterator<Item = &'p Client>, at_all: bool) -> Vec<(ClientId, u16)> {
    let calls = |client: &'p Client| {
        let rings = client.device().rings();
        rings.filter_map(move |(index, ring)| Some((client.id, index, ring.call.as_ref()?)))
    };
    let calls: Vec<_> = ports.flat_map(calls).collect();
    let mut fds: Vec<_> = calls.iter().map(|(.., call)| PollFd::new(call.as_fd(), PollFlags::POLLOUT)).collect();
    if poll(&mut fds, PollTimeout::ZERO).is_err() {
        return Vec::new();
    }
    let full = |fd: &PollFd<'_>| fd.revents().is_some_and(|ready| !ready.contains(PollFlags::POLLOUT));
    let blocking = calls.iter().zip(&fds).filter(|(_, fd)| full(fd) && (at_all || blocks(fd.as_fd())));
    let mut stalled: Vec<_> = blocking.map(|((id, index, _), _)| (*id, *index)).collect();
    stalled.dedup_by_key(|(id, _)| id.slot);
    stalled
}
