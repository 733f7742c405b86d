//! How much of what is scarce one client may hold (CVE-2020-10717).
//!
//! Fds are scarce in the supervisor, where `RLIMIT_NOFILE` is low, and mappings in the worker, where `vm.max_map_count`
//! bounds them. A client may take of either as long as it holds no more than is left for all others, so that whatever some
//! have taken, as much as the greediest of them has is still there. Replacing what one holds is always possible.
//!
//! What a client has given up counts until no worker has it mapped any more ([`crate::lingering`]). One that gives up and
//! asks anew without pause, faster than workers let go, is not listened to until they have.

use nix::sys::resource::{Resource, getrlimit};
use sv3::MAX_REGIONS;

use crate::lingering::Lingering;

/// Fds that no client gets: our own, those that are under way, and those that wait to be closed. A quarter of what there is,
/// within these bounds.
const RESERVE: usize = 768;
const LEAST_RESERVE: usize = 128;
/// Fds of the reserve that are for us and for the next message of a client.
const NEXT: usize = 320;
/// Fds that a usual client takes: its connection, kick and call of two rings, some regions.
const USUAL: usize = 10;

/// What a client holds, or what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open files.
    pub fds: usize,
    /// Memory regions.
    pub regions: usize,
}

impl Holdings {
    /// Nothing.
    pub const NONE: Holdings = Holdings { fds: 0, regions: 0 };
    /// No bound.
    pub const UNBOUNDED: Holdings = Holdings { fds: usize::MAX, regions: usize::MAX };
}

/// What there is and what is held of it.
#[derive(Debug)]
pub struct Budget {
    limit: Holdings,
    held: Holdings,
    reserve: usize,
    /// What was given up and is mapped still.
    pub lingering: Lingering,
}

impl Budget {
    /// All that this process may have. To be called before it is confined.
    pub fn new() -> Budget {
        let (fds, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Budget::of(usize::try_from(fds).unwrap_or(usize::MAX))
    }

    /// The least limit of open files that serves a port.
    pub const LEAST_FILES: usize = LEAST_RESERVE + 2 * USUAL;

    /// Files that this process may have open.
    pub fn files(&self) -> usize {
        self.limit.fds.saturating_add(self.reserve)
    }

    /// How many usual clients there is room for: the last of them gets half of what is left.
    pub fn ports(&self) -> usize {
        (self.limit.fds / USUAL).saturating_sub(1)
    }

    fn of(fds: usize) -> Budget {
        let reserve = (fds / 4).clamp(LEAST_RESERVE, RESERVE);
        let limit = Holdings { fds: fds.saturating_sub(reserve), regions: MAX_REGIONS };
        Budget { limit, held: Holdings::NONE, reserve, lingering: Lingering::default() }
    }

    /// What a client that holds `own`, while `lingering` lingers of what it had, may hold at most now.
    pub fn allowance(&self, own: Holdings, lingering: &Lingering) -> Holdings {
        let free = self.free();
        // Half of what it has and is free: then as much as it has is left.
        let share =
            |free: usize, own: usize| own.max(((own + lingering.own() + free) / 2).saturating_sub(lingering.own()));
        Holdings { fds: share(free.fds, own.fds), regions: share(free.regions, own.regions) }
    }

    /// Whether so much lingers of what a client that holds `own` had that, with it, it has more than is free.
    pub fn is_strained(&self, own: Holdings, lingering: &Lingering) -> bool {
        let (free, lingers) = (self.free(), lingering.own());
        lingers > 0 && (own.fds + lingers > free.fds || own.regions + lingers > free.regions)
    }

    /// Each region that lingers is a file, too.
    fn free(&self) -> Holdings {
        let free = |limit: usize, held: usize| limit.saturating_sub(held).saturating_sub(self.lingering.all());
        Holdings { fds: free(self.limit.fds, self.held.fds), regions: free(self.limit.regions, self.held.regions) }
    }

    /// With so many files that wait to be closed the next message of a client may bring more than may be open.
    pub fn is_short(&self, backlog: usize) -> bool {
        backlog > self.reserve.saturating_sub(NEXT).max(self.reserve / 4)
    }

    /// A client that held `before` holds `now`.
    pub fn change(&mut self, before: Holdings, now: Holdings) {
        let change = |held: usize, before: usize, now: usize| held.saturating_sub(before).saturating_add(now);
        self.held.fds = change(self.held.fds, before.fds, now.fds);
        self.held.regions = change(self.held.regions, before.regions, now.regions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_greedy_take_as_much_as_one_of_them_has_is_left() {
        let (mut budget, none) = (Budget::of(1333), Lingering::default());
        let mut free = 1000;
        for _ in 0..6 {
            let allowed = budget.allowance(Holdings::NONE, &none);
            assert_eq!(allowed.fds, free / 2);
            budget.change(Holdings::NONE, allowed);
            let more = budget.allowance(allowed, &none);
            assert!(more == allowed || more.fds == allowed.fds + 1);
            free -= free / 2;
        }
        let all = Holdings { fds: 1000, regions: 3 };
        budget.change(all, Holdings::NONE);
        assert_eq!(budget.allowance(Holdings::NONE, &none).fds, 500);
    }

    #[test]
    fn room_is_told_in_ports() {
        for (files, ports) in [(8, 0), (147, 0), (148, 1), (400, 26), (1024, 75)] {
            let budget = Budget::of(files);
            assert_eq!((budget.ports(), files >= Budget::LEAST_FILES), (ports, ports > 0), "{files}");
            let mut budget = budget;
            for _ in 0..ports {
                assert!(budget.allowance(Holdings::NONE, &Lingering::default()).fds >= USUAL, "{files}");
                budget.change(Holdings::NONE, Holdings { fds: USUAL, regions: 1 });
            }
        }
    }

    #[test]
    fn one_who_holds_more_than_there_is_now_keeps_it() {
        let own = Holdings { fds: 40, regions: 2 };
        let mut budget = Budget::of(0);
        budget.change(Holdings::NONE, own);
        assert_eq!(budget.allowance(own, &Lingering::default()).fds, 40);
    }

    #[test]
    fn what_lingers_counts_and_who_replaces_faster_than_it_goes_has_to_wait() {
        let mut budget = Budget::of(1333);
        let own = Holdings { fds: 100, regions: 90 };
        budget.change(Holdings::NONE, own);
        let lingering = budget.lingering.of_another();
        let file = || {
            std::rc::Rc::new(sv3::foreign::ForeignFd::from(std::os::fd::OwnedFd::from(
                std::fs::File::open("/dev/null").unwrap(),
            )))
        };
        let mut taken = Vec::new();
        for replaced in 1..=5 {
            assert!(!budget.is_strained(own, &lingering), "{replaced}");
            taken.extend(lingering.take((0..90).map(|_| file()).collect()));
            assert!(budget.allowance(own, &lingering).fds >= own.fds);
        }
        assert!(budget.is_strained(own, &lingering), "550 of 1000");
        let other = budget.lingering.of_another();
        assert!(!budget.is_strained(Holdings { fds: 400, regions: 0 }, &other), "it is not the doing of others");
        assert_eq!(budget.allowance(Holdings::NONE, &other).fds, 225);
        taken.clear();
        assert!(!budget.is_strained(own, &lingering));
        assert_eq!(budget.allowance(Holdings::NONE, &other).fds, 450);
    }
}
