//! How much of what is scarce one client may hold (CVE-2020-10717).
//!
//! Fds are scarce in the supervisor, where `RLIMIT_NOFILE` is low, and mappings in the worker, where `vm.max_map_count`
//! bounds them. A client may take of either as long as it holds no more than is left for all others, so that whatever some
//! have taken, as much as the greediest of them has is still there. A process may take three quarters of what it has and is
//! left, over all its connections. The last eighth is for those who need little: [`FIRST`] for each connection, and the
//! last half of that for processes that hold no more than that. Replacing what one holds is always possible.
//!
//! What a client has given up counts until no worker has it mapped any more ([`crate::clients::lingering`]). One that gives up and
//! asks anew without pause, faster than workers let go, is not listened to until they have.

use std::collections::HashMap;

use nix::sys::resource::{Resource, getrlimit};
use sv3::MAX_REGIONS;

use crate::clients::lingering::Lingering;

/// Fds that no client gets: our own, those that are under way, and those that wait to be closed. A quarter of what there is,
/// within these bounds.
const RESERVE: usize = 768;
const LEAST_RESERVE: usize = 128;
/// Fds of the reserve that are for us and for the next message of a client.
const NEXT: usize = 320;
/// Fds that a usual client takes: its connection, kick and call of two rings, some regions.
const USUAL: usize = 10;

/// What a guest needs that has two rings: files and regions.
const FIRST: usize = 16;

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
    /// By process.
    of: HashMap<i32, Holdings>,
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

    /// What all clients hold together.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn held(&self) -> Holdings {
        self.held
    }

    /// How many usual clients there is room for: the last of them gets half of what is left.
    pub fn ports(&self) -> usize {
        (self.limit.fds / USUAL).saturating_sub(1)
    }

    fn of(fds: usize) -> Budget {
        let reserve = (fds / 4).clamp(LEAST_RESERVE, RESERVE);
        let limit = Holdings { fds: fds.saturating_sub(reserve), regions: MAX_REGIONS };
        Budget { limit, held: Holdings::NONE, of: HashMap::new(), reserve, lingering: Lingering::default() }
    }

    /// What a connection of process `pid` that holds `own`, while `lingering` lingers of what it had, may hold at most
    /// now.
    pub fn allowance(&self, pid: i32, own: Holdings, lingering: &Lingering) -> Holdings {
        let all = self.of.get(&pid).copied().unwrap_or(own);
        let (free, lingers) = (self.free(), lingering.own());
        Holdings {
            fds: share((self.limit.fds, free.fds), (all.fds, own.fds), lingers),
            regions: share((self.limit.regions, free.regions), (all.regions, own.regions), lingers),
        }
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

    /// Clients hold all files that they may: one more would be taken from what is kept free.
    pub fn is_spent(&self) -> bool {
        self.held.fds.saturating_add(self.lingering.all()) >= self.limit.fds
    }

    /// With so many files that wait to be closed the next message of a client may bring more than may be open.
    pub fn is_short(&self, backlog: usize) -> bool {
        backlog > self.reserve.saturating_sub(NEXT).max(self.reserve / 4)
    }

    /// A connection of process `pid` that held `before` holds `now`.
    pub fn change(&mut self, pid: i32, before: Holdings, now: Holdings) {
        let change = |held: usize, before: usize, now: usize| held.saturating_sub(before).saturating_add(now);
        for held in [&mut self.held, self.of.entry(pid).or_insert(Holdings::NONE)] {
            held.fds = change(held.fds, before.fds, now.fds);
            held.regions = change(held.regions, before.regions, now.regions);
        }
        if self.of.get(&pid) == Some(&Holdings::NONE) {
            self.of.remove(&pid);
        }
    }
}

/// What a connection may have that has `own` and whose process has `all`, where `free` of `limit` is free, and `lingers`
/// lingers of what it had.
fn share((limit, free): (usize, usize), (all, own): (usize, usize), lingers: usize) -> usize {
    let common = free.saturating_sub(limit / 8);
    // Half of what it has and is free: then as much as it has is left.
    let connection = (own.saturating_add(lingers).saturating_add(common) / 2).saturating_sub(lingers);
    let process = (all.saturating_add(common) / 4 * 3).saturating_sub(all.saturating_sub(own));
    let few = if all <= FIRST { free } else { free.saturating_sub(limit / 16) };
    let first = own.saturating_add(FIRST.saturating_sub(own).min(few));
    own.max(connection.min(process)).max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fds(fds: usize) -> Holdings {
        Holdings { fds, regions: 0 }
    }

    #[test]
    fn whatever_the_greedy_take_as_much_as_one_of_them_has_is_left() {
        let (mut budget, none) = (Budget::of(1333), Lingering::default());
        let mut common = 875;
        for pid in 0..5 {
            let allowed = budget.allowance(pid, Holdings::NONE, &none).fds;
            assert_eq!(allowed, common / 2);
            budget.change(pid, Holdings::NONE, fds(allowed));
            assert!((0..2).contains(&(budget.allowance(pid, fds(allowed), &none).fds - allowed)));
            common -= allowed;
        }
        budget.change(9, Holdings::NONE, fds(common));
        assert_eq!(budget.allowance(77, Holdings::NONE, &none).fds, FIRST, "there is something for who needs little");
        budget.change(9, fds(common), Holdings::NONE);
        assert_eq!(budget.of.len(), 5);
    }

    #[test]
    fn a_process_leaves_something_whatever_the_number_of_its_connections() {
        let (mut budget, none) = (Budget::of(1333), Lingering::default());
        let mut all = 0;
        for _ in 0..1000 {
            let allowed = budget.allowance(7, Holdings::NONE, &none).fds;
            budget.change(7, Holdings::NONE, fds(allowed));
            all += allowed;
        }
        assert!((900..=1000 - 1000 / 16).contains(&all), "it took {all}");
        assert_eq!(budget.allowance(8, Holdings::NONE, &none).fds, FIRST);
    }

    #[test]
    fn connections_alone_spend_what_clients_may_have_and_nothing_of_the_reserve() {
        let mut budget = Budget::of(500);
        let mut taken = 0;
        while !budget.is_spent() {
            budget.change(taken, Holdings::NONE, fds(1));
            taken += 1;
        }
        assert_eq!(taken as usize, 500 - LEAST_RESERVE);
    }

    #[test]
    fn room_is_told_in_ports() {
        for (files, ports) in [(8, 0), (147, 0), (148, 1), (400, 26), (1024, 75)] {
            let budget = Budget::of(files);
            assert_eq!((budget.ports(), files >= Budget::LEAST_FILES), (ports, ports > 0), "{files}");
            let mut budget = budget;
            for pid in 0..ports as i32 {
                assert!(budget.allowance(pid, Holdings::NONE, &Lingering::default()).fds >= USUAL, "{files}");
                budget.change(pid, Holdings::NONE, Holdings { fds: USUAL, regions: 1 });
            }
        }
    }

    #[test]
    fn one_who_holds_more_than_there_is_now_keeps_it() {
        let own = Holdings { fds: 40, regions: 2 };
        let mut budget = Budget::of(0);
        budget.change(1, Holdings::NONE, own);
        assert_eq!(budget.allowance(1, own, &Lingering::default()).fds, 40);
    }

    #[test]
    fn what_lingers_counts_and_who_replaces_faster_than_it_goes_has_to_wait() {
        let mut budget = Budget::of(1333);
        let own = Holdings { fds: 100, regions: 90 };
        budget.change(1, Holdings::NONE, own);
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
            assert!(budget.allowance(1, own, &lingering).fds >= own.fds);
        }
        assert!(budget.is_strained(own, &lingering), "550 of 1000");
        let other = budget.lingering.of_another();
        assert!(!budget.is_strained(Holdings { fds: 400, regions: 0 }, &other), "it is not the doing of others");
        assert_eq!(budget.allowance(2, Holdings::NONE, &other).fds, (450 - 125) / 2);
        taken.clear();
        assert!(!budget.is_strained(own, &lingering));
        assert_eq!(budget.allowance(2, Holdings::NONE, &other).fds, (900 - 125) / 2);
    }
}
