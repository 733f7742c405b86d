//! The worker's lease of a receive ring, as `worker/src/sync/lease.rs` has it: a lock that is tried and never waited for, and the
//! waiter of who was turned away, which the others respect.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// How often a thread tries.
pub const TRIES: u32 = 32;
/// Pauses of the processor between two tries.
pub const PAUSES: u32 = 16;

/// What a thread does that has waited in vain for a lease that is free, but wished for by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wishes {
    /// It leaves its own wish and goes. Then threads whose next bursts need something else first can keep each other from
    /// leases that nobody has, for ever.
    Last,
    /// It takes the lease: the other one had its time.
    Expire,
}

/// A value to be leased.
#[repr(align(64))]
pub struct Leased<T> {
    wish: AtomicU32,
    value: Mutex<T>,
}

impl<T> Leased<T> {
    /// Nobody has it.
    pub fn new(value: T) -> Leased<T> {
        Leased { wish: AtomicU32::new(0), value: Mutex::new(value) }
    }

    /// The value for thread `number`, if it is to be had soon.
    #[inline]
    pub fn lease(&self, number: u32, wishes: Wishes) -> Option<MutexGuard<'_, T>> {
        if self.wish.load(Relaxed) == 0
            && let Ok(lease) = self.value.try_lock()
        {
            return Some(lease);
        }
        self.contend(number + 1, wishes)
    }

    #[cold]
    fn contend(&self, me: u32, wishes: Wishes) -> Option<MutexGuard<'_, T>> {
        for _ in 0..TRIES {
            let wish = self.wish.load(Relaxed);
            if (wish == 0 || wish == me)
                && let Ok(lease) = self.value.try_lock()
            {
                if wish == me {
                    self.wish.store(0, Relaxed);
                }
                return Some(lease);
            }
            (0..PAUSES).for_each(|_| spin_loop());
        }
        if wishes == Wishes::Expire
            && let Ok(lease) = self.value.try_lock()
        {
            self.wish.store(0, Relaxed);
            return Some(lease);
        }
        self.wish.store(me, Relaxed);
        None
    }
}
