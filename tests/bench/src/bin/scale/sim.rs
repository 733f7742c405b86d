//! The threads of a worker as events in time.
//!
//! # Theory of operation
//!
//! Every transmit ring that is busy always has more to send, and belongs to one thread, which serves its own rings in
//! turn (port plus queue pair modulo threads, as in `worker/src/poll/threads.rs`). A burst has a cost of its own and
//! one for each frame. For each receiver it needs the lease of that ring, which costs more if another thread had it,
//! and keeps it to the burst's end. A thread that does not get a lease tries again after pauses; in the end it becomes
//! the waiter, ends the burst with the frames that it has sent, and goes on to its next ring, as in
//! `worker/src/sync/lease.rs` and `burst.rs`. The first receivers get few frames and the last one many, so all leases
//! are taken early, as when each frame is for another receiver.
//!
//! How many frames a burst has is what the ring may spend in a turn, as `worker/src/poll/fair_share.rs` has it.
//!
//! Left out: the time that taken frames cost a burst that gets no lease, broadcasts, the memory's bandwidth, and the
//! receivers' pace: they always have buffers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::costs::Costs;
use crate::lease::{TRIES, Waiters};
use crate::traffic::{Dice, Pattern, Sender, Traffic};

/// Threads on processors that share a cache: cores of a complex of the processor that this was measured on.
const NEIGHBOURS: usize = 8;
/// How long is simulated, in nanoseconds, and how much of it does not count.
const TIME: f64 = 3e6;
const WARM_UP: f64 = 0.5e6;

/// What `worker/src/poll/fair_share.rs` lets a turn spend, and what things count there: a frame that is taken, one that
/// is delivered, beside its octets, and a ring.
const TURN: f64 = 48.0 * 1024.0;
const TAKEN: f64 = 192.0 + 96.0;
const DELIVERED: f64 = 256.0 + 96.0;
const RING: f64 = 1024.0;
/// Most frames of a burst.
const BATCH: f64 = 64.0;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Threads, each with a processor of its own.
    pub threads: usize,
    /// Which guests send to which.
    pub traffic: Traffic,
    /// Octets of a frame.
    pub octets: usize,
    /// How a waiter counts.
    pub waiters: Waiters,
}

/// The outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Millions of frames a second.
    pub rate: f64,
    /// Of the leases that were asked for: those that were not to be had at once, and in the end not at all.
    pub waited: f64,
    pub refused: f64,
    /// Of the leases that were had: those that another thread had before.
    pub moved: f64,
    /// The slowest sender's rate divided by the mean.
    pub fairness: f64,
}

/// Frames of a burst to so many receivers when the thread has so many busy rings. What it costs more than the ring's
/// share of the turn, the ring pays by turns without a burst, which cost no time.
pub fn burst_of(octets: usize, receivers: usize, rings: usize) -> f64 {
    let (octets, receivers) = (octets as f64, receivers as f64);
    let share = (TURN / rings.max(1) as f64).max(TURN / 3.0);
    let taken = share / (TAKEN + DELIVERED + octets);
    // The first frames are for a receiver each.
    let first = receivers * (DELIVERED + octets + RING);
    let delivered = if first < share {
        (share - receivers * RING) / (DELIVERED + octets)
    } else {
        share / (DELIVERED + octets + RING)
    };
    taken.min(delivered).ceil().clamp(1.0, BATCH)
}

/// A receive ring.
#[derive(Clone, Copy, Default)]
struct Lease {
    holder: Option<usize>,
    waiter: Option<usize>,
    last: Option<usize>,
}

/// A thread in the midst of a burst.
#[derive(Default)]
struct Thread {
    /// Indices of its senders, and which one's turn it is.
    senders: Vec<usize>,
    turn: usize,
    /// Receivers of the burst and the next of them; the thread has the leases of those before it.
    receivers: Vec<usize>,
    next: usize,
    tries: u32,
    /// Frames of the burst that were sent.
    sent: f64,
    frames: f64,
}

struct Sim<'a> {
    costs: &'a Costs,
    setup: Setup,
    senders: Vec<Sender>,
    /// Receivers of a sender's next frames, when a burst ended without them.
    left: Vec<Vec<usize>>,
    leases: Vec<Lease>,
    dice: Dice,
    counts: Counts,
    by_sender: Vec<f64>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    asked: f64,
    waited: f64,
    refused: f64,
    had: f64,
    moved: f64,
}

/// Lets it run.
pub fn run(costs: &Costs, setup: Setup) -> Outcome {
    let senders = setup.traffic.senders();
    let mut threads: Vec<Thread> = (0..setup.threads).map(|_| Thread::default()).collect();
    for (at, sender) in senders.iter().enumerate() {
        threads[(sender.port + sender.pair) % setup.threads].senders.push(at);
    }
    let mut sim = Sim {
        costs,
        setup,
        left: vec![Vec::new(); senders.len()],
        leases: vec![Lease::default(); setup.traffic.receivers()],
        dice: Dice::new(0x9e37_79b9_7f4a_7c15),
        counts: Counts::default(),
        by_sender: vec![0.0; senders.len()],
        senders,
    };
    let mut events = BinaryHeap::new();
    for (number, thread) in threads.iter_mut().enumerate().filter(|(_, thread)| !thread.senders.is_empty()) {
        // No two begin at the same time.
        let start = sim.dice.below(2000) as f64 + sim.begin(thread);
        events.push(Reverse((to_ps(start), number)));
    }
    let mut warm = false;
    while let Some(Reverse((when, number))) = events.pop() {
        if when > to_ps(WARM_UP) && !warm {
            warm = true;
            sim.counts = Counts::default();
            sim.by_sender.fill(0.0);
        }
        if when > to_ps(TIME) {
            break;
        }
        let Some(thread) = threads.get_mut(number) else { continue };
        let later = sim.step(number, thread);
        events.push(Reverse((when + to_ps(later), number)));
    }
    sim.outcome()
}

/// Whole picoseconds, so that events have an order.
fn to_ps(ns: f64) -> u64 {
    (ns * 1e3) as u64
}

impl Sim<'_> {
    /// Begins the next burst of a thread; how long until it asks for its first lease.
    fn begin(&mut self, thread: &mut Thread) -> f64 {
        thread.turn = (thread.turn + 1) % thread.senders.len();
        let at = thread.senders[thread.turn];
        let from = self.senders[at];
        thread.receivers = std::mem::take(&mut self.left[at]);
        if thread.receivers.is_empty() {
            self.setup.traffic.burst(from, &mut self.dice, &mut thread.receivers);
        }
        (thread.next, thread.tries, thread.sent) = (0, 0, 0.0);
        let spread = self.setup.traffic.spread(from);
        thread.frames = match self.setup.traffic.pattern {
            Pattern::Several(_) => thread.receivers.len() as f64,
            _ => burst_of(self.setup.octets, spread, thread.senders.len()),
        };
        // A burst of few frames does not come to all of them.
        thread.receivers.truncate(thread.frames as usize);
        // The sender's own ring has a lease as well, which no other thread wants.
        self.costs.burst + if self.setup.threads > 1 { self.costs.lease } else { 0.0 }
    }

    /// Asks for a lease and sends what it is for, or ends the burst and begins another one; how long that takes.
    fn step(&mut self, number: usize, thread: &mut Thread) -> f64 {
        let Some(&wanted) = thread.receivers.get(thread.next) else { return self.end(thread) };
        if thread.tries == 0 {
            self.counts.asked += 1.0;
        }
        let mut lease = self.leases[wanted];
        let expired = self.setup.waiters == Waiters::Expire && thread.tries == TRIES;
        if lease.holder.is_some() || (lease.waiter.is_some_and(|waiter| waiter != number) && !expired) {
            if thread.tries == 0 {
                self.counts.waited += 1.0;
            }
            thread.tries += 1;
            if thread.tries <= TRIES {
                return self.costs.pause;
            }
            self.counts.refused += 1.0;
            self.leases[wanted].waiter = Some(number);
            return self.end(thread);
        }
        let last = lease.last.replace(number).unwrap_or(number);
        (lease.holder, lease.waiter) = (Some(number), None);
        self.leases[wanted] = lease;
        self.counts.had += 1.0;
        self.counts.moved += f64::from(last != number);
        let later = if thread.next > 0 { self.costs.receiver } else { 0.0 };
        (thread.next, thread.tries) = (thread.next + 1, 0);
        let rest = thread.frames - thread.sent;
        let frames = if thread.next == thread.receivers.len() { rest } else { 1f64.min(rest) };
        thread.sent += frames;
        later + self.cost_of_lease(last, number) + frames * self.costs.of_frame(self.setup.octets)
    }

    /// Gives the leases back, and begins the next burst.
    fn end(&mut self, thread: &mut Thread) -> f64 {
        let at = thread.senders[thread.turn];
        self.by_sender[at] += thread.sent;
        let rest = thread.receivers.split_off(thread.next);
        for held in thread.receivers.drain(..) {
            self.leases[held].holder = None;
        }
        self.left[at] = rest;
        self.begin(thread)
    }

    fn cost_of_lease(&self, last: usize, number: usize) -> f64 {
        let Costs { lease, handover, .. } = *self.costs;
        match (self.setup.threads, last == number, last / NEIGHBOURS == number / NEIGHBOURS) {
            (1, ..) => 0.0,
            (_, true, _) => lease,
            (_, _, true) => lease + handover.near,
            _ => lease + handover.far,
        }
    }

    fn outcome(&self) -> Outcome {
        let Counts { asked, waited, refused, had, moved } = self.counts;
        let total: f64 = self.by_sender.iter().sum();
        let least = self.by_sender.iter().copied().fold(f64::INFINITY, f64::min);
        Outcome {
            rate: total / (TIME - WARM_UP) * 1e3,
            waited: waited / asked,
            refused: refused / asked,
            moved: moved / had,
            fairness: least * self.by_sender.len() as f64 / total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulate(threads: usize, ports: usize, pattern: Pattern) -> Outcome {
        run(
            &Costs::MEASURED,
            Setup { threads, traffic: Traffic { pattern, ports }, octets: 64, waiters: Waiters::Expire },
        )
    }

    #[test]
    fn one_thread_is_as_fast_as_its_costs_say() {
        let Costs { burst, frame, .. } = Costs::MEASURED;
        let frames = burst_of(64, 1, 8);
        let expected = frames / (burst + frames * frame) * 1e3;
        let outcome = simulate(1, 8, Pattern::Pairs);
        assert!((outcome.rate / expected - 1.0).abs() < 0.01, "{outcome:?}, expected {expected}");
        assert_eq!((outcome.waited, outcome.moved), (0.0, 0.0));
    }

    #[test]
    fn pairs_share_nothing_and_one_receiver_is_no_faster_by_more_threads() {
        let (one, many) = (simulate(1, 128, Pattern::Pairs), simulate(16, 128, Pattern::Pairs));
        assert!(many.rate > 15.0 * one.rate && many.waited == 0.0, "{one:?} {many:?}");
        let (one, many) = (simulate(1, 128, Pattern::AllToOne), simulate(16, 128, Pattern::AllToOne));
        assert!(many.rate < 1.5 * one.rate && many.waited > 0.5, "{one:?} {many:?}");
    }

    #[test]
    fn every_sender_gets_a_share() {
        for pattern in [Pattern::AllToAll(8), Pattern::Uplink(1, false), Pattern::AllToOne] {
            let outcome = simulate(16, 64, pattern);
            assert!(outcome.fairness > 0.02, "{pattern:?}: {outcome:?}");
        }
    }
}
