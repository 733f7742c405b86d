//! Leases: several threads use a value, one at a time, without any syscall.
//!
//! The policy has no futex, so no thread sleeps until a lease is free. A data-path thread tries for a while, leaves
//! its number as the waiter, and does something else. The control thread cannot do without the lease, so it spins. A
//! lease lasts for one burst.
//!
//! No thread is locked out. A thread that finds another thread's waiter leaves the lease to that thread for as long
//! as it would try itself. After that, if the lease is free, it takes the lease and clears the waiter
//! (docs/measured/scaling.md says what happens if a waiter never expires).
//!
//! No two threads wait for each other. A data-path thread that does not get a lease ends its burst and gives back all
//! its leases (`crate::forward::burst`). The control thread may wait for a lease while it has others
//! (`crate::poll::control_thread`): nobody waits for those.

use std::sync::TryLockError;

// The models of `crate::sync::models` compile this file with other primitives.
use super::primitives::{AtomicU32, Mutex, MutexGuard, PAUSES, Relaxed, TRIES, spin_loop};

/// A value to be leased.
#[repr(align(64))]
pub struct Leased<T> {
    /// Number plus one of a thread that did not get the lease. 0: none.
    pub(super) waiter: AtomicU32,
    value: Mutex<T>,
}

/// The value, for the thread that has leased it.
pub type Lease<T> = MutexGuard<'static, T>;

impl<T: Default> Default for Leased<T> {
    fn default() -> Self {
        Leased::new(T::default())
    }
}

impl<T> Leased<T> {
    /// A value that no thread has leased.
    pub fn new(value: T) -> Leased<T> {
        Leased { waiter: AtomicU32::new(0), value: Mutex::new(value) }
    }

    /// The value for thread `number`, if it becomes free soon. A thread must not ask for a lease that it has.
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
        // The owner of the waiter had its time. If the lease were left to it forever, threads that first need another
        // lease could keep each other from a lease that no thread has.
        if let Some(lease) = self.try_now() {
            self.waiter.store(0, Relaxed);
            return Some(lease);
        }
        self.waiter.store(me, Relaxed);
        None
    }

    /// The value, as soon as it is free; calls `meanwhile` in between. Only the control thread calls this.
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
            // A thread that panics ends the whole process.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
