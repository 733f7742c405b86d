//! Memory that was taken away from the workers, and that one of them may have mapped for a while yet.
//!
//! Who lets go of a memory file last gives its pages back to the kernel, a second's work for each 4 GiB. That must not be
//! a worker, which guests wait for. So the supervisor keeps its fd of each file that an order takes away
//! ([`crate::clients::record::Order::takes`]) until every worker that was given the order has said that it has unmapped it, or is
//! dead. Until then the file and its mappings still count among what the client has ([`crate::clients::budget`]).

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use sv3::foreign::ForeignFd;

use crate::clients::session::Breach;

/// Counts the regions that linger: of one client, and of all together.
#[derive(Clone, Debug, Default)]
pub struct Lingering {
    own: Rc<Cell<usize>>,
    all: Rc<Cell<usize>>,
}

impl Lingering {
    /// Another client's: none of its own.
    pub fn of_another(&self) -> Lingering {
        Lingering { own: Rc::default(), all: self.all.clone() }
    }

    /// Regions of this client.
    pub fn own(&self) -> usize {
        self.own.get()
    }

    /// Regions of all clients, those that are gone among them.
    pub fn all(&self) -> usize {
        self.all.get()
    }

    /// These files, one for each region, are taken away from the workers by the order that this goes with.
    pub fn take(&self, files: Vec<Rc<ForeignFd>>) -> Option<Rc<Taken>> {
        if files.is_empty() {
            return None;
        }
        self.change(|count| count.saturating_add(files.len()));
        Some(Rc::new(Taken { files, lingering: self.clone() }))
    }

    fn change(&self, by: impl Fn(usize) -> usize) {
        self.own.set(by(self.own.get()));
        self.all.set(by(self.all.get()));
    }
}

/// What one order takes away. Each worker that is given the order has a clone until it has let go.
#[derive(Debug)]
pub struct Taken {
    files: Vec<Rc<ForeignFd>>,
    lingering: Lingering,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.lingering.change(|count| count.saturating_sub(self.files.len()));
    }
}

/// What one worker was ordered to let go of and has not said yet that it did.
#[derive(Default)]
pub struct LettingGo {
    orders: VecDeque<(u64, Rc<Taken>)>,
    unmapped: u64,
}

impl LettingGo {
    /// The order of this number, higher than any before, takes this away.
    pub fn ordered(&mut self, seq: u64, taken: Rc<Taken>) {
        self.orders.push_back((seq, taken));
    }

    /// The files of it.
    pub fn files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.orders.iter().flat_map(|(_, taken)| &taken.files)
    }

    /// The worker, whose last order is `last`, says that all which the orders up to `seq` took away is unmapped.
    pub fn unmapped(&mut self, seq: u64, last: u64) -> Result<(), Breach> {
        if seq <= self.unmapped || seq > last {
            return Err(Breach("it unmapped what it was not told to let go of"));
        }
        self.unmapped = seq;
        while self.orders.front().is_some_and(|(ordered, _)| *ordered <= seq) {
            self.orders.pop_front();
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
        let all = Lingering::default();
        let (first, second) = (all.of_another(), all.of_another());
        let (kept, mut serving, mut standby) = (file(), LettingGo::default(), LettingGo::default());
        let taken = first.take(vec![kept.clone(), file()]).unwrap();
        serving.ordered(7, taken.clone());
        standby.ordered(3, taken);
        serving.ordered(9, second.take(vec![file()]).unwrap());
        assert_eq!((first.own(), second.own(), all.all()), (2, 1, 3));
        serving.unmapped(8, 9).unwrap();
        assert_eq!((first.own(), Rc::strong_count(&kept)), (2, 2), "the worker on standby has it still");
        standby.unmapped(3, 3).unwrap();
        assert_eq!((first.own(), second.own(), all.all(), Rc::strong_count(&kept)), (0, 1, 1, 1));
        drop(serving);
        assert_eq!((second.own(), all.all()), (0, 0), "dead, it has let go of everything");
        assert!(first.take(Vec::new()).is_none());
    }

    #[test]
    fn a_worker_that_unmaps_what_cannot_be_is_in_breach() {
        let mut worker = LettingGo::default();
        worker.unmapped(4, 5).unwrap();
        for seq in [0, 3, 4, 6, u64::MAX] {
            assert!(worker.unmapped(seq, 5).is_err(), "{seq}");
        }
        worker.unmapped(5, 5).unwrap();
    }
}
