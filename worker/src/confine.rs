//! How the worker gives up everything but its work, before it reads its first command.
//!
//! 1. dies with the supervisor;
//! 2. memory hidden: no core file, not dumpable, hence no ptrace and no /proc/PID/mem by other processes of the user;
//! 3. no privileges: no_new_privs, no capability in any set;
//! 4. landlock: no file, no TCP, no signal and no abstract socket to the outside. Older kernels know fewer of these;
//!    what was achieved is reported;
//! 5. seccomp, last, since the steps before need syscalls that the policy does not have.
//!
//! The worker's threads are made between 4 and 5: they inherit 3 and 4 from the one that makes them, the rest is the
//! process's, and seccomp is put on all of them in one step.
//!
//! Signal handlers and the epoll are made before, for the same reason. Nothing is undone afterwards and nothing needs a
//! user namespace or root.

use sv3_policy::steps::{self, Achieved};

/// Confines the process for good. The order is the point; see above. `muster` makes the other threads.
pub fn worker(muster: impl FnOnce() -> Result<(), String>) -> Result<Achieved, String> {
    let achieved = reach()?;
    muster()?;
    steps::restrict_syscalls(sv3_policy::worker())?;
    Ok(achieved)
}

/// All steps but the last.
pub fn reach() -> Result<Achieved, String> {
    steps::die_with_parent()?;
    steps::hide_memory()?;
    steps::drop_privileges()?;
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

    use crate::crash;

    #[test]
    #[allow(unsafe_code)]
    fn a_violation_ends_the_worker_by_sigsys_and_its_number_is_in_the_ledger() {
        let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
        // SAFETY: the child makes calls that need no lock of another thread, and dies of the last of them.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                crash::handle_signals().unwrap();
                crash::record_in(&ledger.lanes[0]);
                super::worker(|| Ok(())).unwrap();
                nix::unistd::getppid();
                crash::end(0)
            }
        };
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))));
        assert_eq!(i64::from(ledger.lanes[0].crash.syscall.load(Relaxed)), libc::SYS_getppid);
    }
}
