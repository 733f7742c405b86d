//! How the control thread has the mapper pin memory for a card, and unpin it.
//!
//! What is to be unpinned comes first: commands wait for it, and may do so for a short time only. What is to be pinned
//! comes last, a slice at a time.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use nix::errno::Errno;

use super::pins::{Pages, Pinned, Pins, Task, Tasks};
use crate::memory::dma::Container;
use crate::sync::lease::Leased;

/// Places for tasks and answers, and for pages that are to be unpinned.
const ROOM: usize = 64;
/// The control thread's number, for leases.
const CONTROL: u32 = 0;

/// What is to be unpinned.
enum Leaving {
    Pages(Pages),
    /// All before it belong to commands up to this one.
    Mark(u64),
}

/// What the control thread and the mapper share. Nothing is allocated later.
pub struct Pinner {
    leaving: Leased<VecDeque<Leaving>>,
    tasks: Leased<Tasks>,
    answers: Leased<VecDeque<Pinned>>,
    /// The last mark that the mapper reached.
    unpinned: AtomicU64,
    /// The mapper's own.
    pins: Leased<Pins>,
}

impl Default for Pinner {
    fn default() -> Pinner {
        Pinner {
            leaving: Leased::new(VecDeque::with_capacity(ROOM)),
            tasks: Leased::new(VecDeque::with_capacity(ROOM)),
            answers: Leased::new(VecDeque::with_capacity(ROOM)),
            unpinned: AtomicU64::new(0),
            pins: Leased::new(Pins::new()),
        }
    }
}

/// What the mapper has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to do.
    Nothing,
    /// A part.
    Some,
    /// Something that the control thread waits for.
    News,
}

impl Pinner {
    /// Unpins some of what is to be unpinned next.
    pub fn unpin_next(&self) -> Done {
        if self.pins.seize(|| ()).unpin_some() {
            return Done::Some;
        }
        let Some(leaving) = self.leaving.seize(|| ()).pop_front() else { return Done::Nothing };
        match leaving {
            Leaving::Pages(pages) => {
                let is_same = |task: &Task| matches!(task, Task::Pin(_, _, other) if *other == pages);
                let mut tasks = self.tasks.seize(|| ());
                let waits = tasks.iter().position(is_same).and_then(|at| tasks.remove(at));
                drop(tasks);
                let canceled = match waits {
                    Some(Task::Pin(port, number, _)) => Some(Pinned { port, number, outcome: Err(Errno::ECANCELED) }),
                    _ => self.pins.seize(|| ()).unpin(pages),
                };
                self.answer(canceled);
                Done::Some
            }
            Leaving::Mark(seq) => {
                self.unpinned.store(seq, Release);
                Done::News
            }
        }
    }

    /// Goes on to pin what is to be pinned, or to remove what an earlier worker has pinned.
    pub fn pin_some(&self) -> Done {
        let mut pins = self.pins.seize(|| ());
        if !pins.has_task() {
            let Some(task) = self.tasks.seize(|| ()).pop_front() else { return Done::Nothing };
            pins.begin(task);
        }
        match pins.go_on() {
            None => Done::Some,
            answer => {
                self.answer(answer);
                Done::News
            }
        }
    }

    /// Whether there is work.
    pub fn has_work(&self) -> bool {
        let is_busy = self.pins.seize(|| ()).is_busy();
        is_busy || !self.tasks.seize(|| ()).is_empty() || !self.leaving.seize(|| ()).is_empty()
    }

    fn answer(&self, answer: Option<Pinned>) {
        // Each task that waits for an answer has a place.
        self.answers.seize(|| ()).extend(answer);
    }
}

/// The control thread's end.
pub struct PinRequests {
    pinner: &'static Pinner,
    tasks: Tasks,
    /// How many tasks wait for an answer.
    under_way: usize,
    leaving: VecDeque<Leaving>,
    /// A card reads guests' memory: what leaves must be unpinned first.
    is_on: bool,
    /// The last mark that was set.
    marked: u64,
}

impl PinRequests {
    /// No requests.
    pub fn new(pinner: &'static Pinner) -> PinRequests {
        let (tasks, leaving) = (VecDeque::new(), VecDeque::new());
        PinRequests { pinner, tasks, under_way: 0, leaving, is_on: false, marked: 0 }
    }

    /// From now on the card of a port reads guests' memory, of which so many octets may be pinned; or none does. What an
    /// earlier worker has pinned is removed; an answer tells when it is.
    pub fn begin(&mut self, container: Option<(u16, Container, u64)>) {
        self.tasks.retain(|task| matches!(task, Task::Container(_)));
        if self.is_on || container.is_some() {
            self.is_on = container.is_some();
            self.tasks.push_back(Task::Container(container));
        }
    }

    /// Requests that pages of a port be pinned. The answer has this number, which is not 0.
    pub fn pin(&mut self, port: u16, number: u64, pages: Pages) {
        self.tasks.push_back(Task::Pin(port, number, pages));
    }

    /// Pages leave that the command `seq` removed.
    pub fn unpin(&mut self, pages: impl Iterator<Item = Pages>, seq: u64) {
        if !self.is_on {
            return;
        }
        for pages in pages {
            self.tasks.retain(|task| !matches!(task, Task::Pin(_, _, other) if *other == pages));
            self.leaving.push_back(Leaving::Pages(pages));
        }
        self.leaving.push_back(Leaving::Mark(seq));
        self.marked = seq;
    }

    /// Whether a card may still read memory that a command has removed.
    pub fn awaits_unpinning(&self) -> bool {
        self.is_on && self.pinner.unpinned.load(Acquire) != self.marked
    }

    /// Whether there is something to be unpinned that the mapper does not know of.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Gives the mapper what it has room for. True: there was something. `None`: it had just leased a queue.
    pub fn hand_over(&mut self) -> Option<bool> {
        let mut handed = false;
        if !self.leaving.is_empty() {
            let mut queue = self.pinner.leaving.lease(CONTROL)?;
            let count = ROOM.saturating_sub(queue.len()).min(self.leaving.len());
            queue.extend(self.leaving.drain(..count));
            handed |= count > 0;
        }
        if !self.tasks.is_empty() && self.under_way < ROOM {
            let mut queue = self.pinner.tasks.lease(CONTROL)?;
            let count = (ROOM - self.under_way).min(ROOM.saturating_sub(queue.len())).min(self.tasks.len());
            // A container that is taken away has no answer.
            let answers = |task: &&Task| !matches!(task, Task::Container(None));
            self.under_way += self.tasks.iter().take(count).filter(answers).count();
            queue.extend(self.tasks.drain(..count));
            handed |= count > 0;
        }
        Some(handed)
    }

    /// The next answer. `Err`: the mapper has just leased the queue.
    pub fn next_answer(&mut self) -> Result<Option<Pinned>, ()> {
        if self.under_way == 0 {
            return Ok(None);
        }
        let answer = self.pinner.answers.lease(CONTROL).ok_or(())?.pop_front();
        self.under_way -= usize::from(answer.is_some());
        Ok(answer)
    }
}
