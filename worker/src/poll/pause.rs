//! Pausing a transmit queue whose frame finds no buffer, for a bounded time, instead of dropping the frame.
//!
//! A receiver that is slightly behind soon has buffers again: a guest whose processor was taken away, or a ring of
//! 256 buffers that gets frames of 64 KiB. A drop costs TCP dozens of segments and a part of its window. So the frame
//! and all frames behind it stay in the sender's ring, not completed. The worker stores nothing, and if it dies the
//! next worker finds the frames in the ring. The worker tries the ring again when the receiver has made more buffers
//! available. While the loop is awake, it looks for them in each turn. While it sleeps, the receiver's kick wakes it.
//! A kick wakes only one thread: with several threads, a thread that pauses rings sleeps for at most a millisecond
//! instead.
//!
//! Frames behind a paused frame wait although they did not cause the wait. So all of this is bounded:
//!
//! - One pause lasts at most [`crate::port::wait_budget::LONGEST_NS`]. Then the frame is dropped and counted.
//! - All pauses of one sender's ring together take at most one part in `SHARE` of its time, and at most `SAVED_NS`
//!   more: its [`crate::port::wait_budget::WaitBudget`]. A ring without budget drops at once, so that its frames to
//!   other receivers pass.
//! - After a futile pause, no sender waits for that receiver before it has taken a frame.
//! - Each thread pauses at most [`MAX_PAUSED`] rings at a time.
//! - A flooded frame waits for no receiver.

use sv3::ids::QueueId;

use crate::port::kind::Kind;
use crate::port::sink::{BufferWait, Sink};
use crate::port::view::{Found, View};

/// Most queues that a thread pauses at a time. Each turn of the loop looks at each of them.
pub const MAX_PAUSED: usize = 16;

/// A wait needs the lease of the receive queue, for a moment, in a thread that has no other lease. While another
/// thread has the lease, the state is unknown, and the next look finds it out.
impl BufferWait {
    /// Whether to try again: the buffer is available, or the queue no longer runs.
    fn is_over(&self, view: &View) -> bool {
        match view.receive(self.queue) {
            Found::Leased(queue) => !queue.endpoint.runs() || queue.endpoint.is_ready(self.cursor),
            Found::Busy => false,
            Found::Nowhere => true,
        }
    }

    /// Asks for a kick when the buffer comes, if only one thread could be kicked. True: see [`BufferWait::is_over`].
    fn arm(&self, view: &View) -> bool {
        if !view.counting.single_threaded {
            return self.is_over(view);
        }
        let Some(mut queue) = view.receive(self.queue).leased() else { return true };
        !queue.endpoint.runs() || queue.endpoint.arm_at(self.cursor)
    }

    /// Ends the wait. `futile`: it lasted as long as it may. If another thread has the queue, that is not noted, and
    /// the frame is paused once more, for no time.
    fn end(&self, view: &View, futile: bool) {
        if !futile && !view.counting.single_threaded {
            return;
        }
        let Some(mut queue) = view.receive(self.queue).leased() else { return };
        queue.endpoint.disarm();
        // If the buffer came at the last moment, the queue's position changes when the buffer is used.
        if futile {
            queue.futile_at = Some(queue.endpoint.position());
        }
    }
}

/// The paused transmit queues. `T`: what the loop needs to poll such a queue again.
pub struct Pauses<T> {
    paused: Vec<Paused<T>>,
}

/// The rest of a pause whose queue is tried again: if the frame still finds no buffers, the pause continues.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    /// When the pause began and when it ends, in nanoseconds.
    since: u64,
    until: u64,
}

impl Remaining {
    /// A pause that begins now and lasts at most `longest` nanoseconds.
    pub fn new(now: u64, longest: u64) -> Remaining {
        Remaining { since: now, until: now.saturating_add(longest) }
    }
}

/// A queue to be polled again. Without `Remaining` if it was stopped.
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
    /// Room for as many as a thread may pause.
    pub fn new() -> Pauses<T> {
        Pauses { paused: Vec::with_capacity(MAX_PAUSED) }
    }

    /// Whether no further queue can be paused.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.paused.len() >= MAX_PAUSED
    }

    /// Pauses a queue, whose state already says so ([`crate::port::TransmitQueue::is_paused`]).
    pub fn pause(&mut self, entry: T, sender: QueueId, wait: BufferWait, remaining: Remaining) {
        self.paused.push(Paused { entry, sender, wait, remaining, armed: false });
    }

    /// The next queue to try again: its receiver has more buffers, or its pause is over.
    #[inline]
    pub fn next_due(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let is_due = |one: &Paused<T>| now >= one.remaining.until || one.wait.is_over(view);
        let due = self.paused.iter().position(is_due)?;
        self.end(due, view, now)
    }

    /// Asks all receivers for kicks. Returns the next queue to try again, if its receiver already has buffers.
    pub fn arm(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let due = self.paused.iter_mut().position(|one| {
            one.armed = one.armed || !one.wait.arm(view);
            !one.armed
        })?;
        self.end(due, view, now)
    }

    /// Ends the next pause, whichever it is.
    pub fn next(&mut self, view: &View, now: u64) -> Option<Resumed<T>> {
        let last = self.paused.len().checked_sub(1)?;
        self.end(last, view, now)
    }

    /// Ends the pause of the sender's queue, if it is paused: the queue was stopped or changed.
    pub fn release(&mut self, sender: QueueId, view: &View, now: u64) -> Option<Resumed<T>> {
        let at = self.paused.iter().position(|one| one.sender == sender)?;
        self.end(at, view, now)
    }

    /// Whether all receivers will kick, or other threads watch them: the loop may sleep until [`Pauses::until`].
    #[inline]
    pub fn are_armed(&self) -> bool {
        self.paused.iter().all(|one| one.armed)
    }

    /// When the first pause ends, in nanoseconds.
    pub fn until(&self) -> Option<u64> {
        self.paused.iter().map(|one| one.remaining.until).min()
    }

    /// `None`: a command is changing the sender's queue, and the queue stays paused until the next look.
    fn end(&mut self, at: usize, view: &View, now: u64) -> Option<Resumed<T>> {
        let &Paused { entry, sender, wait, remaining: Remaining { since, until }, .. } = self.paused.get(at)?;
        let mut queue = view.transmit(sender).leased()?;
        let ns = now.saturating_sub(since);
        // If it was stopped meanwhile, it may now belong to another client.
        let was_paused = std::mem::take(&mut queue.is_paused);
        if was_paused {
            queue.wait_budget.spend(ns);
        }
        drop(queue);
        self.paused.swap_remove(at);
        wait.end(view, was_paused && now >= until);
        // Other queues that wait for this receiver must ask for a kick again.
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
