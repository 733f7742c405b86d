//! The worker's lease of a receive ring, as `worker/src/sync/lease.rs` has it: a lock that threads try and never wait
//! for, with a note of the thread that waits, which the others respect.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// How often a thread tries.
pub const TRIES: u32 = 32;
/// Pauses of the processor between two tries.
pub const PAUSES: u32 = 16;

/// What a thread does when a lease stays free, and another thread waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiters {
    /// It becomes the waiter and goes on. Then threads whose next bursts need other leases first can keep each other
    /// from free leases for ever.
    Last,
    /// It takes the lease: the other thread had its time.
    Expire,
}

/// A value to be leased.
#[repr(align(64))]
pub struct Leased<T> {
    waiter: AtomicU32,
    value: Mutex<T>,
}

impl<T> Leased<T> {
    /// No thread has it.
    pub fn new(value: T) -> Leased<T> {
        Leased { waiter: AtomicU32::new(0), value: Mutex::new(value) }
    }

    /// The value for thread `number`, if it is to be had soon.
    #[inline]
    pub fn lease(&self, number: u32, waiters: Waiters) -> Option<MutexGuard<'_, T>> {
        if self.waiter.load(Relaxed) == 0
            && let Ok(lease) = self.value.try_lock()
        {
            return Some(lease);
        }
        self.contend(number + 1, waiters)
    }

    #[cold]
    fn contend(&self, me: u32, waiters: Waiters) -> Option<MutexGuard<'_, T>> {
        for _ in 0..TRIES {
            let waiter = self.waiter.load(Relaxed);
            if (waiter == 0 || waiter == me)
                && let Ok(lease) = self.value.try_lock()
            {
                if waiter == me {
                    self.waiter.store(0, Relaxed);
                }
                return Some(lease);
            }
            (0..PAUSES).for_each(|_| spin_loop());
        }
        if waiters == Waiters::Expire
            && let Ok(lease) = self.value.try_lock()
        {
            self.waiter.store(0, Relaxed);
            return Some(lease);
        }
        self.waiter.store(me, Relaxed);
        None
    }
}
