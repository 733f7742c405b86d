//! Rings of target `switch` that wait for a receiver's buffers, as in the loop, and the conditions that must hold.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ledger::LedgerMap;

use super::GUESTS;
use super::guest::Guest;
use crate::forward::forwarder::Forwarder;
use crate::poll::pause::{Pauses, Remaining};
use crate::port::sink::BufferWait;
use crate::port::wait_budget::{LONGEST_NS, SAVED_NS};
use sv3::ids::QueueId;

/// The longest step of time, in nanoseconds, and so the longest time that a pause may exceed its limit.
pub const LATE_NS: u64 = 40_000_000;

/// The paused rings of a thread.
pub struct Waits {
    pauses: Pauses<u16>,
    /// By sender.
    waiting: [Option<Waiting>; GUESTS as usize],
    /// By sender: the rest of a pause whose ring is tried again, and when it ends.
    remaining: [Option<(Remaining, u64)>; GUESTS as usize],
    /// By receiver: the position of its ring after a futile wait.
    futile_at: [Option<u16>; GUESTS as usize],
}

#[derive(Clone, Copy)]
struct Waiting {
    receiver: u16,
    /// When the pause ends, in nanoseconds.
    until: u64,
    /// How many buffers the receiver had given.
    given: u64,
}

impl Waits {
    /// No paused rings.
    pub fn new() -> Waits {
        Waits {
            pauses: Pauses::new(),
            waiting: Default::default(),
            remaining: Default::default(),
            futile_at: Default::default(),
        }
    }

    /// Whether a sender's ring is paused.
    pub fn is_waiting(&self, slot: u16) -> bool {
        self.waiting[usize::from(slot)].is_some()
    }

    /// A sender's ring was served: `taken` of its frames. The next frame may wait as `wait` says.
    pub fn note(
        &mut self,
        (slot, taken): (u16, usize),
        wait: Option<(BufferWait, u64)>,
        forwarder: &Forwarder,
        guests: &[Guest],
    ) {
        let remaining = self.remaining[usize::from(slot)].take().filter(|_| taken == 0);
        let Some((wait, longest)) = wait else { return };
        let receiver = &guests[usize::from(wait.queue.slot)];
        assert!((1..=LONGEST_NS).contains(&longest) && wait.queue.slot != slot);
        if receiver.honest {
            assert!(receiver.enabled, "a ring waits for a receiver that is down");
            let futile_at = self.futile_at[usize::from(wait.queue.slot)];
            assert_ne!(
                futile_at,
                Some(receiver.position()),
                "a ring waits again for a receiver that has taken nothing since"
            );
        }
        let (remaining, until) =
            remaining.unwrap_or((Remaining::new(forwarder.now_ns, longest), forwarder.now_ns + longest));
        self.waiting[usize::from(slot)] = Some(Waiting { receiver: wait.queue.slot, until, given: receiver.given });
        self.pauses.pause(slot, QueueId::transmit(slot, 0), wait, remaining);
        assert!(self.pauses.until().is_some_and(|until| until <= forwarder.now_ns + LONGEST_NS));
    }

    /// The loop tries again the rings that are due.
    pub fn look(&mut self, forwarder: &Forwarder, guests: &[Guest]) {
        let now = forwarder.now_ns;
        while let Some((slot, remaining)) = self.pauses.next_due(&forwarder.view, now) {
            self.end(slot, remaining, now, guests);
        }
        for waiting in self.waiting.iter().flatten() {
            let receiver = &guests[usize::from(waiting.receiver)];
            let is_due = receiver.given != waiting.given || !receiver.enabled;
            assert!(!is_due || !receiver.honest, "port {} is waited for in spite of its buffers", waiting.receiver);
        }
        assert!(self.pauses.until().is_none_or(|until| until > now));
    }

    /// The loop goes to sleep.
    pub fn sleep(&mut self, forwarder: &Forwarder, guests: &[Guest]) {
        while let Some((slot, remaining)) = self.pauses.arm(&forwarder.view, forwarder.now_ns) {
            self.end(slot, remaining, forwarder.now_ns, guests);
        }
        assert!(self.pauses.are_armed());
    }

    /// A sender's ring was stopped.
    pub fn stop(&mut self, slot: u16, forwarder: &Forwarder) {
        let released = self.pauses.release(QueueId::transmit(slot, 0), &forwarder.view, forwarder.now_ns);
        assert_eq!(released.is_some(), self.waiting[usize::from(slot)].take().is_some());
        assert!(released.is_none_or(|(_, remaining)| remaining.is_none()));
        self.remaining[usize::from(slot)] = None;
    }

    /// Ends all pauses. They were no longer than allowed.
    pub fn end_all(&mut self, forwarder: &Forwarder, guests: &[Guest], ledger: &LedgerMap) {
        while let Some((slot, remaining)) = self.pauses.next(&forwarder.view, forwarder.now_ns) {
            self.end(slot, remaining, forwarder.now_ns, guests);
        }
        assert!(self.waiting.iter().all(Option::is_none));
        let all = &ledger.ports[..usize::from(GUESTS)];
        for counters in all {
            let paused = counters.paused.ns.load(Relaxed);
            assert!(
                paused <= SAVED_NS + LATE_NS + forwarder.now_ns / 2,
                "paused for {paused} ns of {}",
                forwarder.now_ns
            );
        }
        let sum = |of: fn(&sv3::ledger::PortCounters) -> u64| all.iter().map(of).sum::<u64>();
        assert_eq!(sum(|port| port.paused.ns.load(Relaxed)), sum(|port| port.paused_others.ns.load(Relaxed)));
        assert_eq!(sum(|port| port.paused.times.load(Relaxed)), sum(|port| port.paused_others.times.load(Relaxed)));
    }

    fn end(&mut self, slot: u16, remaining: Option<Remaining>, now: u64, guests: &[Guest]) {
        let waiting = self.waiting[usize::from(slot)].take().expect("a ring that waits");
        let receiver = &guests[usize::from(waiting.receiver)];
        if now >= waiting.until && receiver.honest && receiver.enabled {
            self.futile_at[usize::from(waiting.receiver)] = Some(receiver.position());
        }
        self.remaining[usize::from(slot)] = Some((remaining.expect("it was not stopped"), waiting.until));
    }
}
