//! Finds a worker that is awake and makes no progress.
//!
//! # Theory of operation
//!
//! A worker reports [`sv3::ipc::ReportKind::Busy`] when it wakes, unless it reported so lately
//! ([`sv3::ipc::BUSY_QUIET`]). From then on, and from its promotion on, the watchdog looks at the heartbeats of its
//! threads in the ledger at intervals, until all threads have slept for longer than that. So it finds a hang whenever
//! the hang begins, and an idle switch needs no timer.
//!
//! A thread *hangs* when it is awake, its heartbeat stands still, and it has *run* for [`HANG`] meanwhile. A thread
//! that does not get a processor does not hang, however long that lasts, and no client is blamed. A thread that has not
//! run for [`STARVED`] is *stuck*: the kernel waits for a disk or for another event, or the control group is frozen. A
//! stuck worker is replaced too, and no client is blamed.
//!
//! The kernel tells only how long all threads together have run. The ledger has how long each was awake
//! ([`sv3::ledger::SleepClock`]), and a thread runs only while it is awake. So the difference is how long all threads
//! together have waited for a processor. A thread that hangs is awake all the time, so it has run for at least the time
//! that its heartbeat stood still, less all waiting. If other threads waited, this bound is too low and a hang is found
//! later, or by [`STARVED`]. But a thread that did not run is never taken for one that hangs. With one thread the bound
//! is exact.
//!
//! What can disturb this, and what is done about it:
//!
//! - The whole host, with the supervisor, stood still, such as a virtual machine that was paused: the time between two
//!   looks counts for at most [`LOOK_MAX`].
//! - The kernel's number is late (see [`crate::workers::cpu_time`]), so a part of it belongs to the time before the
//!   heartbeat stood still. Then threads seem to have run for longer than they were awake, and the measurement begins
//!   anew.
//! - A write to a full eventfd blocks a thread, which then uses no processor time. Whenever a heartbeat stands still
//!   from one look to the next, the supervisor asks the kernel for full eventfds (`supervisor/stalled.rs`).

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sv3::ipc::BUSY_QUIET;
use sv3::ledger::WorkerArea;

use crate::workers::cpu_time::{Moment, STARVED};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Most time that a look counts for, however late it comes.
const LOOK_MAX: Duration = LOOK.saturating_mul(2);
/// A thread hangs if it is awake and its heartbeat stands still while it runs for this long. It is a few ticks less
/// than half a second, so that the fifth look finds it.
const HANG: Duration = Duration::from_millis(450);

/// What is wrong with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This thread runs and makes no progress.
    Hangs(usize),
    /// A thread makes no progress and does not run.
    Stuck,
}

/// The watch over one worker.
#[derive(Debug)]
pub struct Watchdog {
    threads: usize,
    watch: Option<Watch>,
    /// When the worker last reported that it had woken.
    said: Option<Instant>,
}

#[derive(Debug)]
struct Watch {
    last: Instant,
    /// How long threads had waited for a processor at the last look, as [`waited_ns`] counts.
    waited_ns: u64,
    hearts: Vec<Heart>,
    /// When a thread was last seen awake.
    awake: Instant,
}

/// What the watchdog knows of one thread.
#[derive(Debug, Default)]
struct Heart {
    beat: u64,
    /// How long it has stood still while the thread was awake.
    still: Duration,
    /// The part of that time for which the waiting is known.
    measured: Duration,
    /// How long all threads together waited for a processor meanwhile.
    waited_ns: i64,
}

impl Heart {
    /// A thread whose heartbeat was read just now.
    fn new(beat: u64) -> Heart {
        Heart { beat, ..Heart::default() }
    }

    /// The heartbeat stood still for `step` more, during which threads waited for so long.
    fn stand(&mut self, step: Duration, waited_ns: i64) {
        self.still += step;
        self.measured += step;
        self.waited_ns = self.waited_ns.saturating_add(waited_ns);
        if self.waited_ns < -nanos(LOOK) {
            (self.measured, self.waited_ns) = (Duration::ZERO, 0);
        }
    }

    /// The least time that the thread has run meanwhile.
    fn ran_ns(&self) -> i64 {
        nanos(self.measured).saturating_sub(self.waited_ns)
    }
}

impl Watchdog {
    /// A watchdog that watches nothing yet, for workers of so many threads.
    pub fn new(threads: usize) -> Watchdog {
        Watchdog { threads, watch: None, said: None }
    }

    /// The worker reports that it is awake. Returns false if it reported so just before, which an honest worker does
    /// not.
    pub fn wake(&mut self, area: &WorkerArea, moment: Moment) -> bool {
        self.watch(area, moment);
        let last = self.said.replace(moment.now);
        last.is_none_or(|last| moment.now.saturating_duration_since(last) >= BUSY_QUIET / 4)
    }

    /// Begins to watch: the worker is about to serve.
    pub fn watch(&mut self, area: &WorkerArea, moment: Moment) {
        let threads = area.threads.iter().take(self.threads);
        let watch = self.watch.get_or_insert_with(|| Watch {
            last: moment.now,
            waited_ns: waited_ns(area, self.threads, moment),
            hearts: threads.map(|thread| Heart::new(thread.heartbeat.load(Relaxed))).collect(),
            awake: moment.now,
        });
        watch.awake = moment.now;
    }

    /// When to look next, if at all.
    pub fn due(&self) -> Option<Instant> {
        self.watch.as_ref().map(|watch| watch.last + LOOK)
    }

    /// Whether an awake thread's heartbeat stands where it was at the last look.
    pub fn stands_still(&self, area: &WorkerArea) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut threads = watch.hearts.iter().zip(&area.threads);
        threads.any(|(heart, thread)| thread.sleep_clock().is_awake() && heart.beat == thread.heartbeat.load(Relaxed))
    }

    /// Looks, if it is time to, and returns what is wrong. If several threads hang, it names one that serves a client
    /// rather than one that does not, because the latter may only wait for the former.
    pub fn look(&mut self, area: &WorkerArea, moment: Moment) -> Option<Trouble> {
        let threads = self.threads;
        let watch = self.watch.as_mut().filter(|watch| watch.last + LOOK <= moment.now)?;
        let step = moment.now.saturating_duration_since(watch.last).min(LOOK_MAX);
        watch.last = moment.now;
        let waited_ns = waited_ns(area, threads, moment);
        let waited = waited_ns.wrapping_sub(std::mem::replace(&mut watch.waited_ns, waited_ns)).cast_signed();
        let waited = waited.min(nanos(step).saturating_mul(threads as i64));
        let (mut hangs, mut stuck) = (None, false);
        for (number, (heart, thread)) in watch.hearts.iter_mut().zip(&area.threads).enumerate() {
            let (beat, awake) = (thread.heartbeat.load(Relaxed), thread.sleep_clock().is_awake());
            if awake {
                watch.awake = moment.now;
            }
            if beat != heart.beat || !awake {
                *heart = Heart::new(beat);
                continue;
            }
            heart.stand(step, waited);
            stuck |= heart.still >= STARVED;
            if heart.ran_ns() >= nanos(HANG) {
                let empty = thread.port.load(Relaxed) == 0;
                hangs = hangs.into_iter().chain([(empty, number)]).min();
            }
        }
        if moment.now.saturating_duration_since(watch.awake) > 2 * BUSY_QUIET {
            self.watch = None;
        }
        hangs.map(|(_, number)| Trouble::Hangs(number)).or(stuck.then_some(Trouble::Stuck))
    }
}

/// How long all threads together have been awake without a processor, from an arbitrary origin.
fn waited_ns(area: &WorkerArea, threads: usize, moment: Moment) -> u64 {
    let awake = area.threads.iter().take(threads).map(|thread| thread.sleep_clock().awake_ns(moment.monotonic_ns));
    awake.fold(0, u64::wrapping_add).wrapping_sub(nanos(moment.cpu).cast_unsigned())
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use sv3::ledger::{LedgerMap, ThreadState};

    use super::*;

    const MS: u64 = 1_000_000;

    /// A worker whose clocks the test sets.
    struct Bench {
        ledger: LedgerMap,
        dog: Watchdog,
        moment: Moment,
    }

    impl Bench {
        fn new(threads: usize) -> Bench {
            let (_fd, ledger) = LedgerMap::create().unwrap();
            let moment = Moment { now: Instant::now(), monotonic_ns: 1 << 40, cpu: Duration::from_secs(7) };
            Bench { ledger, dog: Watchdog::new(threads), moment }
        }

        fn thread(&self, number: usize) -> &ThreadState {
            &self.ledger.workers[0].threads[number]
        }

        fn wake_up(&self, number: usize) {
            self.thread(number).wake_up(self.moment.monotonic_ns, self.moment.monotonic_ns);
        }

        fn wake(&mut self) -> bool {
            self.dog.wake(&self.ledger.workers[0], self.moment)
        }

        /// Lets `wall` milliseconds pass, in which the worker uses `cpu` milliseconds of processor time.
        fn pass(&mut self, wall: u64, cpu: u64) {
            self.moment.now += Duration::from_millis(wall);
            self.moment.monotonic_ns += wall * MS;
            self.moment.cpu += Duration::from_millis(cpu);
        }

        fn look(&mut self) -> Option<Trouble> {
            self.dog.look(&self.ledger.workers[0], self.moment)
        }

        /// Looks `count` times, each time after 100 ms in which the worker uses `cpu` milliseconds of processor time.
        fn looks(&mut self, count: usize, cpu: u64) -> Option<Trouble> {
            (0..count).find_map(|_| {
                self.pass(100, cpu);
                self.look()
            })
        }
    }

    #[test]
    fn a_worker_that_runs_and_gets_nowhere_is_found_and_one_that_sleeps_is_left_alone() {
        let mut bench = Bench::new(2);
        assert_eq!(bench.dog.due(), None);
        bench.wake_up(1);
        assert!(bench.wake() && !bench.wake());
        for _ in 0..20 {
            bench.thread(1).heartbeat.fetch_add(1, Relaxed);
            assert_eq!(bench.looks(1, 100), None);
        }
        assert_eq!(bench.looks(4, 98), None);
        assert_eq!(bench.looks(1, 98), Some(Trouble::Hangs(1)));

        let mut bench = Bench::new(2);
        bench.wake();
        assert_eq!((bench.looks(30, 0), bench.dog.due()), (None, None));
    }

    #[test]
    fn a_worker_that_does_not_run_does_not_hang_and_is_replaced_in_the_end() {
        let mut bench = Bench::new(1);
        bench.wake_up(0);
        bench.wake();
        assert_eq!(bench.looks(99, 0), None);
        assert_eq!(bench.looks(1, 0), Some(Trouble::Stuck));

        // The worker runs again, and is frozen again.
        let mut bench = Bench::new(1);
        bench.wake_up(0);
        bench.wake();
        for _ in 0..50 {
            assert_eq!(bench.looks(7, 0), None);
            bench.thread(0).heartbeat.fetch_add(1, Relaxed);
            assert_eq!(bench.looks(3, 100), None);
        }

        // With half a processor, a hang is found in twice the time.
        bench.thread(0).heartbeat.fetch_add(1, Relaxed);
        assert_eq!(bench.looks(9, 50), None);
        assert_eq!(bench.looks(1, 50), Some(Trouble::Hangs(0)));
    }

    #[test]
    fn a_thread_that_did_not_run_is_not_blamed_for_the_time_of_others() {
        let mut bench = Bench::new(3);
        (0..3).for_each(|number| bench.wake_up(number));
        bench.wake();
        let run = |bench: &mut Bench, cpu, count: usize| {
            (0..count).find_map(|_| {
                for number in [0, 2] {
                    bench.thread(number).heartbeat.fetch_add(1, Relaxed);
                }
                bench.looks(1, cpu)
            })
        };
        // Two threads run, the third does not.
        assert_eq!(run(&mut bench, 200, 50), None);
        // Now the third runs too, and is found as soon as a single thread would be.
        bench.thread(1).heartbeat.fetch_add(1, Relaxed);
        assert_eq!(run(&mut bench, 300, 5), None);
        assert_eq!(run(&mut bench, 300, 1), Some(Trouble::Hangs(1)));
    }

    #[test]
    fn a_thread_that_hangs_while_others_sleep_is_found_at_once() {
        let mut bench = Bench::new(64);
        bench.wake_up(63);
        bench.wake();
        assert_eq!(bench.looks(4, 99), None);
        assert_eq!(bench.looks(1, 99), Some(Trouble::Hangs(63)));
    }

    #[test]
    fn of_two_threads_that_hang_the_one_that_serves_a_client_is_found() {
        let mut bench = Bench::new(3);
        [0, 2].into_iter().for_each(|number| bench.wake_up(number));
        bench.thread(2).port.store(7, Relaxed);
        bench.wake();
        assert_eq!(bench.looks(5, 200), Some(Trouble::Hangs(2)));
    }

    #[test]
    fn a_host_that_stood_still_or_whose_figures_come_late_is_no_hang() {
        // All clocks advanced while nothing ran.
        let mut bench = Bench::new(1);
        bench.wake_up(0);
        bench.wake();
        for _ in 0..10 {
            bench.thread(0).heartbeat.fetch_add(1, Relaxed);
            bench.look();
            bench.pass(60_000, 60_000);
            assert_eq!(bench.look(), None);
        }

        // It ran for a second without a tick, and is then frozen: only now does the kernel's clock show the second.
        bench.thread(0).heartbeat.fetch_add(1, Relaxed);
        bench.looks(1, 0);
        assert_eq!(bench.looks(1, 1000).or_else(|| bench.looks(20, 0)), None);

        // It hangs without ticks.
        bench.thread(0).heartbeat.fetch_add(1, Relaxed);
        bench.looks(1, 0);
        let found = (0..20).position(|_| bench.looks(9, 0).or_else(|| bench.looks(1, 1000)).is_some());
        assert_eq!(found, Some(0));
        // It hung between two updates of the kernel's clock: the first one includes time before the hang.
        bench.thread(0).heartbeat.fetch_add(1, Relaxed);
        bench.looks(1, 0);
        assert_eq!(bench.looks(2, 0).or_else(|| bench.looks(1, 1000)), None);
        assert_eq!(bench.looks(9, 0).or_else(|| bench.looks(1, 1000)), Some(Trouble::Hangs(0)));
    }

    #[test]
    fn a_worker_that_is_promoted_is_watched_though_it_says_nothing() {
        let mut bench = Bench::new(1);
        bench.wake_up(0);
        bench.dog.watch(&bench.ledger.workers[0], bench.moment);
        assert_eq!(bench.looks(5, 100), Some(Trouble::Hangs(0)));
    }

    #[test]
    fn noise_in_the_ledger_does_no_harm() {
        let mut bench = Bench::new(3);
        bench.wake();
        for noise in [u64::MAX, 0, 1, 1 << 63, u64::MAX >> 1, 12345].iter().cycle().take(200) {
            bench.thread(1).slept.store(*noise, Relaxed);
            bench.thread(2).heartbeat.store(*noise, Relaxed);
            bench.looks(1, 100);
        }
    }
}
