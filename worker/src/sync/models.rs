//! Models of what threads do to each other: every order of their steps, as far as the memory model allows one, by loom.
//!
//! The files themselves are looked at, `lease.rs` and `bits.rs`, with loom's atomics and locks in place of the standard library's
//! and few tries in place of many. docs/understand/threads.md says what is shown.

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::*};
use loom::thread;

mod primitives {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    pub use loom::sync::{Mutex, MutexGuard};

    pub const TRIES: u32 = 1;
    pub const PAUSES: u32 = 1;
}

#[path = "bits.rs"]
mod bits;
#[allow(dead_code)] // The type for leases that last.
#[path = "lease.rs"]
mod lease;

use bits::Bits;
use lease::Leased;

/// All orders with at most so many threads that are interrupted in the midst of something.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Threads try once; what they do with the value is not mixed, and afterwards whoever comes gets it, at once, whatever
/// wishes were left behind.
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

/// Two bursts want two leases each, in different order, and give back all when one is not to be had; the control thread
/// takes what it needs.
#[test]
fn nobody_waits_for_who_waits() {
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
        // Spins until it is to be had: were it never, loom would say so.
        *pair[1].seize(|| ()) += 10;
        done += thread.join().unwrap();
        let both = [pair[0].lease(2).map(|lease| *lease), pair[1].lease(2).map(|lease| *lease)];
        assert_eq!(both, [Some(done), Some(done + 10)]);
    });
}

/// Threads that were turned away come again and again: each gets the lease in the end.
#[test]
fn who_comes_again_gets_it() {
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

/// Bits are set and nudged for by two threads, and taken by a third one that looks when it was nudged: each is taken once,
/// at the last nudge at the latest. The eventfd is a counter whose writes and waits order what is around them.
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
                    // Somebody else's, which another thread takes.
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
