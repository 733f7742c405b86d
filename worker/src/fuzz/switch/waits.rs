//! Rings of target `switch` that wait for a receiver's buffers, as the loop has them wait, and what must hold of that.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ledger::LedgerMap;

use super::GUESTS;
use super::guest::Guest;
use crate::forward::forwarder::Forwarder;
use crate::poll::pause::{BufferWait, LONGEST_NS, Pauses, Remaining};

/// The most that time goes on at once, in nanoseconds, and so the most that a hold may last too long.
pub const LATE_NS: u64 = 40_000_000;
/// Most wait_budget that is saved up (docs/understand/fairness.md).
const SAVED_NS: u64 = 50_000_000;

/// The rings of a thread that wait.
pub struct Waits {
    holds: Pauses<u16>,
    /// By sender.
    waiting: [Option<Waiting>; GUESTS as usize],
    /// By sender: what is left of a hold whose ring is tried again, and until when that is.
    rests: [Option<(Remaining, u64)>; GUESTS as usize],
    /// By receiver: where its ring stood when it was waited for in vain.
    futile_at: [Option<u16>; GUESTS as usize],
}

#[derive(Clone, Copy)]
struct Waiting {
    receiver: u16,
    /// When it is over, in nanoseconds.
    until: u64,
    /// How many buffers that one had given.
    given: u64,
}

impl Waits {
    /// None.
    pub fn new() -> Waits {
        Waits {
            holds: Pauses::new(),
            waiting: Default::default(),
            rests: Default::default(),
            futile_at: Default::default(),
        }
    }

    /// Whether a sender's ring is not served.
    pub fn is_waiting(&self, slot: u16) -> bool {
        self.waiting[usize::from(slot)].is_some()
    }

    /// A sender's ring was served, `taken` frames of it; the next one may wait for so long.
    pub fn note(
        &mut self,
        (slot, taken): (u16, usize),
        wanted: Option<(BufferWait, u64)>,
        forwarder: &Forwarder,
        guests: &[Guest],
    ) {
        let rest = self.rests[usize::from(slot)].take().filter(|_| taken == 0);
        let Some((wanted, longest)) = wanted else { return };
        let receiver = &guests[usize::from(wanted.slot)];
        assert!((1..=LONGEST_NS).contains(&longest) && wanted.slot != slot);
        if receiver.honest {
            assert!(receiver.enabled, "somebody is waited for who receives nothing");
            let futile_at = self.futile_at[usize::from(wanted.slot)];
            assert_ne!(
                futile_at,
                Some(receiver.position()),
                "somebody is waited for again who has taken nothing since"
            );
        }
        let (rest, until) = rest.unwrap_or((Remaining::new(forwarder.now_ns, longest), forwarder.now_ns + longest));
        self.waiting[usize::from(slot)] = Some(Waiting { receiver: wanted.slot, until, given: receiver.given });
        self.holds.hold(slot, (slot, 1), wanted, rest);
        assert!(self.holds.until().is_some_and(|until| until <= forwarder.now_ns + LONGEST_NS));
    }

    /// The loop looks for whom it is time.
    pub fn look(&mut self, forwarder: &Forwarder, guests: &[Guest]) {
        let now = forwarder.now_ns;
        while let Some((slot, rest)) = self.holds.next_due(forwarder, now) {
            self.end(slot, rest, now, guests);
        }
        for waiting in self.waiting.iter().flatten() {
            let receiver = &guests[usize::from(waiting.receiver)];
            let is_due = receiver.given != waiting.given || !receiver.enabled;
            assert!(!is_due || !receiver.honest, "port {} is waited for in spite of its buffers", waiting.receiver);
        }
        assert!(self.holds.until().is_none_or(|until| until > now));
    }

    /// The loop goes to sleep.
    pub fn sleep(&mut self, forwarder: &Forwarder, guests: &[Guest]) {
        while let Some((slot, rest)) = self.holds.arm(forwarder, forwarder.now_ns) {
            self.end(slot, rest, forwarder.now_ns, guests);
        }
        assert!(self.holds.are_armed());
    }

    /// A sender's ring was stopped.
    pub fn stop(&mut self, slot: u16, forwarder: &Forwarder) {
        let released = self.holds.release((slot, 1), forwarder, forwarder.now_ns);
        assert_eq!(released.is_some(), self.waiting[usize::from(slot)].take().is_some());
        assert!(released.is_none_or(|(_, rest)| rest.is_none()));
        self.rests[usize::from(slot)] = None;
    }

    /// All go on. They have waited no longer than they may.
    pub fn end_all(&mut self, forwarder: &Forwarder, guests: &[Guest], ledger: &LedgerMap) {
        while let Some((slot, rest)) = self.holds.next(forwarder, forwarder.now_ns) {
            self.end(slot, rest, forwarder.now_ns, guests);
        }
        assert!(self.waiting.iter().all(Option::is_none));
        let lines = &ledger.ports[..usize::from(GUESTS)];
        for line in lines {
            let held = line.paused.ns.load(Relaxed);
            assert!(held <= SAVED_NS + LATE_NS + forwarder.now_ns / 2, "held for {held} ns of {}", forwarder.now_ns);
        }
        let sum = |of: fn(&sv3::ledger::PortCounters) -> u64| lines.iter().map(of).sum::<u64>();
        assert_eq!(sum(|line| line.paused.ns.load(Relaxed)), sum(|line| line.paused_others.ns.load(Relaxed)));
        assert_eq!(sum(|line| line.paused.times.load(Relaxed)), sum(|line| line.paused_others.times.load(Relaxed)));
    }

    fn end(&mut self, slot: u16, rest: Option<Remaining>, now: u64, guests: &[Guest]) {
        let waiting = self.waiting[usize::from(slot)].take().expect("a ring that waits");
        let receiver = &guests[usize::from(waiting.receiver)];
        if now >= waiting.until && receiver.honest && receiver.enabled {
            self.futile_at[usize::from(waiting.receiver)] = Some(receiver.position());
        }
        self.rests[usize::from(slot)] = Some((rest.expect("it was not stopped"), waiting.until));
    }
}
