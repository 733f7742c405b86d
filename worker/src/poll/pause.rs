//! Pausing a transmit queue whose frame finds no buffer, for a bounded time, instead of dropping the frame.
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
//! - one hold lasts at most [`crate::port::wait_budget::LONGEST_NS`]; then the frame is dropped and counted as ever;
//! - the pauses of one sender's ring together take at most one part in `SHARE` of its time, and at most `SAVED_NS` more: its
//!   [`crate::port::wait_budget::WaitBudget`]. A ring that has none left drops at once, so that its frames to others go on;
//! - a receiver that let a hold end in vain is not waited for again before it has taken a frame;
//! - each thread pauses at most [`MAX_PAUSED`] rings at a time;
//! - frames that go to everybody wait for nobody.

use sv3::ids::QueueId;

use crate::port::kind::Kind;
use crate::port::sink::{BufferWait, Sink};
use crate::port::view::{Found, View};

/// Most queues that a thread pauses at a time, since each is looked at in each turn of the loop.
pub const MAX_PAUSED: usize = 16;

/// What waiting needs of the receive queue: a lease, for the moment and by a thread that has no other one. While another
/// thread has the queue, nobody knows, and the next look will tell.
impl BufferWait {
    /// Whether it is time to try again: the buffer is there, or the queue is not.
    fn is_over(&self, view: &View) -> bool {
        match view.receive(self.queue) {
            Found::Leased(queue) => !queue.endpoint.runs() || queue.endpoint.is_ready(self.cursor),
            Found::Busy => false,
            Found::Nowhere => true,
        }
    }

    /// Asks for a kick when the buffer comes, if there is but one thread to be kicked. True: see [`BufferWait::is_over`].
    fn arm(&self, view: &View) -> bool {
        if !view.counting.single_threaded {
            return self.is_over(view);
        }
        let Some(mut queue) = view.receive(self.queue).leased() else { return true };
        !queue.endpoint.runs() || queue.endpoint.arm_at(self.cursor)
    }

    /// It is waited for no more; `in_vain`: it was waited for long enough. While another thread has the queue that is not
    /// noted, and the frame is paused once more, for no time.
    fn end(&self, view: &View, in_vain: bool) {
        if !in_vain && !view.counting.single_threaded {
            return;
        }
        let Some(mut queue) = view.receive(self.queue).leased() else { return };
        queue.endpoint.disarm();
        // If it came at the last moment, the queue is elsewhere when it has been used.
        if in_vain {
            queue.futile_at = Some(queue.endpoint.position());
        }
    }
}

/// The transmit queues that are paused; `T`: what the loop wants to know when it polls them again.
pub struct Pauses<T> {
    paused: Vec<Paused<T>>,
}

/// What is left of a pause whose queue is tried again: if the frame finds no buffers then either, the pause goes on.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    /// When it began and when it is over, in nanoseconds.
    since: u64,
    until: u64,
}

impl Remaining {
    /// A pause that begins now and lasts for so long.
    pub fn new(now: u64, longest: u64) -> Remaining {
        Remaining { since: now, until: now.saturating_add(longest) }
    }
}

/// A queue that is to be polled again; without a rest if it was stopped.
pub type Resumed<T> = (T, Option<Remaining>);

struct Paused<T> {
    entry: T,
    sender: QueueId,
    wait: BufferWait,
    remaining: Remaining,
    /// The receiver was asked for a kick.
    armed: bool,
}

impl<T: Copy> Pauses<T> {
    /// Room for all that there can be.
    pub fn new() -> Pauses<T> {
        Pauses { paused: Vec::with_capacity(MAX_PAUSED) }
    }

    /// No more can be paused.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.paused.len() >= MAX_PAUSED
    }

    /// Pauses a queue, whose state says so already ([`crate::port::TransmitQueue::is_paused`]).
    pub fn pause(&mut self, entry: T, sender: QueueId, wait: BufferWait, remaining: Remaining) {
        self.paused.push(Paused { entry, sender, wait, remaining, armed: false });
    }

    /// The next one for which it is time: its receiver has more buffers, or it is over.
    #[inline]
    pub fn next_due(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let is_due = |one: &Paused<T>| now >= one.remaining.until || one.wait.is_over(view);
        let due = self.paused.iter().position(is_due)?;
        self.end(due, view, now)
    }

    /// Asks all receivers for kicks. The next one to be polled again, since its receiver has buffers meanwhile.
    pub fn arm(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let due = self.paused.iter_mut().position(|one| {
            one.armed = one.armed || !one.wait.arm(view);
            !one.armed
        })?;
        self.end(due, view, now)
    }

    /// The next of all.
    pub fn next(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let last = self.paused.len().checked_sub(1)?;
        self.end(last, view, now)
    }

    /// The sender's queue, if it is paused: it was stopped, or changed.
    pub fn release(&mut self, sender: QueueId, view: &View, now: u64) -> Option<Resumed<T>> {
        let at = self.paused.iter().position(|one| one.sender == sender)?;
        self.end(at, view, now)
    }

    /// All receivers kick, or have been looked at: the loop may sleep until [`Pauses::until`].
    #[inline]
    pub fn are_armed(&self) -> bool {
        self.paused.iter().all(|one| one.armed)
    }

    /// When the first one is over, in nanoseconds.
    pub fn until(&self) -> Option<u64> {
        self.paused.iter().map(|one| one.remaining.until).min()
    }

    /// `None`: a command changes the sender's queue right now, and it is paused until the next look.
    fn end(&mut self, at: usize, view: &View, now: u64) -> Option<Resumed<T>> {
        let &Paused { entry, sender, wait, remaining: Remaining { since, until }, .. } = self.paused.get(at)?;
        let mut queue = view.transmit(sender).leased()?;
        let ns = now.saturating_sub(since);
        // If it was stopped meanwhile, it may be another client's by now.
        let was_paused = std::mem::take(&mut queue.is_paused);
        if was_paused {
            queue.wait_budget.spend(ns);
        }
        drop(queue);
        self.paused.swap_remove(at);
        wait.end(view, was_paused && now >= until);
        // Others that wait for it must ask for themselves.
        let others = self.paused.iter_mut().filter(|one| one.wait.queue == wait.queue);
        others.for_each(|one| one.armed = false);
        if !was_paused {
            return Some((entry, None));
        }
        let of_sender = view.counters(sender.slot).map(|counters| &counters.paused);
        let of_receiver = view.counters(wait.queue.slot).map(|counters| &counters.paused_others);
        for counters in [of_sender, of_receiver].into_iter().flatten() {
            view.counting.add(&counters.times, 1);
            view.counting.add(&counters.ns, ns);
        }
        Some((entry, Some(Remaining { since: now, until })))
    }
}

#[cfg(test)]
mod tests;
