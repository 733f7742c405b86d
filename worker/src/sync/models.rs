//! Models of how threads interact: loom tries every order of their steps that the memory model allows.
//!
//! The models compile the same files, `lease.rs`, `bits.rs` and `flag.rs`, with loom's atomics and locks instead of the standard
//! library's, and with fewer tries. docs/understand/threads.md says what they show.

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::*};
use loom::thread;

mod primitives {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicU32, Ordering, Ordering::Relaxed};
    pub use loom::sync::{Mutex, MutexGuard};

    pub const TRIES: u32 = 1;
    pub const PAUSES: u32 = 1;
}

#[path = "bits.rs"]
mod bits;
#[path = "flag.rs"]
mod flag;
#[allow(dead_code)] // The type for leases with a static lifetime.
#[path = "lease.rs"]
mod lease;

use bits::Bits;
use flag::Flag;
use lease::Leased;

/// Tries all orders in which at most `preemptions` threads are interrupted.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Each thread tries once. The values do not mix, and afterwards the next thread gets the lease at once, whichever
/// waiters were left behind.
#[test]
fn a_lease_is_one_thread_s_at_a_time_and_nobody_is_locked_out_for_good() {
    explore(3, || {
        let leased = Arc::new(Leased::new((0, 0)));
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let leased = leased.clone();
                thread::spawn(move || {
                    let Some(mut lease) = leased.lease(number) else { return 0 };
                    lease.0 += 1;
                    thread::yield_now();
                    lease.1 += 1;
                    1
                })
            })
            .collect();
        let mine = leased.lease(2).map_or(0, |mut lease| {
            (lease.0, lease.1) = (lease.0 + 1, lease.1 + 1);
            1
        });
        let done = mine + threads.into_iter().map(|thread| thread.join().unwrap()).sum::<i32>();
        assert!(done >= 1, "all were turned away, from what nobody had");
        let lease = leased.lease(7).expect("nobody has it");
        assert_eq!(*lease, (done, done));
    });
}

/// Two bursts need two leases each, in different order, and give back all when one is not free. The control thread
/// takes the lease that it needs.
#[test]
fn no_thread_waits_for_one_that_waits() {
    explore(2, || {
        let pair = Arc::new([Leased::new(0), Leased::new(0)]);
        let burst = |number: u32, order: [usize; 2], pair: Arc<[Leased<i32>; 2]>| {
            let [first, second] = order;
            let Some(mut one) = pair[first].lease(number) else { return 0 };
            let Some(mut other) = pair[second].lease(number) else { return 0 };
            (*one, *other) = (*one + 1, *other + 1);
            1
        };
        let other = pair.clone();
        let thread = thread::spawn(move || burst(1, [1, 0], other));
        let mut done = burst(0, [0, 1], pair.clone());
        // Spins until the lease is free. Loom reports a lease that never is.
        *pair[1].seize(|| ()) += 10;
        done += thread.join().unwrap();
        let both = [pair[0].lease(2).map(|lease| *lease), pair[1].lease(2).map(|lease| *lease)];
        assert_eq!(both, [Some(done), Some(done + 10)]);
    });
}

/// Threads that did not get the lease try again and again: each gets it in the end.
#[test]
fn a_thread_that_comes_again_gets_it() {
    explore(2, || {
        let leased = Arc::new(Leased::new(0));
        let insist = |leased: &Leased<i32>, number: u32| loop {
            match leased.lease(number) {
                Some(mut lease) => {
                    thread::yield_now();
                    return *lease += 1;
                }
                None => thread::yield_now(),
            }
        };
        let other = leased.clone();
        let thread = thread::spawn(move || insist(&other, 1));
        insist(&leased, 0);
        thread.join().unwrap();
        assert_eq!(leased.waiter.load(Relaxed), 0, "a waiter that was fulfilled holds others up");
        assert_eq!(leased.lease(0).map(|lease| *lease), Some(2));
    });
}

/// Two threads set bits and nudge for them. A third one takes the bits when it looks after a nudge: each bit is taken
/// once, at the last nudge at the latest. The eventfd is a counter whose writes and waits order the accesses around
/// them.
#[test]
fn no_bit_is_lost_and_none_is_taken_twice() {
    explore(3, || {
        let shared = Arc::new((Bits::default(), AtomicUsize::new(0)));
        let setters: Vec<_> = (0..2u16)
            .map(|number| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (bits, nudges) = &*shared;
                    bits.set(number);
                    // A bit for another thread.
                    bits.set(number + 8);
                    nudges.fetch_add(1, Release);
                })
            })
            .collect();
        let (bits, nudges) = &*shared;
        let (mut seen, mut taken) = (0, 0u32);
        while seen < 2 {
            let count = nudges.load(Acquire);
            if count == seen {
                thread::yield_now();
                continue;
            }
            seen = count;
            let some = bits.take(0xff);
            assert_eq!(taken & some, 0, "taken twice");
            taken |= some;
        }
        assert_eq!(taken, 0b11, "lost");
        setters.into_iter().for_each(|setter| setter.join().unwrap());
        assert_eq!((bits.take(0xff), bits.take(u32::MAX)), (0, 0b11 << 8));
    });
}

/// Two threads leave work and set a flag. Only who sets it first nudges. A third thread clears the flag after a nudge
/// and looks for work: after the last nudge it has found all of it.
#[test]
fn no_work_behind_a_flag_is_lost() {
    explore(3, || {
        let shared = Arc::new((Flag::default(), [AtomicUsize::new(0), AtomicUsize::new(0)], AtomicUsize::new(0)));
        let workers: Vec<_> = (0..2usize)
            .map(|number| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (flag, work, nudges) = &*shared;
                    work[number].store(1, Relaxed);
                    if flag.set() {
                        nudges.fetch_add(1, Release);
                    }
                })
            })
            .collect();
        let (flag, work, nudges) = &*shared;
        let mut seen = 0;
        let mut look = || {
            let count = nudges.load(Acquire);
            let nudged = std::mem::replace(&mut seen, count) != count;
            if nudged && flag.take() {
                work.iter().for_each(|work| work.store(2, Relaxed));
            }
        };
        look();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        look();
        assert!(work.iter().all(|work| work.load(Relaxed) == 2), "lost");
    });
}
