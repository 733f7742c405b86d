//! How the worker gives up everything but its work, before it reads its first command.
//!
//! 1. dies with the supervisor;
//! 2. memory hidden: no core file, not dumpable, hence no ptrace and no /proc/PID/mem by other processes of the user;
//! 3. no privileges: no_new_privs, no capability in any set;
//! 4. landlock: no file, no TCP, no signal and no abstract socket to the outside. Older kernels know fewer of these;
//!    what was achieved is reported;
//! 5. seccomp, last, since the steps before need syscalls that the policy does not have.
//!
//! Signal handlers and the epoll are made before, for the same reason. Nothing is undone afterwards and nothing needs a
//! user namespace or root.

use sv3_policy::steps::{self, Achieved};

/// Confines the process for good. The order is the point; see above.
pub fn worker() -> Result<Achieved, String> {
    steps::die_with_parent()?;
    steps::hide_memory()?;
    steps::drop_privileges()?;
    steps::restrict_reach()?;
    let achieved = steps::restrict_files(&[])?;
    steps::restrict_syscalls(sv3_policy::worker())?;
    Ok(achieved)
}
