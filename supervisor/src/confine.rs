//! How the supervisor gives up what it does not need, in two stages.
//!
//! [`family`], before the spawner is cloned, holds for supervisor, spawner and all workers:
//!
//! 1. memory hidden: no core file, not dumpable, hence no ptrace by other processes of the user, who could otherwise
//!    take guests' memory out of the supervisor's fds;
//! 2. no privileges: no_new_privs, no capability in any set;
//! 3. landlock: no TCP, signals and abstract sockets only among themselves. It must be the spawner's domain too: a
//!    worker is born in it, and by its own rule no process may signal another that is not in its domain. So the
//!    supervisor can kill its workers, and nobody else.
//!
//! [`supervisor`], when its sockets listen and before its first client:
//!
//! 4. landlock: no file but the removal of its own sockets. What it has open stays open;
//! 5. seccomp, last. A violation is the end, by the kernel's hand.
//!
//! The spawner has no seccomp policy of its own: workers inherit it, so it would have to permit all that a worker's
//! start does (execve, a loader that opens and maps files executable), and every syscall of the data path would run
//! through it. The spawner hears nobody but the supervisor, and from it nothing but numbers.

use std::path::Path;

use sv3_policy::steps::{self, Achieved};

/// Confines this process and those that it will start. Nothing here keeps it from opening files and sockets.
pub fn family() -> Result<Achieved, String> {
    steps::hide_memory()?;
    steps::drop_privileges()?;
    steps::restrict_reach()
}

/// Confines this process. Of the file system it keeps the right to remove its sockets in `socket_dirs`.
pub fn supervisor(socket_dirs: &[&Path]) -> Result<Achieved, String> {
    let achieved = files(socket_dirs)?;
    steps::restrict_syscalls(sv3_policy::supervisor())?;
    Ok(achieved)
}

/// The second stage without its last step.
pub fn files(socket_dirs: &[&Path]) -> Result<Achieved, String> {
    steps::restrict_files(socket_dirs)
}
