//! Slices of a processor's time, as the kernel's fair class hands them out (Linux 6.12 and newer; older ones take no
//! notice).
//!
//! Among programs that want the same processor, one that asked for a shorter slice and wakes up runs at once; one that
//! asked for a longer one waits. After a death the supervisor and the worker on standby have little to do, and guests
//! wait for it: they ask for short slices. A worker that starts takes a millisecond or two and nobody waits for it: it
//! asks for long ones, until it is up. Nobody gets more time than before, or less.
#![allow(unsafe_code)] // sched_setattr has no safe form

use std::mem;

/// A length of time.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice {
    ns: u64,
}

impl TimeSlice {
    /// The shortest that there is.
    pub const SHORT: TimeSlice = TimeSlice { ns: 100_000 };
    /// The longest that there is.
    pub const LONG: TimeSlice = TimeSlice { ns: 100_000_000 };

    /// Asks for it, for this process and those that it starts. A process of another scheduling class than the usual one
    /// was put there by somebody who knows better, and keeps it.
    pub fn request(self) {
        let size = size_of::<libc::sched_attr>() as libc::c_uint;
        // SAFETY: zeros are a value of the type; the kernel is told its true size, and reads or writes no more.
        unsafe {
            let mut attr: libc::sched_attr = mem::zeroed();
            let known = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) == 0;
            if known && attr.sched_policy == libc::SCHED_OTHER as u32 {
                attr.sched_runtime = self.ns;
                libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calling thread's class and slice in nanoseconds; 0: the kernel has none to tell of.
    fn now() -> (u32, u64) {
        // SAFETY: as above.
        unsafe {
            let mut attr: libc::sched_attr = mem::zeroed();
            let size = size_of::<libc::sched_attr>() as libc::c_uint;
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0), 0);
            (attr.sched_policy, attr.sched_runtime)
        }
    }

    /// In a thread of its own, since slices are threads'.
    fn aside(test: fn()) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_has_the_slice_that_it_asked_for_last_and_those_that_it_starts_have_it_too() {
        aside(|| {
            let (class, before) = now();
            if class != libc::SCHED_OTHER as u32 || before == 0 {
                return;
            }
            for slice in [TimeSlice::SHORT, TimeSlice::LONG, TimeSlice::SHORT] {
                slice.request();
                assert_eq!(now(), (class, slice.ns));
            }
            aside(|| assert_eq!(now().1, TimeSlice::SHORT.ns));
        });
    }

    #[test]
    fn a_thread_of_another_class_keeps_its_slice() {
        aside(|| {
            let lone = libc::sched_param { sched_priority: 0 };
            // SAFETY: the structure is read, and no more.
            assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const lone) }, 0);
            let before = now();
            TimeSlice::SHORT.request();
            assert_eq!(now(), before);
        });
    }
}
