//! Confines the supervisor, in two stages.
//!
//! [`family`] runs before the spawner is cloned, and holds for supervisor, spawner and all workers:
//!
//! 1. memory is hidden: no core file and not dumpable. So other processes of the user cannot ptrace the supervisor and
//!    take guests' memory from its fds;
//! 2. no privileges: no_new_privs, no capability in any set;
//! 3. landlock: no TCP; signals and abstract sockets only inside this domain. The spawner must be in the domain too:
//!    workers inherit it, and a process may signal only processes in its domain. So the supervisor can kill its
//!    workers, and no other process.
//!
//! [`supervisor`] runs when the sockets listen and before the first client. A supervisor that takes over from another
//! one has read its record by then, and nothing from a client:
//!
//! 4. landlock: no access to files, except that it may remove its own sockets. Files that are open stay open;
//! 5. seccomp, last. The kernel ends the process at a violation.
//!
//! The spawner has no seccomp policy of its own: workers would inherit it. So it would have to permit all that a
//! worker's start does (execve, a loader that opens files and maps them executable), and each syscall of the data path
//! would pass through it. The spawner receives only numbers, and only from the supervisor.

use std::path::Path;

use sv3_policy::steps::{self, Achieved};

/// Confines this process and those that it will start. They can still open files and sockets.
pub fn family() -> Result<Achieved, String> {
    steps::hide_memory()?;
    steps::drop_privileges()?;
    steps::restrict_reach()
}

/// Confines this process. In the file system it may only remove its sockets in `socket_dirs`.
pub fn supervisor(socket_dirs: &[&Path]) -> Result<Achieved, String> {
    let achieved = files(socket_dirs)?;
    steps::restrict_syscalls(sv3_policy::supervisor())?;
    Ok(achieved)
}

/// The second stage without its last step.
pub fn files(socket_dirs: &[&Path]) -> Result<Achieved, String> {
    steps::restrict_files(socket_dirs)
}
