//! How much of what is scarce one client may hold (CVE-2020-10717).
//!
//! Fds are scarce in the supervisor, where `RLIMIT_NOFILE` is low, and mappings in the worker, where `vm.max_map_count`
//! bounds them. A client may take of either as long as it holds no more than is left for all others, so that whatever some
//! have taken, as much as the greediest of them has is still there. Replacing what one holds is always possible.

use nix::sys::resource::{Resource, getrlimit};
use sv3::MAX_REGIONS;

/// Fds that no client gets: our own, and those that are under way.
const RESERVE: usize = 128;

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
}

impl Budget {
    /// All that this process may have. To be called before it is confined.
    pub fn new() -> Budget {
        let (fds, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Budget::of(usize::try_from(fds).unwrap_or(usize::MAX))
    }

    fn of(fds: usize) -> Budget {
        Budget { limit: Holdings { fds: fds.saturating_sub(RESERVE), regions: MAX_REGIONS }, held: Holdings::NONE }
    }

    /// What a client that holds `own` may hold at most now.
    pub fn allowance(&self, own: Holdings) -> Holdings {
        // Half of what it has and is free: then as much as it has is left.
        let share = |limit: usize, held: usize, own: usize| own.max((own + limit.saturating_sub(held)) / 2);
        Holdings {
            fds: share(self.limit.fds, self.held.fds, own.fds),
            regions: share(self.limit.regions, self.held.regions, own.regions),
        }
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
        let mut budget = Budget::of(1128);
        let mut free = 1000;
        for _ in 0..6 {
            let allowed = budget.allowance(Holdings::NONE);
            assert_eq!(allowed.fds, free / 2);
            budget.change(Holdings::NONE, allowed);
            assert!(budget.allowance(allowed) == allowed || budget.allowance(allowed).fds == allowed.fds + 1);
            free -= free / 2;
        }
        let all = Holdings { fds: 1000, regions: 3 };
        budget.change(all, Holdings::NONE);
        assert_eq!(budget.allowance(Holdings::NONE).fds, 500);
    }

    #[test]
    fn one_who_holds_more_than_there_is_now_keeps_it() {
        let own = Holdings { fds: 40, regions: 2 };
        let mut budget = Budget::of(0);
        budget.change(Holdings::NONE, own);
        assert_eq!(budget.allowance(own).fds, 40);
    }
}
