//! Counts deaths of workers by offender, and finds the offender that caused too many.
//!
//! Deaths within [`WINDOW`] count together. When an offender reaches the limit, it goes into quarantine for [`FIRST`],
//! and each next time for twice as long. If it causes no death for [`FORGIVE`] after a quarantine, its record is
//! cleared. The number of offenders is bounded: the one that was blamed longest ago is forgotten first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::estate::Clock;
use crate::estate::record::OffenderRecord;

/// Deaths within this time count together.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Length of the first quarantine.
pub const FIRST: Duration = Duration::from_secs(10);
/// Length of the longest quarantine.
pub const LONGEST: Duration = Duration::from_secs(600);
/// How long after a quarantine an offender must cause no death before its record is cleared.
pub const FORGIVE: Duration = Duration::from_secs(600);
/// Most deaths of one window that are kept, unless the limit is larger.
const DEATHS_MAX: usize = 256;

/// One death: when, and by which process.
pub type Death = (Instant, i32);

/// The offenders of one kind, processes or client classes, that were blamed lately.
pub struct Offences<Offender> {
    limit: usize,
    known_max: usize,
    known: VecDeque<Known<Offender>>,
}

/// One offender's record.
pub struct Known<Offender> {
    /// The offender.
    pub offender: Offender,
    /// The time of the first death that led to the quarantine.
    pub began: Instant,
    /// The end of its last quarantine, if there was one.
    pub until: Option<Instant>,
    deaths: VecDeque<Death>,
    quarantines: u32,
}

impl<Offender: Copy + PartialEq> Offences<Offender> {
    /// Starts without offenders. `limit` deaths within the window mean quarantine; 0: never. At most `known_max`
    /// offenders are remembered.
    pub fn new(limit: usize, known_max: usize) -> Offences<Offender> {
        Offences { limit, known_max, known: VecDeque::new() }
    }

    /// A worker died, `pid` caused it, and `offender` is blamed. `weight` says how much the deaths of one window count
    /// together. Returns the end of the quarantine if one begins.
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
        let until = guilty.then(|| known.begin_quarantine(now));
        if self.known.len() >= self.known_max {
            self.known.pop_front();
        }
        self.known.push_back(known);
        until
    }

    /// All records; the offender that was blamed last comes last.
    pub fn known(&self) -> impl Iterator<Item = &Known<Offender>> {
        self.known.iter()
    }

    /// Ends a quarantine. The next one is still twice as long as this one.
    pub fn release(&mut self, offender: Offender, now: Instant) {
        if let Some(known) = self.known.iter_mut().find(|known| known.offender == offender) {
            known.until = known.until.map(|until| until.min(now));
        }
    }

    /// The records, for the next supervisor.
    pub fn record<Told: From<Offender>>(&self, clock: Clock) -> Vec<OffenderRecord<Told>> {
        let record = |known: &Known<Offender>| OffenderRecord {
            offender: known.offender.into(),
            began: clock.number(known.began),
            until: known.until.map(|until| clock.number(until)),
            deaths: known.deaths.iter().map(|(death, pid)| (clock.number(*death), *pid)).collect(),
            quarantines: known.quarantines,
        };
        self.known.iter().map(record).collect()
    }

    /// Takes over the records of the last supervisor: as many of the latest as are remembered.
    pub fn restore<Told: Into<Offender>>(&mut self, records: Vec<OffenderRecord<Told>>, clock: Clock) {
        for OffenderRecord { offender, began, until, deaths, quarantines } in records {
            let skipped = deaths.len().saturating_sub(DEATHS_MAX.max(self.limit));
            let deaths = deaths.into_iter().skip(skipped).map(|(death, pid)| (clock.time(death), pid)).collect();
            let (began, until) = (clock.time(began), until.map(|until| clock.time(until)));
            if self.known.len() >= self.known_max {
                self.known.pop_front();
            }
            self.known.push_back(Known { offender: offender.into(), began, until, deaths, quarantines });
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

    /// Begins a quarantine and returns its end.
    fn begin_quarantine(&mut self, now: Instant) -> Instant {
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
