//! Memory that was taken away from the workers, and that one of them may still have mapped.
//!
//! The last process to unmap a memory file gives its pages back to the kernel, which takes a second for each 4 GiB.
//! That process must not be a worker, since guests wait for it. So the supervisor keeps its fd of each file that a
//! command takes away ([`crate::workers::command::WorkerCommand::removes`]) until every worker that was given the
//! command has said that it has unmapped the file, or is dead. Until then the file and its mappings count among what
//! the client has ([`crate::clients::budget`]).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use sv3::foreign::ForeignFd;

use crate::workers::breach::Breach;

/// Counts the regions that were removed and are mapped still: of one client, and of all together.
#[derive(Clone, Debug, Default)]
pub struct PendingUnmaps {
    own: Rc<Cell<usize>>,
    all: Rc<Cell<usize>>,
}

impl PendingUnmaps {
    /// Another client's: none of its own.
    pub fn of_another(&self) -> PendingUnmaps {
        PendingUnmaps { own: Rc::default(), all: self.all.clone() }
    }

    /// Regions of this client.
    pub fn own(&self) -> usize {
        self.own.get()
    }

    /// Regions of all clients, those that are gone among them.
    pub fn all(&self) -> usize {
        self.all.get()
    }

    /// Counts these files, one for each region, which a command takes away from the workers.
    pub fn remove(&self, files: Vec<Rc<ForeignFd>>) -> Option<Rc<RemovedFiles>> {
        if files.is_empty() {
            return None;
        }
        self.change(|count| count.saturating_add(files.len()));
        Some(Rc::new(RemovedFiles { files, count: self.clone() }))
    }

    fn change(&self, by: impl Fn(usize) -> usize) {
        self.own.set(by(self.own.get()));
        self.all.set(by(self.all.get()));
    }
}

/// What one command takes away. Each worker that is given the command has a clone until it has unmapped the files.
#[derive(Debug)]
pub struct RemovedFiles {
    files: Vec<Rc<ForeignFd>>,
    count: PendingUnmaps,
}

impl Drop for RemovedFiles {
    fn drop(&mut self) {
        self.count.change(|count| count.saturating_sub(self.files.len()));
    }
}

/// What one worker was told to unmap and has not yet said that it did.
#[derive(Default)]
pub struct UnmapQueue {
    removals: VecDeque<(u64, Rc<RemovedFiles>)>,
    unmapped: u64,
}

impl UnmapQueue {
    /// The command of this number, higher than any before, takes these files away.
    pub fn push(&mut self, seq: u64, removed: Rc<RemovedFiles>) {
        self.removals.push_back((seq, removed));
    }

    /// The files that the worker may have mapped still.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.removals.iter().flat_map(|(_, removed)| &removed.files)
    }

    /// The worker, whose last command is `last`, says that it has unmapped all that the commands up to `seq` took away.
    pub fn unmapped(&mut self, seq: u64, last: u64) -> Result<(), Breach> {
        if seq <= self.unmapped || seq > last {
            return Err(Breach("it unmapped what it was not told to let go of"));
        }
        self.unmapped = seq;
        while self.removals.front().is_some_and(|(told, _)| *told <= seq) {
            self.removals.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Rc<ForeignFd> {
        Rc::new(std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into())
    }

    #[test]
    fn a_file_stays_until_every_worker_has_let_go() {
        let all = PendingUnmaps::default();
        let (first, second) = (all.of_another(), all.of_another());
        let (kept, mut serving, mut standby) = (file(), UnmapQueue::default(), UnmapQueue::default());
        let removed = first.remove(vec![kept.clone(), file()]).unwrap();
        serving.push(7, removed.clone());
        standby.push(3, removed);
        serving.push(9, second.remove(vec![file()]).unwrap());
        assert_eq!((first.own(), second.own(), all.all()), (2, 1, 3));
        serving.unmapped(8, 9).unwrap();
        assert_eq!((first.own(), Rc::strong_count(&kept)), (2, 2), "the worker on standby has it still");
        standby.unmapped(3, 3).unwrap();
        assert_eq!((first.own(), second.own(), all.all(), Rc::strong_count(&kept)), (0, 1, 1, 1));
        drop(serving);
        assert_eq!((second.own(), all.all()), (0, 0), "dead, it has let go of everything");
        assert!(first.remove(Vec::new()).is_none());
    }

    #[test]
    fn a_worker_that_unmaps_what_cannot_be_is_in_breach() {
        let mut worker = UnmapQueue::default();
        worker.unmapped(4, 5).unwrap();
        for seq in [0, 3, 4, 6, u64::MAX] {
            assert!(worker.unmapped(seq, 5).is_err(), "{seq}");
        }
        worker.unmapped(5, 5).unwrap();
    }
}
