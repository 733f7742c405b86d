//! How much of a processor a worker has had.
//!
//! A deadline by the wall clock cannot tell a worker that gets nowhere from one that is not let run: a host with too
//! many guests, a control group that is throttled or frozen, a hypervisor that takes a processor away. So what is
//! held against a worker is the processor time that its own process used meanwhile, all threads together, by the
//! kernel's clock for that. The kernel brings the figure up to date with each of its ticks: some milliseconds late,
//! on a processor without ticks (`nohz_full`) up to a second.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// How long a worker may get nowhere that uses no processor. Then it is replaced, and nobody is blamed: whatever
/// keeps it, the next one may fare better.
pub const STARVED: Duration = Duration::from_secs(10);

/// A moment by all clocks that matter to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For deadlines.
    pub now: Instant,
    /// Nanoseconds of CLOCK_MONOTONIC, as workers read it.
    pub monotonic_ns: u64,
    /// Processor time of the worker's process.
    pub cpu: Duration,
}

impl Moment {
    /// Now, for a worker whose process is known or not.
    pub fn of(pid: Option<Pid>) -> Moment {
        let monotonic = read(ClockId::CLOCK_MONOTONIC).unwrap_or_default();
        let monotonic_ns = u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX);
        Moment { now: Instant::now(), monotonic_ns, cpu: of_process(pid) }
    }
}

/// Processor time that a process has used since it began; nothing while it is not known, and when it is gone.
pub fn of_process(pid: Option<Pid>) -> Duration {
    // As linux/posix-timers.h has it: the process in the upper bits, inverted, and below them CPUCLOCK_SCHED. The
    // function of the C library asks the kernel once more, by a syscall that the policy does not have.
    let clock = |pid: Pid| ClockId::from_raw(!pid.as_raw() << 3 | 2);
    pid.and_then(|pid| read(clock(pid))).unwrap_or_default()
}

fn read(clock: ClockId) -> Option<Duration> {
    let time = clock_gettime(clock).ok()?;
    Some(Duration::new(u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_nsec()).ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn run(program: &str, arguments: &[&str]) -> (Child, Option<Pid>) {
        let child = Command::new(program).args(arguments).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        (child, Some(pid))
    }

    #[test]
    fn who_runs_uses_time_and_who_sleeps_or_is_gone_does_not() {
        let (mut runs, busy) = run("sh", &["-c", "while :; do :; done"]);
        let (mut sleeps, idle) = run("sleep", &["60"]);
        let due = Instant::now() + Duration::from_secs(20);
        while of_process(busy) < Duration::from_millis(100) {
            assert!(Instant::now() < due);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(of_process(idle) < Duration::from_millis(50));
        for child in [&mut runs, &mut sleeps] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!([of_process(busy), of_process(None)], [Duration::ZERO; 2]);
    }
}
