//! Leases among real threads. [`crate::sync::models`] tries all orders of fewer steps.
#![cfg(test)]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::lease::Leased;

#[test]
fn a_thread_that_was_turned_away_comes_next() {
    let leased = Leased::new(());
    let held = leased.lease(0).unwrap();
    assert!(leased.lease(1).is_none());
    drop(held);
    assert_eq!(leased.waiter.load(Relaxed), 2, "others wait for it");
    drop(leased.lease(1).unwrap());
    assert_eq!(leased.waiter.load(Relaxed), 0);
}

#[test]
fn a_waiter_that_its_owner_forgot_ends() {
    let leased = Leased::new(());
    let held = leased.lease(0).unwrap();
    assert!(leased.lease(1).is_none());
    drop(held);
    drop(leased.lease(0).unwrap());
    assert_eq!(leased.waiter.load(Relaxed), 0);
}

/// As in bursts: threads take several leases in any order, one after the other, and give back all when one is not
/// free. The control thread takes each lease now and then.
#[test]
fn all_get_on_whatever_the_order_and_nothing_is_done_twice_at_a_time() {
    const THREADS: u32 = 4;
    const ENOUGH: u64 = 2000;
    let pool: Vec<_> = (0..3).map(|_| Leased::new((0u64, 0u64))).collect();
    let (pool, over) = (&pool, &AtomicBool::new(false));
    let done = std::thread::scope(|scope| {
        let worker = |number: u32| {
            let (mut rounds, mut dice) = (0u64, u64::from(number) + 1);
            let deadline = Instant::now() + Duration::from_secs(60);
            while rounds < ENOUGH {
                assert!(Instant::now() < deadline, "thread {number} is stuck after {rounds}");
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let first = (dice >> 33) as usize % pool.len();
                let mut held = Vec::new();
                for at in 0..pool.len() {
                    match pool[(first + at) % pool.len()].lease(number) {
                        Some(lease) => held.push(lease),
                        None => break,
                    }
                }
                rounds += u64::from(held.len() == pool.len());
                for lease in &mut held {
                    lease.0 += 1;
                    std::hint::black_box(&lease.0);
                    lease.1 += 1;
                    assert_eq!(lease.0, lease.1);
                }
                drop(held);
                std::thread::yield_now();
            }
            rounds
        };
        let workers: Vec<_> = (1..=THREADS).map(|number| scope.spawn(move || worker(number))).collect();
        let control = scope.spawn(|| {
            while !over.load(Relaxed) {
                for leased in pool {
                    let lease = leased.seize(std::thread::yield_now);
                    assert_eq!(lease.0, lease.1);
                }
            }
        });
        let done: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        over.store(true, Relaxed);
        control.join().unwrap();
        done
    });
    assert_eq!(done, u64::from(THREADS) * ENOUGH);
}
