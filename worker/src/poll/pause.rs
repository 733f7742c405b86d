//! Holding a sender back whose frame finds no buffer, for a bounded time, instead of dropping the frame.
//!
//! A receiver that is a little behind (a guest whose processor was taken away, a ring of 256 buffers under frames of
//! 64 KiB) has buffers again soon, while a drop costs TCP dozens of segments and a part of its window. So the frame and
//! all that stand behind it stay where they are, in the sender's ring, not completed: nothing is stored, and a worker that
//! dies meanwhile leaves them to the next one. The ring is tried again when the receiver has made more buffers available,
//! which is looked at in each turn of the loop while it is awake, and which the receiver's kick tells when it sleeps. A kick
//! wakes but one thread: where there are several, one that pauses something sleeps for a millisecond at most instead.
//!
//! Who waits behind such a frame waits for somebody else's fault, so all of this is bounded:
//!
//! - one hold lasts at most [`LONGEST_NS`]; then the frame is dropped and counted as ever;
//! - the pauses of one sender's ring together take at most one part in [`SHARE`] of its time, and at most [`SAVED_NS`] more: its
//!   [`WaitBudget`]. A ring that has none left drops at once, so that its frames to others go on;
//! - a receiver that let a hold end in vain is not waited for again before it has taken a frame;
//! - each thread pauses at most [`MAX_PAUSED`] rings at a time;
//! - frames that go to everybody wait for nobody.

use crate::forward::forwarder::Forwarder;
use crate::poll::lease::Leased;
use crate::port::{Ring, RingLease};

/// Longest time that one frame is waited for, in nanoseconds: a guest whose processor was taken away has it again by then.
pub const LONGEST_NS: u64 = 20_000_000;
/// The share of a ring's time that its pauses may take is one part in this.
const SHARE: u64 = 2;
/// Most wait_budget that is saved up, in nanoseconds.
const SAVED_NS: u64 = 50_000_000;
/// The least that a hold is worth, in nanoseconds: the kernel's timeouts count milliseconds.
const LEAST_NS: u64 = 1_000_000;
/// Most rings that a thread pauses at a time, since each is looked at in each turn of the loop.
pub const MAX_PAUSED: usize = 16;

/// What a frame waits for: a buffer of a receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferWait {
    /// The receiver.
    pub slot: u16,
    /// Vring index.
    pub ring: u16,
    /// Where the buffer is to be.
    pub cursor: u16,
}

/// What waiting needs of the ring: a lease, for the moment and by a thread that has no other one. While another thread has
/// the ring, nobody knows, and the next look will tell.
impl BufferWait {
    fn leased(&self, forwarder: &Forwarder) -> Option<&'static Leased<Ring>> {
        forwarder.ring(self.slot, self.ring)
    }

    /// Whether it is time to try again: the buffer is there, or the ring is not.
    fn is_there(&self, forwarder: &Forwarder) -> bool {
        let Some(leased) = self.leased(forwarder) else { return true };
        let Some(state) = leased.lease(forwarder.number()) else { return false };
        let queue = state.queue.as_ref().filter(|_| state.runs());
        queue.is_none_or(|queue| queue.is_ready(self.cursor))
    }

    /// Asks for a kick when it comes, if there is but one thread to be kicked. True: see [`BufferWait::is_there`].
    fn arm(&self, forwarder: &Forwarder) -> bool {
        if !forwarder.counting().single_threaded {
            return self.is_there(forwarder);
        }
        let Some(mut state) = self.leased(forwarder).and_then(|leased| leased.lease(forwarder.number())) else {
            return true;
        };
        let runs = state.runs();
        state.queue.as_mut().filter(|_| runs).is_none_or(|queue| queue.arm_at(self.cursor))
    }

    /// It is waited for no more; `over`: for it was waited for long enough. While another thread has the ring that is not
    /// noted, and the frame is held once more, for no time.
    fn end(&self, forwarder: &Forwarder, over: bool) {
        if !over && !forwarder.counting().single_threaded {
            return;
        }
        let Some(mut state) = self.leased(forwarder).and_then(|leased| leased.lease(forwarder.number())) else {
            return;
        };
        let Some(queue) = state.queue.as_mut() else { return };
        queue.disarm();
        // If it came at the last moment, the ring is elsewhere when it has been used.
        if over {
            state.futile_at = Some(queue.position());
        }
    }
}

/// How long a transmit ring may still be held: saved up while time goes by, spent by pauses.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitBudget {
    /// Nanoseconds; below 0: a hold took longer than it might.
    saved: i64,
    /// When it was looked at last, in nanoseconds.
    seen: u64,
}

impl WaitBudget {
    /// How long a hold that begins now may last; 0: none may.
    #[inline]
    pub fn left(&mut self, now: u64) -> u64 {
        let passed = now.saturating_sub(std::mem::replace(&mut self.seen, now));
        self.saved = self.saved.saturating_add_unsigned(passed / SHARE).min(SAVED_NS as i64);
        u64::try_from(self.saved).ok().filter(|saved| *saved >= LEAST_NS).map_or(0, |saved| saved.min(LONGEST_NS))
    }

    /// A hold took that long.
    pub fn spend(&mut self, held: u64) {
        self.saved = self.saved.saturating_sub_unsigned(held);
    }
}

/// The rings that are held; `T`: what the loop wants to know when it polls them again.
pub struct Pauses<T> {
    held: Vec<Paused<T>>,
}

/// What is left of a hold whose ring is tried again: if the frame finds no buffers then either, it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    /// When it was paused and when it is over, in nanoseconds.
    since: u64,
    until: u64,
}

impl Remaining {
    /// A hold that begins now and lasts for so long.
    pub fn new(now: u64, longest: u64) -> Remaining {
        Remaining { since: now, until: now.saturating_add(longest) }
    }
}

/// A ring that is to be polled again; without a rest if it was stopped.
pub type Resumed<T> = (T, Option<Remaining>);

struct Paused<T> {
    entry: T,
    /// Slot and vring index of the sender.
    sender: (u16, u16),
    wanted: BufferWait,
    remaining: Remaining,
    /// The receiver was asked for a kick.
    armed: bool,
}

impl<T: Copy> Pauses<T> {
    /// Room for all that there can be.
    pub fn new() -> Pauses<T> {
        Pauses { held: Vec::with_capacity(MAX_PAUSED) }
    }

    /// No more can be held.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.held.len() >= MAX_PAUSED
    }

    /// Pauses a ring, whose state says so already ([`Ring::is_paused`]).
    pub fn hold(&mut self, entry: T, sender: (u16, u16), wanted: BufferWait, remaining: Remaining) {
        self.held.push(Paused { entry, sender, wanted, remaining, armed: false });
    }

    /// The next one for which it is time: its receiver has more buffers, or it is over.
    #[inline]
    pub fn next_due(&mut self, forwarder: &Forwarder, now: u64) -> Option<Resumed<T>> {
        let due = self.held.iter().position(|held| now >= held.remaining.until || held.wanted.is_there(forwarder))?;
        self.end(due, forwarder, now)
    }

    /// Asks all receivers for kicks. The next one to be polled again, since its receiver has buffers meanwhile.
    pub fn arm(&mut self, forwarder: &Forwarder, now: u64) -> Option<Resumed<T>> {
        let due = self.held.iter_mut().position(|held| {
            held.armed = held.armed || !held.wanted.arm(forwarder);
            !held.armed
        })?;
        self.end(due, forwarder, now)
    }

    /// The next of all.
    pub fn next(&mut self, forwarder: &Forwarder, now: u64) -> Option<Resumed<T>> {
        let last = self.held.len().checked_sub(1)?;
        self.end(last, forwarder, now)
    }

    /// The sender's ring, if it is held: it was stopped, or changed.
    pub fn release(&mut self, sender: (u16, u16), forwarder: &Forwarder, now: u64) -> Option<Resumed<T>> {
        let at = self.held.iter().position(|held| held.sender == sender)?;
        self.end(at, forwarder, now)
    }

    /// All receivers kick, or have been looked at: the loop may sleep until [`Pauses::until`].
    #[inline]
    pub fn are_armed(&self) -> bool {
        self.held.iter().all(|held| held.armed)
    }

    /// When the first one is over, in nanoseconds.
    pub fn until(&self) -> Option<u64> {
        self.held.iter().map(|held| held.remaining.until).min()
    }

    /// `None`: a command changes the sender's ring right now, and it is held until the next look.
    fn end(&mut self, at: usize, forwarder: &Forwarder, now: u64) -> Option<Resumed<T>> {
        let &Paused { entry, sender: (slot, ring), wanted, remaining: Remaining { since, until }, .. } =
            self.held.get(at)?;
        let mut state: RingLease = forwarder.ring(slot, ring)?.lease(forwarder.number())?;
        let ns = now.saturating_sub(since);
        // If it was stopped meanwhile, it may be another client's by now.
        let was_held = std::mem::take(&mut state.is_paused);
        if was_held {
            state.wait_budget.spend(ns);
        }
        drop(state);
        self.held.swap_remove(at);
        wanted.end(forwarder, was_held && now >= until);
        // Whoever else waits for it must ask for himself.
        let receiver = (wanted.slot, wanted.ring);
        let others = self.held.iter_mut().filter(|held| (held.wanted.slot, held.wanted.ring) == receiver);
        others.for_each(|held| held.armed = false);
        if !was_held {
            return Some((entry, None));
        }
        for line in [&forwarder.line(slot).paused, &forwarder.line(wanted.slot).paused_others] {
            forwarder.counting().add(&line.times, 1);
            forwarder.counting().add(&line.ns, ns);
        }
        Some((entry, Some(Remaining { since: now, until })))
    }
}

#[cfg(test)]
mod tests;
