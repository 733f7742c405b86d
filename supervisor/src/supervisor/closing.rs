//! What is closed and by whom: each turn of the loop, what was dropped of strangers' files goes to the closers, and
//! those who cause more of that than is done are not listened to meanwhile.

use std::time::Instant;

use serde_json::json;

use super::{SPAWNER_GONE, Supervisor};
use crate::workers::closers;

impl Supervisor {
    /// Hands all that was dropped to the closers. Returns how many files that were.
    pub(super) fn put_aside(&mut self) -> usize {
        let dropped = closers::dropped();
        let count = dropped.len();
        for fd in dropped {
            // It stays open for a while, and nothing that happens to it is of interest.
            self.reactor.forget(&fd);
            self.workers.closers.take(fd);
        }
        count
    }

    /// Has closed what can be closed now, and sees to it that there is somebody to do so.
    pub(super) fn close_files(&mut self) {
        self.put_aside();
        if self.workers.close_files(&self.reactor).is_err() {
            self.over.get_or_insert(Err(SPAWNER_GONE.to_string()));
        }
    }

    /// Sees to closers that all wait.
    pub(super) fn expire_closers(&mut self, now: Instant) {
        if self.workers.closers.expire(now) {
            let (crew, backlog) = (self.workers.closers.crew().len(), self.workers.closers.backlog());
            let message = format!(
                "all {crew} closers have waited for a second to close files that clients gave; there will be one more; \
                 {backlog} files wait to be closed"
            );
            self.telemetry.events.say_with("stuck_close", message, json!({ "files": backlog }));
        }
    }

    /// Whether a client has to wait until what it caused is done: commands that a worker has not been told, files that
    /// are not closed, memory that is not unmapped. So many of these that new ones may find no number: everybody
    /// waits.
    pub(super) fn must_wait(&mut self, slot: u16) -> bool {
        let fills = self.workers.is_filled_by(slot);
        let litters = self.workers.closers.is_behind() && {
            let round = self.workers.closers.round();
            self.clients.slots.client(slot).is_some_and(|client| client.left_files == Some(round))
        };
        let is_short = self.clients.budget.is_short(self.workers.closers.backlog());
        fills || litters || is_short || self.clients.is_strained(slot)
    }

    /// Listens again to those who do not have to wait any more.
    pub(super) fn listen_again(&mut self) {
        for slot in self.clients.take_halted() {
            self.update_interest(slot);
        }
    }
}
