//! Time slices of the kernel's fair scheduling class (Linux 6.12 and newer; older kernels ignore the request).
//!
//! Among threads that want the same processor, one with a shorter slice that wakes up runs at once; one with a longer
//! slice waits. After a death, the supervisor and the worker on standby have little to do, and guests wait for them,
//! so they request short slices. A starting worker takes 1 ms to 2 ms, and nobody waits for it, so it requests long
//! slices until it is up. No process gets more or less time than before.
#![allow(unsafe_code)] // sched_setattr has no safe form

use std::mem;

/// A time slice.
#[derive(Clone, Copy, Debug)]
pub struct TimeSlice {
    ns: u64,
}

impl TimeSlice {
    /// The shortest slice that the kernel allows.
    pub const SHORT: TimeSlice = TimeSlice { ns: 100_000 };
    /// The longest slice that the kernel allows.
    pub const LONG: TimeSlice = TimeSlice { ns: 100_000_000 };

    /// Requests the slice for this process and for those that it starts. A process of another scheduling class keeps
    /// its slice: an administrator put it there on purpose.
    pub fn request(self) {
        let size = size_of::<libc::sched_attr>() as libc::c_uint;
        // SAFETY: zeros are a value of the type. The kernel gets the true size of it, and reads or writes no more.
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

    /// The calling thread's class, and its slice in nanoseconds. 0: the kernel does not report one.
    fn now() -> (u32, u64) {
        // SAFETY: as above.
        unsafe {
            let mut attr: libc::sched_attr = mem::zeroed();
            let size = size_of::<libc::sched_attr>() as libc::c_uint;
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0), 0);
            (attr.sched_policy, attr.sched_runtime)
        }
    }

    /// Runs a test in a thread of its own, since each thread has its own slice.
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
            // SAFETY: the kernel only reads the structure.
            assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const lone) }, 0);
            let before = now();
            TimeSlice::SHORT.request();
            assert_eq!(now(), before);
        });
    }
}
