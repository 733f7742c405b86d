//! How the worker gives up everything but its work, before it reads its first command.
//!
//! 1. dies with the supervisor;
//! 2. memory hidden: no core file, not dumpable, hence no ptrace and no /proc/PID/mem by other processes of the user;
//! 3. no privileges: no_new_privs, no capability in any set;
//! 4. no file grows by `write`, which the policy has for eventfds and sockets: of a client's memory file a hijacked worker
//!    could make what its monitor does not expect. The worker's own memory is bounded, by [`memory`];
//! 5. landlock: no file, no TCP, no signal and no abstract socket to the outside. Older kernels know fewer of these;
//!    what was achieved is reported;
//! 6. seccomp, last, since the steps before need syscalls that the policy does not have.
//!
//! The worker's threads are made between 5 and 6: they inherit 3 and 5 from the one that makes them, the rest is the
//! process's, and seccomp is put on all of them in one step.
//!
//! Signal handlers and the epoll are made before, for the same reason. Nothing is undone afterwards and nothing needs a
//! user namespace or root.

use sv3_policy::steps::{self, Achieved};

/// Most octets of memory of its own that a worker of so many threads has. By itself it has 4 MiB, a port with a queue pair
/// takes 1.3 KiB and a thread 1.9 MiB (VmData). 1,024 ports of 16 queue pairs that each look up their share of all regions
/// come to some 50 MiB. At the bound the allocator fails, which ends the worker, and that is told.
pub fn memory(threads: usize) -> u64 {
    const WORKER: u64 = 96 << 20;
    const THREAD: u64 = 4 << 20;
    WORKER + THREAD * threads as u64
}

/// Confines the process for good, with at most that much memory of its own, in octets. The order is the point; see above.
/// `spawn_all` makes the other threads.
pub fn worker(memory: u64, spawn_all: impl FnOnce() -> Result<(), String>) -> Result<Achieved, String> {
    steps::bound_memory(memory)?;
    let achieved = reach()?;
    spawn_all()?;
    steps::restrict_syscalls(sv3_policy::worker())?;
    Ok(achieved)
}

/// All steps but the last.
pub fn reach() -> Result<Achieved, String> {
    steps::die_with_parent()?;
    steps::hide_memory()?;
    steps::drop_privileges()?;
    steps::write_no_files()?;
    steps::restrict_reach()?;
    steps::restrict_files(&[])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use sv3::ledger::LedgerMap;

    use crate::process::crash;

    #[test]
    #[allow(unsafe_code)]
    fn memory_beyond_the_bound_is_not_had_and_files_of_others_are() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        const LENGTH: usize = 1 << 30;
        let fd = memfd_create(c"guest", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&fd, LENGTH as i64).unwrap();
        // SAFETY: as above.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                super::worker(super::memory(1), || Ok(())).unwrap();
                let shared = memmap2::MmapOptions::new().len(LENGTH).map_raw(&fd).is_ok();
                let own = Vec::<u8>::new().try_reserve_exact(LENGTH).is_ok();
                crash::end(i32::from(shared) | i32::from(own) << 1)
            }
        };
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 1)));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_violation_ends_the_worker_by_sigsys_and_its_number_is_in_the_ledger() {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        // SAFETY: the child makes calls that need no lock of another thread, and dies of the last of them.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                crash::handle_signals().unwrap();
                crash::record_in(&ledger.workers[0]);
                super::worker(super::memory(1), || Ok(())).unwrap();
                nix::unistd::getppid();
                crash::end(0)
            }
        };
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))));
        assert_eq!(i64::from(ledger.workers[0].crash.syscall.load(Relaxed)), libc::SYS_getppid);
    }
}
