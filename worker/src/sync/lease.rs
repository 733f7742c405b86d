//! Leases: what several threads use, one at a time, without ever asking the kernel.
//!
//! The policy has no futex, so nobody sleeps until a lease is free: a data-path thread tries for a while and then does
//! something else, with the waiter left behind; the control thread, which must, spins. A lease is held for a burst.
//!
//! Nobody can be locked out: who finds another thread's waiter leaves it to that one, for as long as he would try
//! himself; then, if it is free, he takes it and the waiter is over (docs/measured/scaling.md says what
//! becomes of wishes without end).
//!
//! No two threads can wait for each other: a data-path thread that does not get a lease ends its burst and gives back all
//! that it holds (`crate::forward::burst`), and the control thread waits with empty hands.

use std::sync::TryLockError;

// The models of `crate::sync::models` look at this file with other ones.
use super::primitives::{AtomicU32, Mutex, MutexGuard, PAUSES, Relaxed, TRIES, spin_loop};

/// A value to be leased.
#[repr(align(64))]
pub struct Leased<T> {
    /// Number plus one of a thread that was turned away; 0: none.
    pub(super) waiter: AtomicU32,
    value: Mutex<T>,
}

/// The value, for the one that has it.
pub type Lease<T> = MutexGuard<'static, T>;

impl<T: Default> Default for Leased<T> {
    fn default() -> Self {
        Leased::new(T::default())
    }
}

impl<T> Leased<T> {
    /// Nobody has it.
    pub fn new(value: T) -> Leased<T> {
        Leased { waiter: AtomicU32::new(0), value: Mutex::new(value) }
    }

    /// The value for thread `number`, if it is to be had soon. A thread must not ask for what it has.
    #[inline]
    pub fn lease(&self, number: u32) -> Option<MutexGuard<'_, T>> {
        if self.waiter.load(Relaxed) == 0
            && let Some(lease) = self.try_now()
        {
            return Some(lease);
        }
        self.contend(number + 1)
    }

    #[cold]
    fn contend(&self, me: u32) -> Option<MutexGuard<'_, T>> {
        for _ in 0..TRIES {
            let waiter = self.waiter.load(Relaxed);
            if (waiter == 0 || waiter == me)
                && let Some(lease) = self.try_now()
            {
                if waiter == me {
                    self.waiter.store(0, Relaxed);
                }
                return Some(lease);
            }
            (0..PAUSES).for_each(|_| spin_loop());
        }
        // Whoever's waiter is there has had his time: if it were left to him for ever, threads that first need something
        // else could keep each other from what nobody has.
        if let Some(lease) = self.try_now() {
            self.waiter.store(0, Relaxed);
            return Some(lease);
        }
        self.waiter.store(me, Relaxed);
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
