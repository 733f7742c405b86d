//! Leases: what several threads use, one at a time, without ever asking the kernel.
//!
//! The policy has no futex, so nobody sleeps until a lease is free: a data-path thread tries for a while and then does
//! something else, with the wish left behind; the control thread, which must, spins. A lease is held for a burst.
//!
//! Nobody can be locked out: who finds another thread's wish leaves it to that one, for as long as he would try
//! himself; then, if it is free, he takes it and the wish is over (docs/scaling.md says what becomes of wishes without end).
//!
//! No two threads can wait for each other: a data-path thread that does not get a lease ends its burst and gives back all
//! that it holds (`crate::burst`), and the control thread waits with empty hands.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// How often a thread tries, and how long it pauses between two tries: some microseconds in all, about a burst's time.
const TRIES: u32 = 32;
const PAUSES: u32 = 16;

/// A value to be leased.
#[repr(align(64))]
pub struct Leased<T> {
    /// Number plus one of a thread that was turned away; 0: none.
    wish: AtomicU32,
    value: Mutex<T>,
}

/// The value, for the one that has it.
pub type Lease<T> = MutexGuard<'static, T>;

impl<T> Leased<T> {
    /// Nobody has it.
    pub fn new(value: T) -> Leased<T> {
        Leased { wish: AtomicU32::new(0), value: Mutex::new(value) }
    }

    /// The value for thread `number`, if it is to be had soon. A thread must not ask for what it has.
    #[inline]
    pub fn lease(&self, number: u32) -> Option<MutexGuard<'_, T>> {
        if self.wish.load(Relaxed) == 0
            && let Some(lease) = self.try_now()
        {
            return Some(lease);
        }
        self.contend(number + 1)
    }

    #[cold]
    fn contend(&self, me: u32) -> Option<MutexGuard<'_, T>> {
        for _ in 0..TRIES {
            let wish = self.wish.load(Relaxed);
            if (wish == 0 || wish == me)
                && let Some(lease) = self.try_now()
            {
                if wish == me {
                    self.wish.store(0, Relaxed);
                }
                return Some(lease);
            }
            (0..PAUSES).for_each(|_| spin_loop());
        }
        // Whoever's wish is there has had his time: if it were left to him for ever, threads that first need something
        // else could keep each other from what nobody has.
        if let Some(lease) = self.try_now() {
            self.wish.store(0, Relaxed);
            return Some(lease);
        }
        self.wish.store(me, Relaxed);
        None
    }

    /// The value, whenever it is to be had; `meanwhile` is done over and over. For who holds nothing else.
    pub fn seize(&self, mut meanwhile: impl FnMut()) -> MutexGuard<'_, T> {
        loop {
            if let Some(lease) = self.try_now() {
                return lease;
            }
            meanwhile();
            spin_loop();
        }
    }

    #[inline]
    fn try_now(&self) -> Option<MutexGuard<'_, T>> {
        match self.value.try_lock() {
            Ok(lease) => Some(lease),
            // A thread that panics takes the process along.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_was_turned_away_comes_next() {
        let leased = Leased::new(());
        let held = leased.lease(0).unwrap();
        assert!(leased.lease(1).is_none());
        drop(held);
        assert_eq!(leased.wish.load(Relaxed), 2, "others wait for it");
        drop(leased.lease(1).unwrap());
        assert_eq!(leased.wish.load(Relaxed), 0);
    }

    #[test]
    fn a_wish_that_its_owner_forgot_ends() {
        let leased = Leased::new(());
        let held = leased.lease(0).unwrap();
        assert!(leased.lease(1).is_none());
        drop(held);
        drop(leased.lease(0).unwrap());
        assert_eq!(leased.wish.load(Relaxed), 0);
    }

    /// As bursts do: threads take several leases in any order, one after the other, give back all when one is not to be
    /// had, and the control thread takes each now and then.
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
}
