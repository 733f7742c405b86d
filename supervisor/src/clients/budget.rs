//! How many fds and memory regions one client may hold (CVE-2020-10717).
//!
//! Fds are scarce in the supervisor, where `RLIMIT_NOFILE` is low. Mappings are scarce in the worker, where
//! `vm.max_map_count` bounds them. A connection may take more of either only while it holds no more than is free: so as
//! much as the largest client holds is always free. All connections of one process together may hold three quarters of
//! the sum of what they hold and what is free. The last eighth is reserved for small clients: each connection may hold
//! [`FIRST`], and half of the eighth is for processes that hold no more than that. A client may always replace what it
//! holds.
//!
//! A region that a client has removed counts until no worker has it mapped ([`crate::workers::pending_unmap`]). If a
//! client removes and adds regions faster than workers unmap them, the supervisor stops reading from it meanwhile.

use std::collections::HashMap;

use nix::sys::resource::{Resource, getrlimit};
use sv3::MAX_REGIONS;

use crate::ports::holdings::Holdings;
use crate::workers::pending_unmap::PendingUnmaps;

/// Most fds that no client gets: the supervisor's own, those in flight, and those that wait to be closed. The reserve
/// is a quarter of the limit of open files, between the least reserve and this.
const RESERVE: usize = 768;
const LEAST_RESERVE: usize = 128;
/// Fds of the reserve for the supervisor itself and for the next message of a client.
const NEXT: usize = 320;
/// Fds that a typical client takes: its connection, kick and call eventfds of two rings, some regions.
const USUAL: usize = 10;

/// Files, and likewise regions, that a guest with two rings needs.
const FIRST: usize = 16;

/// The limits, and how much of them clients hold.
#[derive(Debug)]
pub struct Budget {
    limit: Holdings,
    held: Holdings,
    /// What each process holds, by process id.
    of: HashMap<i32, Holdings>,
    reserve: usize,
    /// Regions that were removed and that a worker still has mapped.
    pub pending_unmaps: PendingUnmaps,
}

impl Budget {
    /// Reads the limits of this process. Must be called before the process confines itself.
    pub fn new() -> Budget {
        let (fds, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Budget::of(usize::try_from(fds).unwrap_or(usize::MAX))
    }

    /// The lowest limit of open files with which sv3 can serve one port.
    pub const LEAST_FILES: usize = LEAST_RESERVE + 2 * USUAL;

    /// Files that this process may have open.
    pub fn files(&self) -> usize {
        self.limit.fds.saturating_add(self.reserve)
    }

    /// The sum of what all clients hold.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn held(&self) -> Holdings {
        self.held
    }

    /// How many typical clients fit: the last of them gets half of what is free.
    pub fn ports(&self) -> usize {
        (self.limit.fds / USUAL).saturating_sub(1)
    }

    fn of(fds: usize) -> Budget {
        let reserve = (fds / 4).clamp(LEAST_RESERVE, RESERVE);
        let limit = Holdings { fds: fds.saturating_sub(reserve), regions: MAX_REGIONS };
        Budget { limit, held: Holdings::NONE, of: HashMap::new(), reserve, pending_unmaps: PendingUnmaps::default() }
    }

    /// The most that a connection of process `pid` may hold now. It holds `own`, and `pending` counts its removed
    /// regions that are still mapped.
    pub fn allowance(&self, pid: i32, own: Holdings, pending: &PendingUnmaps) -> Holdings {
        let all = self.of.get(&pid).copied().unwrap_or(own);
        let (free, unmapping) = (self.free(), pending.own());
        Holdings {
            fds: share((self.limit.fds, free.fds), (all.fds, own.fds), unmapping),
            regions: share((self.limit.regions, free.regions), (all.regions, own.regions), unmapping),
        }
    }

    /// Whether `own` and the client's removed regions that are still mapped are together more than is free.
    pub fn is_strained(&self, own: Holdings, pending: &PendingUnmaps) -> bool {
        let (free, unmapping) = (self.free(), pending.own());
        unmapping > 0 && (own.fds + unmapping > free.fds || own.regions + unmapping > free.regions)
    }

    /// What is free. Each region that is still mapped also costs a file.
    fn free(&self) -> Holdings {
        let free = |limit: usize, held: usize| limit.saturating_sub(held).saturating_sub(self.pending_unmaps.all());
        Holdings { fds: free(self.limit.fds, self.held.fds), regions: free(self.limit.regions, self.held.regions) }
    }

    /// Whether clients hold all files that they may hold: the next file would come from the reserve.
    pub fn is_spent(&self) -> bool {
        self.held.fds.saturating_add(self.pending_unmaps.all()) >= self.limit.fds
    }

    /// Whether the next message of a client might exceed the limit of open files, while `backlog` files wait to be
    /// closed.
    pub fn is_short(&self, backlog: usize) -> bool {
        backlog > self.reserve.saturating_sub(NEXT).max(self.reserve / 4)
    }

    /// Counts that a connection of process `pid`, which held `before`, now holds `now`.
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

/// The most that a connection may hold. It holds `own`, its process `all`; `free` of `limit` is free; `unmapping` of
/// its removed regions are still mapped.
fn share((limit, free): (usize, usize), (all, own): (usize, usize), unmapping: usize) -> usize {
    let common = free.saturating_sub(limit / 8);
    // Half of the sum of what it holds and what is free: then as much as it holds stays free.
    let connection = (own.saturating_add(unmapping).saturating_add(common) / 2).saturating_sub(unmapping);
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
        let (mut budget, none) = (Budget::of(1333), PendingUnmaps::default());
        let mut common = 875;
        for pid in 0..5 {
            let allowed = budget.allowance(pid, Holdings::NONE, &none).fds;
            assert_eq!(allowed, common / 2);
            budget.change(pid, Holdings::NONE, fds(allowed));
            assert!((0..2).contains(&(budget.allowance(pid, fds(allowed), &none).fds - allowed)));
            common -= allowed;
        }
        budget.change(9, Holdings::NONE, fds(common));
        assert_eq!(
            budget.allowance(77, Holdings::NONE, &none).fds,
            FIRST,
            "there is something for a client that needs little"
        );
        budget.change(9, fds(common), Holdings::NONE);
        assert_eq!(budget.of.len(), 5);
    }

    #[test]
    fn a_process_leaves_something_whatever_the_number_of_its_connections() {
        let (mut budget, none) = (Budget::of(1333), PendingUnmaps::default());
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
    fn what_is_free_is_told_in_ports() {
        for (files, ports) in [(8, 0), (147, 0), (148, 1), (400, 26), (1024, 75)] {
            let budget = Budget::of(files);
            assert_eq!((budget.ports(), files >= Budget::LEAST_FILES), (ports, ports > 0), "{files}");
            let mut budget = budget;
            for pid in 0..ports as i32 {
                assert!(budget.allowance(pid, Holdings::NONE, &PendingUnmaps::default()).fds >= USUAL, "{files}");
                budget.change(pid, Holdings::NONE, Holdings { fds: USUAL, regions: 1 });
            }
        }
    }

    #[test]
    fn a_client_that_holds_more_than_there_is_now_keeps_it() {
        let own = Holdings { fds: 40, regions: 2 };
        let mut budget = Budget::of(0);
        budget.change(1, Holdings::NONE, own);
        assert_eq!(budget.allowance(1, own, &PendingUnmaps::default()).fds, 40);
    }

    #[test]
    fn what_is_mapped_still_counts_and_a_client_that_replaces_faster_has_to_wait() {
        let mut budget = Budget::of(1333);
        let own = Holdings { fds: 100, regions: 90 };
        budget.change(1, Holdings::NONE, own);
        let pending = budget.pending_unmaps.of_another();
        let file = || {
            std::rc::Rc::new(sv3::foreign::ForeignFd::from(std::os::fd::OwnedFd::from(
                std::fs::File::open("/dev/null").unwrap(),
            )))
        };
        let mut removed = Vec::new();
        for replaced in 1..=5 {
            assert!(!budget.is_strained(own, &pending), "{replaced}");
            removed.extend(pending.remove((0..90).map(|_| file()).collect()));
            assert!(budget.allowance(1, own, &pending).fds >= own.fds);
        }
        assert!(budget.is_strained(own, &pending), "550 of 1000");
        let other = budget.pending_unmaps.of_another();
        assert!(!budget.is_strained(Holdings { fds: 400, regions: 0 }, &other), "it is not the doing of others");
        assert_eq!(budget.allowance(2, Holdings::NONE, &other).fds, (450 - 125) / 2);
        removed.clear();
        assert!(!budget.is_strained(own, &pending));
        assert_eq!(budget.allowance(2, Holdings::NONE, &other).fds, (900 - 125) / 2);
    }
}
