//! Counts deaths of workers by the offenders that are to blame for them, and tells when one has caused too many.
//!
//! Deaths within [`WINDOW`] count together. An offender that has caused as many as the limit is in quarantine for
//! [`FIRST`], and twice as long each time after that. An offender that has behaved for [`FORGIVE`] after a quarantine
//! begins anew. What is remembered is bounded: the offender that was blamed longest ago is forgotten first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths that count together.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The first quarantine.
pub const FIRST: Duration = Duration::from_secs(10);
/// The longest quarantine.
pub const LONGEST: Duration = Duration::from_secs(600);
/// How long an offender must behave after a quarantine until that is forgotten.
pub const FORGIVE: Duration = Duration::from_secs(600);
/// Deaths in a window that are looked at, or the limit if that is larger; more make no difference.
const DEATHS_MAX: usize = 256;

/// One death: when, and by which process.
pub type Death = (Instant, i32);

/// All that is held against offenders of one sort: processes, or classes of clients.
pub struct Offences<Offender> {
    limit: usize,
    known_max: usize,
    known: VecDeque<Known<Offender>>,
}

/// What is held against one offender.
pub struct Known<Offender> {
    /// The offender.
    pub offender: Offender,
    /// When the row of deaths began that led to the quarantine.
    pub began: Instant,
    /// Until when the quarantine lasts, or lasted.
    pub until: Option<Instant>,
    deaths: VecDeque<Death>,
    quarantines: u32,
}

impl<Offender: Copy + PartialEq> Offences<Offender> {
    /// Nobody is blamed. Deaths of `limit` in a window mean quarantine; 0: never. At most `known_max` are remembered.
    pub fn new(limit: usize, known_max: usize) -> Offences<Offender> {
        Offences { limit, known_max, known: VecDeque::new() }
    }

    /// A worker died by the doing of `pid`, for which `offender` is blamed; `weight` tells how much the deaths of one
    /// window count together. Until when `offender` goes into quarantine, if it does.
    pub fn blame(
        &mut self,
        offender: Offender,
        (now, pid): Death,
        weight: fn(&VecDeque<Death>) -> usize,
    ) -> Option<Instant> {
        let mut known = match self.known.iter().position(|known| known.offender == offender) {
            Some(at) => self.known.remove(at)?,
            None => Known { offender, began: now, until: None, deaths: VecDeque::new(), quarantines: 0 },
        };
        known.count((now, pid), self.limit);
        let guilty = self.limit > 0 && weight(&known.deaths) >= self.limit;
        let until = guilty.then(|| known.convict(now));
        if self.known.len() >= self.known_max {
            self.known.pop_front();
        }
        self.known.push_back(known);
        until
    }

    /// All that are remembered, those blamed last at the end.
    pub fn known(&self) -> impl Iterator<Item = &Known<Offender>> {
        self.known.iter()
    }

    /// Ends a quarantine; the next one is as long as if this one had been served.
    pub fn release(&mut self, offender: Offender, now: Instant) {
        if let Some(known) = self.known.iter_mut().find(|known| known.offender == offender) {
            known.until = known.until.map(|until| until.min(now));
        }
    }
}

impl<Offender> Known<Offender> {
    fn count(&mut self, (now, pid): Death, limit: usize) {
        if self.until.is_some_and(|until| now.saturating_duration_since(until) > FORGIVE) {
            self.quarantines = 0;
        }
        self.deaths.push_back((now, pid));
        self.deaths.retain(|(death, _)| now.saturating_duration_since(*death) <= WINDOW);
        if self.deaths.len() > DEATHS_MAX.max(limit) {
            self.deaths.pop_front();
        }
    }

    /// Until when it is in quarantine from now on.
    fn convict(&mut self, now: Instant) -> Instant {
        if self.until.is_none_or(|until| until <= now) {
            self.began = self.deaths.front().map_or(now, |(death, _)| *death);
        }
        let length = FIRST.saturating_mul(1 << self.quarantines.min(10)).min(LONGEST);
        self.quarantines += 1;
        self.deaths.clear();
        let until = now + length;
        self.until = Some(until);
        until
    }
}
