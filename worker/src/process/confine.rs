//! How the worker gives up all that it does not need for its work, before it reads its first command.
//!
//! 1. It dies with the supervisor.
//! 2. It hides its memory: no core file, not dumpable, hence no ptrace and no /proc/PID/mem by other processes of the
//!    user.
//! 3. It drops all privileges: no_new_privs, no capability in any set.
//! 4. No file grows by `write`, which the policy allows for eventfds and sockets. Otherwise a hijacked worker could
//!    write to a client's memory file or grow it, which the client's VMM does not expect. [`memory`] bounds the
//!    worker's own memory.
//! 5. Landlock: no file, no TCP, no signal and no abstract socket to the outside. Older kernels know fewer of these.
//!    The worker reports what it achieved.
//! 6. Seccomp comes last: the earlier steps need syscalls that the policy does not have.
//!
//! The worker makes its threads between 5 and 6. They inherit 3 and 5 from the thread that makes them. The rest
//! belongs to the process, and one step installs seccomp for all threads.
//!
//! Signal handlers and the epoll are made earlier, for the same reason. No step can be undone, and none needs a user
//! namespace or root.

use sv3_policy::WorkerRole;
use sv3_policy::steps::{self, Achieved};

/// Most octets of its own memory that a worker with so many threads may have. A worker alone has 4 MiB. A port with
/// one queue pair takes 1.3 KiB, and a thread 1.9 MiB (VmData). 1,024 ports of 16 queue pairs that each look up their
/// share of all regions need some 50 MiB. At the bound the allocator fails. That ends the worker, and the worker
/// reports the reason.
pub fn memory(threads: usize) -> u64 {
    const WORKER: u64 = 96 << 20;
    const THREAD: u64 = 4 << 20;
    WORKER + THREAD * threads as u64
}

/// Confines the process for good, with at most `memory` octets of its own memory. The order matters; see above.
/// `role`: what there may be. `spawn_all` makes the other threads.
pub fn worker(
    memory: u64,
    role: WorkerRole,
    spawn_all: impl FnOnce() -> Result<(), String>,
) -> Result<Achieved, String> {
    steps::bound_memory(memory)?;
    let achieved = reach()?;
    spawn_all()?;
    steps::restrict_syscalls(sv3_policy::worker(role))?;
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
                super::worker(super::memory(1), sv3_policy::WorkerRole::Plain, || Ok(())).unwrap();
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
        // SAFETY: the child makes calls that need no lock of another thread, and dies of the last call.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                crash::handle_signals().unwrap();
                crash::record_in(&ledger.workers[0]);
                super::worker(super::memory(1), sv3_policy::WorkerRole::Plain, || Ok(())).unwrap();
                nix::unistd::getppid();
                crash::end(0)
            }
        };
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))));
        assert_eq!(i64::from(ledger.workers[0].crash.syscall.load(Relaxed)), libc::SYS_getppid);
    }
}
