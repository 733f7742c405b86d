//! Measures the processor time that a worker has used.
//!
//! A deadline by the wall clock cannot tell a worker that makes no progress from a worker that does not get a
//! processor: the host may have too many guests, a control group may be throttled or frozen, or a hypervisor may take a
//! processor away. So the watchdog measures the processor time that the worker's process has used, all threads
//! together, by the kernel's clock for that process. The kernel updates this clock at each tick: some milliseconds
//! late, and up to a second late on a processor without ticks (`nohz_full`).

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// A worker that makes no progress and uses no processor time for this long is replaced, and no client is blamed.
/// Whatever blocks it may not block the next worker.
pub const STARVED: Duration = Duration::from_secs(10);

/// A moment, by all clocks that matter to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The clock for deadlines.
    pub now: Instant,
    /// Nanoseconds of CLOCK_MONOTONIC, as workers read it.
    pub monotonic_ns: u64,
    /// Processor time that the worker's process has used.
    pub cpu: Duration,
}

impl Moment {
    /// Now, for a worker whose pid may not be known yet.
    pub fn of(pid: Option<Pid>) -> Moment {
        let monotonic = read(ClockId::CLOCK_MONOTONIC).unwrap_or_default();
        let monotonic_ns = u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX);
        Moment { now: Instant::now(), monotonic_ns, cpu: of_process(pid) }
    }
}

/// Processor time that a process has used since it began; zero if the pid is not known, or the process has ended.
pub fn of_process(pid: Option<Pid>) -> Duration {
    // The clock id as in linux/posix-timers.h: the inverted pid in the upper bits, and CPUCLOCK_SCHED below. The C
    // library's function makes another syscall, which the policy does not permit.
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
    fn a_running_process_uses_time_and_a_sleeping_or_ended_one_does_not() {
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
