//! What is closed and by whom: each turn of the loop, what was dropped of strangers' files goes to the undertakers, and
//! those who cause more of that than is done are not listened to meanwhile.

use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use serde_json::json;

use super::Supervisor;
use super::token::Token;
use crate::workers::undertaker;

impl Supervisor {
    /// Hands all that was dropped to the undertakers. Returns how many files that were.
    pub(super) fn put_aside(&mut self) -> usize {
        let dropped = undertaker::dropped();
        let count = dropped.len();
        for fd in dropped {
            // It stays open for a while, and nothing that happens to it is of interest.
            self.reactor.forget(&fd);
            self.undertaker.take(fd);
        }
        count
    }

    /// Has closed what can be closed now, and sees to it that there is somebody to do so.
    pub(super) fn close_files(&mut self) {
        self.put_aside();
        self.undertaker.pause(self.life.starts_a_worker());
        self.undertaker.tell();
        for _ in 0..self.undertaker.missing(Instant::now()) {
            match self.spawner.dig(self.undertaker.tools()) {
                Ok(()) => self.life.asked_for_undertaker(),
                Err(_) => self.undertaker.started(None),
            }
        }
        if self.spawner.flush().is_err() {
            self.over.get_or_insert(Err("the spawner is gone, so no worker can be started any more".to_string()));
        }
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, self.spawner.is_backed_up());
        if std::mem::replace(&mut self.spawner_interest, wanted) != wanted {
            self.reactor.change(&self.spawner, Token::Spawner, wanted);
        }
    }

    /// Sees to undertakers that all wait.
    pub(super) fn expire_undertakers(&mut self, now: Instant) {
        if self.undertaker.expire(now) {
            let (crew, backlog) = (self.undertaker.crew().len(), self.undertaker.backlog());
            let message = format!(
                "all {crew} undertakers have waited for a second to close files that clients gave; there will be one more; \
                 {backlog} files wait to be closed"
            );
            self.events.say_with("stuck_close", message, json!({ "files": backlog }));
        }
    }

    /// Whether a client has to wait until what it caused is done: orders that a worker has not been told, files that are
    /// not closed, memory that is not unmapped. So many of these that new ones may find no number: everybody waits.
    pub(super) fn must_wait(&mut self, slot: u16) -> bool {
        let mut links = [&self.worker, &self.standby].into_iter().flatten();
        let fills = links.any(|worker| !worker.has_hung_up() && worker.link.is_filled_by(slot));
        let litters = self.undertaker.is_behind() && {
            let round = self.undertaker.round();
            self.slots.port(slot).is_some_and(|port| port.littered == Some(round))
        };
        let budget = &self.budget;
        let strains =
            self.slots.port(slot).is_some_and(|port| budget.is_strained(port.held, &port.device().pending_unmaps));
        fills || litters || strains || self.budget.is_short(self.undertaker.backlog())
    }

    /// Listens again to those who do not have to wait any more.
    pub(super) fn listen_again(&mut self) {
        for slot in std::mem::take(&mut self.halted) {
            self.update_interest(slot);
        }
    }
}
