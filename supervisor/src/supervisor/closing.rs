//! Closing of clients' files. In each turn of the loop, the closers get the files that were dropped. The supervisor
//! does not read from clients that drop files faster than the closers close them.

use std::time::Instant;

use serde_json::json;

use super::{SPAWNER_GONE, Supervisor};
use crate::workers::closers;

impl Supervisor {
    /// Gives all dropped files to the closers. Returns how many.
    pub(super) fn put_aside(&mut self) -> usize {
        let dropped = closers::dropped();
        let count = dropped.len();
        for fd in dropped {
            // It stays open for a while, but its events no longer matter.
            self.reactor.forget(&fd);
            self.workers.closers.take(fd);
        }
        count
    }

    /// Tells the closers which files to close, and asks for closers if some are missing.
    pub(super) fn close_files(&mut self) {
        self.put_aside();
        if self.workers.close_files(&self.reactor).is_err() {
            self.over.get_or_insert(Err(SPAWNER_GONE.to_string()));
        }
    }

    /// Handles closers that all wait.
    pub(super) fn expire_closers(&mut self, now: Instant) {
        if self.workers.closers.expire(now) {
            let (count, backlog) = (self.workers.closers.pids().len(), self.workers.closers.backlog());
            let message = format!(
                "all {count} closers have waited for a second to close files of clients; the supervisor starts one \
                 more; {backlog} files wait to be closed"
            );
            self.telemetry.events.say_with("stuck_close", message, json!({ "files": backlog }));
        }
    }

    /// Whether a client must wait until the work that it caused is done: commands that are not sent, files that are not
    /// closed, memory that is not unmapped. If so many files wait that fd numbers may run out, all clients wait.
    pub(super) fn must_wait(&mut self, slot: u16) -> bool {
        let fills = self.workers.is_filled_by(slot);
        let drops_files = self.workers.closers.is_behind() && {
            let round = self.workers.closers.round();
            self.clients.slots.client(slot).is_some_and(|client| client.left_files == Some(round))
        };
        let is_short = self.clients.budget.is_short(self.workers.closers.backlog());
        fills || drops_files || is_short || self.clients.is_strained(slot)
    }

    /// Reads again from clients that need not wait any longer.
    pub(super) fn listen_again(&mut self) {
        for slot in self.clients.take_halted() {
            self.update_interest(slot);
        }
    }
}
