//! The crash log: how workers died, and how long the gap after each death was, for `sv3 crashes` and `sv3 metrics`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use sv3::status::{Crash, Crashes};

use crate::estate::Clock;
use crate::estate::record::CrashLogRecord;
use crate::telemetry::event::rfc3339;
use crate::workers::death::Death;

/// Most deaths that are kept.
const KEPT: usize = 256;

/// Upper bounds of the histogram's classes of gaps, in microseconds, and in seconds as metrics write them.
pub const GAP_BOUNDS: [(u64, &str); 16] = [
    (100, "0.0001"),
    (200, "0.0002"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_000, "0.002"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (20_000, "0.02"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (200_000, "0.2"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_000_000, "2.0"),
    (5_000_000, "5.0"),
    (10_000_000, "10.0"),
];

/// Causes that metrics show from the start with 0, so that the first death of each kind is an increase.
const CAUSES: [&str; 9] =
    ["SIGABRT", "SIGBUS", "SIGILL", "SIGKILL", "SIGSEGV", "SIGSYS", "exit", "panic", "supervisor"];

/// The crash log. It is bounded: the oldest deaths are forgotten, but counts stay.
pub struct CrashLog {
    deaths: VecDeque<Entry>,
    causes: BTreeMap<&'static str, u64>,
    gaps: Gaps,
}

struct Entry {
    at: Instant,
    crash: Crash,
}

/// A histogram of gaps.
#[derive(Default)]
pub struct Gaps {
    /// By class of [`GAP_BOUNDS`]: gaps up to its bound and above the bound before.
    pub classes: [u64; GAP_BOUNDS.len()],
    /// Number of gaps.
    pub count: u64,
    /// Sum of all gaps.
    pub sum: Duration,
}

impl Default for CrashLog {
    fn default() -> CrashLog {
        let causes = CAUSES.into_iter().map(|cause| (cause, 0)).collect();
        CrashLog { deaths: VecDeque::new(), causes, gaps: Gaps::default() }
    }
}

impl CrashLog {
    /// A serving worker has died. Returns the crash as far as it is known.
    pub fn died(&mut self, at: Instant, worker: (Option<u32>, Duration), death: &Death) -> Crash {
        let (worker_pid, uptime) = worker;
        let crash = Crash {
            worker_pid,
            signal: death.signal.map(str::to_string),
            exit_code: death.exit_code,
            cause: death.words.clone(),
            fault: death.fault.clone(),
            syscall: death.violation.clone(),
            panic: death.panic.clone(),
            thread: death.thread,
            serving: death.serving.clone(),
            frame: death.frame.clone(),
            trace: death.trace.clone(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            ..Crash::default()
        };
        self.add(at, cause(death), crash)
    }

    /// Replaces the last death, because more is known of it.
    pub fn amend_last(&mut self, crash: &Crash) {
        if let Some(last) = self.deaths.back_mut() {
            last.crash.cause.clone_from(&crash.cause);
            last.crash.grown.clone_from(&crash.grown);
        }
    }

    /// A worker could not be started.
    pub fn could_not_start(&mut self, at: Instant, why: &str) -> Crash {
        let cause = format!("could not be started: {why}");
        self.add(at, "not_started", Crash { cause, ..Crash::default() })
    }

    /// A worker serves again, with so many ports. A gap begins with the first death in it.
    pub fn took_over(&mut self, now: Instant, ports: usize) {
        let waiting = self.deaths.iter_mut().filter(|entry| entry.crash.gap_us.is_none());
        let mut first = None;
        for Entry { at, crash } in waiting {
            let gap = now.saturating_duration_since(*at);
            first.get_or_insert(gap);
            crash.gap_us = Some(micros(gap));
            crash.ports = Some(ports);
        }
        if let Some(gap) = first {
            self.gaps.add(gap);
        }
    }

    /// Every death that is kept, oldest first.
    pub fn crashes(&self) -> Crashes {
        Crashes { crashes: self.deaths.iter().map(|entry| entry.crash.clone()).collect() }
    }

    /// Deaths by cause: the signal; `panic`; `exit`; `supervisor`, if the supervisor killed it; `not_started`.
    pub fn causes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.causes.iter().map(|(cause, count)| (*cause, *count))
    }

    /// The histogram of gaps.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// What the next supervisor must know of deaths: those that are kept, their causes, and the gaps.
    pub fn record(&self, clock: Clock) -> CrashLogRecord {
        CrashLogRecord {
            deaths: self.deaths.iter().map(|entry| (clock.number(entry.at), entry.crash.clone())).collect(),
            causes: self.causes.iter().map(|(cause, count)| (cause.to_string(), *count)).collect(),
            classes: self.gaps.classes.to_vec(),
            gaps: self.gaps.count,
            gaps_ns: u64::try_from(self.gaps.sum.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Goes on with the log of the last supervisor.
    pub fn restore(&mut self, record: CrashLogRecord, clock: Clock) {
        let skipped = record.deaths.len().saturating_sub(KEPT);
        let deaths = record.deaths.into_iter().skip(skipped);
        self.deaths = deaths.map(|(at, crash)| Entry { at: clock.time(at), crash }).collect();
        let signals = Signal::iterator().map(Signal::as_str);
        let known: Vec<&'static str> = CAUSES.into_iter().chain(["not_started"]).chain(signals).collect();
        for (cause, count) in record.causes {
            if let Some(cause) = known.iter().find(|known| **known == cause) {
                self.causes.insert(cause, count);
            }
        }
        for (class, count) in self.gaps.classes.iter_mut().zip(record.classes) {
            *class = count;
        }
        (self.gaps.count, self.gaps.sum) = (record.gaps, Duration::from_nanos(record.gaps_ns));
    }

    fn add(&mut self, at: Instant, cause: &'static str, crash: Crash) -> Crash {
        *self.causes.entry(cause).or_default() += 1;
        let crash = Crash { time: rfc3339(SystemTime::now()), ..crash };
        if self.deaths.len() >= KEPT {
            self.deaths.pop_front();
        }
        self.deaths.push_back(Entry { at, crash: crash.clone() });
        crash
    }
}

impl Gaps {
    fn add(&mut self, gap: Duration) {
        let class = GAP_BOUNDS.iter().zip(&mut self.classes).find(|((bound, _), _)| micros(gap) <= *bound);
        if let Some((_, count)) = class {
            *count += 1;
        }
        self.count += 1;
        self.sum += gap;
    }
}

fn cause(death: &Death) -> &'static str {
    match (death.killed_by_us, &death.panic, death.signal) {
        (true, _, _) => "supervisor",
        (false, Some(_), _) => "panic",
        (false, None, Some(signal)) => signal,
        (false, None, None) => "exit",
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segv() -> Death {
        Death { words: "killed by SIGSEGV".to_string(), signal: Some("SIGSEGV"), ..Death::default() }
    }

    #[test]
    fn the_next_supervisor_goes_on_with_the_log() {
        let (mut before, mut after) = (CrashLog::default(), CrashLog::default());
        let start = Instant::now();
        (0..KEPT + 3).for_each(|_| drop(before.died(start, (Some(7), Duration::from_millis(1)), &segv())));
        before.could_not_start(start, "no memory");
        before.took_over(start + Duration::from_micros(700), 2);
        let clock = Clock::new();
        let mut record = before.record(clock);
        record.causes.push(("nonsense".to_string(), 1));
        record.classes.push(9);
        after.restore(record, clock);
        assert_eq!(after.crashes().crashes, before.crashes().crashes);
        assert!(after.causes().eq(before.causes()));
        assert_eq!((after.gaps().classes, after.gaps().count, after.gaps().sum), {
            let gaps = before.gaps();
            (gaps.classes, gaps.count, gaps.sum)
        });
    }

    #[test]
    fn deaths_in_one_gap_each_know_their_own_and_the_gap_is_counted_once() {
        let mut crash_log = CrashLog::default();
        let start = Instant::now();
        crash_log.died(start, (Some(7), Duration::from_millis(1500)), &segv());
        crash_log.could_not_start(start + Duration::from_micros(300), "no memory");
        assert_eq!(crash_log.crashes().crashes[0].gap_us, None);
        crash_log.took_over(start + Duration::from_micros(1000), 3);
        let crashes = crash_log.crashes().crashes;
        assert_eq!((crashes[0].worker_pid, crashes[0].uptime_ms), (Some(7), 1500));
        assert_eq!(crashes.iter().map(|crash| crash.gap_us).collect::<Vec<_>>(), [Some(1000), Some(700)]);
        assert_eq!(crashes[1].ports, Some(3));
        assert_eq!((crash_log.gaps().count, crash_log.gaps().classes[3]), (1, 1), "a bound belongs to its class");
        // A planned start ends no gap.
        crash_log.took_over(start + Duration::from_secs(1), 3);
        assert_eq!(crash_log.gaps().count, 1);
    }

    #[test]
    fn a_storm_is_counted_in_full_and_remembered_in_part() {
        let mut crash_log = CrashLog::default();
        let start = Instant::now();
        for n in 0..1000 {
            crash_log.died(start, (Some(n), Duration::ZERO), &segv());
            crash_log.took_over(start + Duration::from_secs(20), 0);
        }
        let crashes = crash_log.crashes().crashes;
        assert_eq!((crashes.len(), crashes[0].worker_pid), (256, Some(744)));
        assert!(crash_log.causes().any(|(cause, count)| (cause, count) == ("SIGSEGV", 1000)));
        let gaps = crash_log.gaps();
        assert_eq!((gaps.count, gaps.sum, gaps.classes.iter().sum::<u64>()), (1000, Duration::from_secs(20_000), 0));
    }

    #[test]
    fn causes_tell_our_own_kills_and_panics_apart() {
        let of = |killed_by_us, panic: Option<&str>, signal| {
            cause(&Death { killed_by_us, panic: panic.map(str::to_string), signal, ..Death::default() })
        };
        assert_eq!(of(true, None, Some("SIGKILL")), "supervisor");
        assert_eq!(of(false, Some("oops"), Some("SIGILL")), "panic");
        assert_eq!(of(false, None, Some("SIGKILL")), "SIGKILL");
        assert_eq!(of(false, None, None), "exit");
    }
}
