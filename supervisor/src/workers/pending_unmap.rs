//! Memory that was removed from the workers, and that one of them may still have mapped.
//!
//! The last process that unmaps or closes a memory file frees its pages, which takes a second for each 4 GiB. That
//! process must not be a worker, because guests would wait. So the supervisor keeps its fd of each removed file
//! ([`crate::workers::command::WorkerCommand::removes`]) until every worker that got the command has reported the file
//! as unmapped, or is dead. Until then the file and its mappings count as the client's ([`crate::clients::budget`]).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use sv3::foreign::ForeignFd;

use crate::workers::breach::Breach;

/// Counts removed regions that are still mapped: of one client, and of all clients.
#[derive(Clone, Debug, Default)]
pub struct PendingUnmaps {
    own: Rc<Cell<usize>>,
    all: Rc<Cell<usize>>,
}

impl PendingUnmaps {
    /// A counter for another client, which starts at zero.
    pub fn of_another(&self) -> PendingUnmaps {
        PendingUnmaps { own: Rc::default(), all: self.all.clone() }
    }

    /// Regions of this client.
    pub fn own(&self) -> usize {
        self.own.get()
    }

    /// Regions of all clients, including those that have disconnected.
    pub fn all(&self) -> usize {
        self.all.get()
    }

    /// Counts the files that a command takes away from the workers, one for each region.
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

/// The files that one command takes away. Each worker that gets the command holds a clone until it has unmapped the
/// files.
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

/// What one worker was told to unmap and has not yet reported as unmapped.
#[derive(Default)]
pub struct UnmapQueue {
    removals: VecDeque<(u64, Rc<RemovedFiles>)>,
    unmapped: u64,
}

impl UnmapQueue {
    /// The command with this number, which is higher than all before, takes these files away.
    pub fn push(&mut self, seq: u64, removed: Rc<RemovedFiles>) {
        self.removals.push_back((seq, removed));
    }

    /// The files that the worker may still have mapped.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.removals.iter().flat_map(|(_, removed)| &removed.files)
    }

    /// The worker reports that it has unmapped all files that the commands up to `seq` took away. `last` is its last
    /// command.
    pub fn unmapped(&mut self, seq: u64, last: u64) -> Result<(), Breach> {
        if seq <= self.unmapped || seq > last {
            return Err(Breach("it reported as unmapped what it was not told to unmap"));
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
