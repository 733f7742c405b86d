//! How far two processors are from each other: the time that a cache line takes there and back.
//!
//! The host may move a virtual machine's processors between cores that share a cache and cores that do not, from one
//! second to the next. A switch and its guests, which exchange cache lines, are then several times slower. So rates are
//! comparable only where the distance was the same.

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// What two processors are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// They share a cache.
    Near,
    /// They do not.
    Far,
}

/// A longer round trip is not within a shared cache: 60 to 100 ns there, 350 to 450 ns beyond, on the machines where
/// this was measured.
const NEAR: Duration = Duration::from_nanos(200);
/// Round trips of one measurement. The other processor may be taken away meanwhile, so the shortest counts.
const TRIPS: u32 = 100;
const PROBE: Duration = Duration::from_millis(50);

/// Processors `a` and `b` as they are now.
pub fn distance(a: usize, b: usize) -> nix::Result<Distance> {
    Ok(if round_trip(a, b)? < NEAR { Distance::Near } else { Distance::Far })
}

/// The shortest round trip in a while.
pub fn round_trip(a: usize, b: usize) -> nix::Result<Duration> {
    /// Alone in its cache line and the next.
    #[repr(align(128))]
    struct Ball(AtomicU64);
    const OVER: u64 = u64::MAX;

    let ball = Ball(AtomicU64::new(0));
    thread::scope(|scope| {
        let returns = scope.spawn(|| {
            pin(b)?;
            loop {
                match ball.0.load(Acquire) {
                    OVER => return Ok(()),
                    served if served % 2 == 1 => ball.0.store(served + 1, Release),
                    _ => {}
                }
            }
        });
        let serves = scope.spawn(|| {
            let pinned = pin(a);
            let (begin, mut best, mut served) = (Instant::now(), Duration::MAX, 0);
            while pinned.is_ok() && begin.elapsed() < PROBE {
                let start = Instant::now();
                for _ in 0..TRIPS {
                    ball.0.store(served + 1, Release);
                    while ball.0.load(Acquire) != served + 2 && !returns.is_finished() {}
                    served += 2;
                }
                best = best.min(start.elapsed() / TRIPS);
            }
            ball.0.store(OVER, Release);
            pinned.and(returns.join().unwrap_or(Err(Errno::ECANCELED))).map(|()| best)
        });
        serves.join().unwrap_or(Err(Errno::ECANCELED))
    })
}

fn pin(core: usize) -> nix::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}
