//! What leases and idle rings cost on this machine.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::*};
use std::thread::scope;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;
use sv3_tests::distance::{distance, round_trip};
use sv3_tests::failure::{Failure, Result};

use crate::costs::{Apart, Costs, median};
use crate::lease::{Leased, PAUSES, Waiters};
use crate::traffic::Dice;

/// Two processors.
const CORES: [usize; 2] = [0, 1];
/// How often each is measured; the median counts.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(50);
/// Rings and fds among which one is looked at.
const MANY: usize = 1000;

/// A cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Line(u64);

/// Two threads that want the same lease.
#[derive(Clone, Copy, Debug)]
pub struct Rivals {
    /// What each does in between, and with the lease, in nanoseconds.
    pub own: f64,
    pub held: f64,
    /// Leases that were had, in a second, and the share of those asked for that were not.
    pub rate: f64,
    pub refused: f64,
}

/// Sets what can be measured on this machine, at the distance that its processors have now.
pub fn all(costs: &mut Costs, lines: usize) -> Result<()> {
    pin(CORES[0])?;
    costs.pause = times(1000, || (0..PAUSES).for_each(|_| spin_loop()));
    let alone = Leased::new([0u64; 8]);
    costs.lease = times(1000, || {
        if let Some(mut lease) = alone.lease(0, Waiters::Expire) {
            lease[0] += 1;
        }
    });
    let rings: Vec<_> =
        (0..MANY).map(|_| (Leased::new([0u64; 32]), Box::new((Line::default(), AtomicU16::new(0))))).collect();
    costs.look = times(1, || {
        for (ring, avail) in &rings {
            black_box(ring.lease(0, Waiters::Expire).map(|ring| ring[0] + u64::from(avail.1.load(Acquire))));
        }
    }) / MANY as f64;
    costs.kernel = kernel()?;
    for _ in 0..ROUNDS {
        let before = distance(CORES[0], CORES[1])?;
        let line = round_trip(CORES[0], CORES[1])?.as_nanos() as f64 / 2.0;
        let handover = median((0..ROUNDS).map(|_| handover(lines)).collect::<Result<_>>()?) - line - costs.lease;
        if distance(CORES[0], CORES[1])? == before {
            *costs.line.at(before) = line;
            *costs.handover.at(before) = handover.max(0.0);
            return Ok(());
        }
    }
    Err(Failure::new("the processors did not stay as far from each other as they were; try again"))
}

/// Nanoseconds of one of so many calls, the median of some rounds.
fn times(calls: u32, mut call: impl FnMut()) -> f64 {
    let mut round = || {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            (0..calls).for_each(|_| call());
            count += calls;
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    };
    median((0..ROUNDS).map(|_| round()).collect())
}

fn kernel() -> Result<f64> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let fds = (0..MANY).map(|_| EventFd::new()).collect::<nix::Result<Vec<_>>>()?;
    for fd in &fds {
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    }
    let mut events = [EpollEvent::empty(); 32];
    Ok(times(1, || {
        let _ = epoll.wait(&mut events, EpollTimeout::ZERO);
    }))
}

/// Two threads take a lease in turns, and change so many cache lines of its value: the time of one turn.
fn handover(lines: usize) -> Result<f64> {
    let leased = &Leased::new((0..lines).map(|_| Line::default()).collect::<Vec<_>>());
    #[repr(align(128))]
    struct Turn(AtomicUsize);
    let (turn, over) = (&Turn(AtomicUsize::new(0)), &AtomicBool::new(false));
    let play = move |me: usize| {
        let pinned = pin(CORES[me]);
        let (start, mut turns) = (Instant::now(), 0u64);
        while pinned.is_ok() && !over.load(Relaxed) {
            if turn.0.load(Acquire) != me {
                continue;
            }
            if let Some(mut lease) = leased.lease(me as u32, Waiters::Expire) {
                lease.iter_mut().for_each(|line| line.0 += 1);
            }
            turn.0.store(1 - me, Release);
            turns += 1;
            if turns % 64 == 0 && start.elapsed() > ROUND {
                over.store(true, Relaxed);
            }
        }
        pinned.map(|()| start.elapsed().as_nanos() as f64 / (2 * turns.max(1)) as f64)
    };
    both(play)
}

/// Two threads that need the same lease, for a burst's time, with as much to do in between, less, and more.
pub fn rivals(lines: usize) -> Result<Vec<Rivals>> {
    let loads = [(500.0, 2500.0), (2500.0, 2500.0), (10_000.0, 2500.0), (500.0, 25_000.0)];
    loads.into_iter().map(|(own, held)| compete(own, held, lines)).collect()
}

fn compete(own: f64, held: f64, lines: usize) -> Result<Rivals> {
    let leased = &Leased::new((0..lines).map(|_| Line::default()).collect::<Vec<_>>());
    let counts = &[const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];
    let play = move |me: usize| {
        let pinned = pin(CORES[me]);
        let (start, (mut had, mut refused)) = (Instant::now(), (0, 0));
        while pinned.is_ok() && start.elapsed() < 4 * ROUND {
            busy(own);
            match leased.lease(me as u32, Waiters::Expire) {
                Some(mut lease) => {
                    lease.iter_mut().for_each(|line| line.0 += 1);
                    busy(held);
                    had += 1;
                }
                None => refused += 1,
            }
        }
        counts[me].0.store(had, Relaxed);
        counts[me].1.store(refused, Relaxed);
        pinned.map(|()| start.elapsed().as_secs_f64())
    };
    let seconds = both(play)?;
    let sum = |of: fn(&(AtomicUsize, AtomicUsize)) -> &AtomicUsize| {
        counts.iter().map(|count| of(count).load(Relaxed) as f64).sum::<f64>()
    };
    let (had, refused) = (sum(|count| &count.0), sum(|count| &count.1));
    Ok(Rivals { own, held, rate: had / seconds, refused: refused / (had + refused) })
}

/// Two threads with bursts to several of some receivers each. As the worker does, a thread takes leases one after the
/// other, keeps them to the end of the burst, and gives all back when it does not get one. Each thread has two senders.
#[derive(Clone, Copy, Debug)]
pub struct Several {
    /// Receivers, and how many of them a burst has.
    pub ports: usize,
    pub spread: usize,
    /// How a waiter counts.
    pub waiters: Waiters,
    /// Leases that were had, in a second, and the share of those asked for that were not.
    pub rate: f64,
    pub refused: f64,
}

/// Nanoseconds of a burst before its first lease, and with each.
pub const SEVERAL: (f64, f64) = (400.0, 600.0);

/// Few receivers and more.
pub fn several_receivers(lines: usize) -> Result<Vec<Several>> {
    let loads = [(8, 1), (8, 4), (8, 7), (64, 4), (64, 16)];
    let loads = loads.into_iter().flat_map(|load| [Waiters::Last, Waiters::Expire].map(|waiters| (load, waiters)));
    loads.map(|(load, waiters)| several(load, waiters, lines)).collect()
}

fn several((ports, spread): (usize, usize), waiters: Waiters, lines: usize) -> Result<Several> {
    let ring = || Leased::new((0..lines).map(|_| Line::default()).collect::<Vec<_>>());
    let rings = &(0..ports).map(|_| ring()).collect::<Vec<_>>();
    let counts = &[const { (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];
    let play = move |me: usize| {
        let pinned = pin(CORES[me]);
        let (start, mut dice) = (Instant::now(), Dice::new(me as u64 + 1));
        let (mut had, mut asked, mut refused) = (0, 0, 0);
        // What each sender's next frames are for.
        let mut next = [Vec::new(), Vec::new()];
        for turn in 0.. {
            if pinned.is_err() || start.elapsed() > 4 * ROUND {
                break;
            }
            let wanted: &mut Vec<usize> = &mut next[turn % 2];
            let fresh = if wanted.is_empty() { spread } else { 0 };
            while wanted.len() < fresh {
                let to = dice.below(ports);
                if !wanted.contains(&to) {
                    wanted.push(to);
                }
            }
            busy(SEVERAL.0);
            let mut held = Vec::with_capacity(spread);
            for to in wanted.iter() {
                asked += 1;
                let Some(mut lease) = rings.get(*to).and_then(|ring| ring.lease(me as u32, waiters)) else {
                    refused += 1;
                    break;
                };
                lease.iter_mut().for_each(|line| line.0 += 1);
                busy(SEVERAL.1);
                held.push(lease);
            }
            // The next burst goes on with the frames that are left.
            had += held.len();
            wanted.drain(..held.len());
        }
        counts[me].0.store(had, Relaxed);
        counts[me].1.store(asked, Relaxed);
        counts[me].2.store(refused, Relaxed);
        pinned.map(|()| start.elapsed().as_secs_f64())
    };
    let seconds = both(play)?;
    let sum = |of: fn(&(AtomicUsize, AtomicUsize, AtomicUsize)) -> &AtomicUsize| {
        counts.iter().map(|count| of(count).load(Relaxed) as f64).sum::<f64>()
    };
    let (had, asked, refused) = (sum(|count| &count.0), sum(|count| &count.1), sum(|count| &count.2));
    Ok(Several { ports, spread, waiters, rate: had / seconds, refused: refused / asked })
}

/// Runs it on both processors; the first one's answer.
fn both<T: Send>(play: impl Fn(usize) -> nix::Result<T> + Copy + Send) -> Result<T> {
    scope(|scope| {
        let threads = [0, 1].map(|me| scope.spawn(move || play(me)));
        let [first, second] = threads.map(|thread| thread.join().map_err(|_| Failure::new("a thread panicked")));
        second??;
        Ok(first??)
    })
}

fn busy(nanoseconds: f64) {
    let start = Instant::now();
    while (start.elapsed().as_nanos() as f64) < nanoseconds {}
}

fn pin(core: usize) -> nix::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}

/// For a table: both distances, of which one was measured now.
impl std::fmt::Display for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} near, {:.0} far", self.near, self.far)
    }
}
