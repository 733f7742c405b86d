//! The steps of confinement that all processes share. Each is one-way.

use std::path::Path;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use crate::Policy;

/// The newest ABI whose restrictions are asked for.
pub const NEWEST: ABI = ABI::V7;

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Achieved {
    /// Landlock ABI in force; 0: the kernel has no landlock.
    pub landlock_abi: u32,
}

/// Dies with its parent. One that has died already is noticed by the end of file on the socket to it.
pub fn die_with_parent() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("PR_SET_PDEATHSIG: {e}"))
}

/// Leaves no core file, which would hold guests' memory, and lets no process of the same user attach or read it.
pub fn hide_memory() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| format!("RLIMIT_CORE: {e}"))?;
    prctl::set_dumpable(false).map_err(|e| format!("PR_SET_DUMPABLE: {e}"))
}

/// Lets no file grow, nor be written to at all, by `write`: a try ends the process by SIGXFSZ. Sockets, pipes and eventfds are
/// no files in this sense, and mappings are written as ever.
pub fn write_no_files() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).map_err(|e| format!("RLIMIT_FSIZE: {e}"))
}

/// Bounds the process's own memory, in octets: heap, stacks of threads and all else that is private and writable. What it has
/// already counts; mappings of shared files do not.
pub fn bound_memory(octets: u64) -> Result<(), String> {
    setrlimit(Resource::RLIMIT_DATA, octets, octets).map_err(|e| format!("RLIMIT_DATA: {e}"))
}

/// Gains nothing by executing a file, and empties every capability set. The bounding set can be emptied only by one who
/// has CAP_SETPCAP; for others it is without effect, since no_new_privs keeps them from gaining what it bounds.
pub fn drop_privileges() -> Result<(), String> {
    prctl::set_no_new_privs().map_err(|e| format!("PR_SET_NO_NEW_PRIVS: {e}"))?;
    let words = |e: caps::errors::CapsError| format!("capabilities: {e}");
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(words)? {
        caps::clear(None, CapSet::Bounding).map_err(words)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(words)?;
    }
    Ok(())
}

/// Forbids by landlock TCP, and signals and abstract sockets to all but this process and those that it starts later.
pub fn restrict_reach() -> Result<Achieved, String> {
    let ruleset = || landlock().handle_access(AccessNet::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?.create();
    ruleset().and_then(RulesetCreated::restrict_self).map(achieved).map_err(|e| format!("landlock: {e}"))
}

/// Forbids by landlock every file, but for the removal of those in the folders `remove`. What is open stays usable.
pub fn restrict_files(remove: &[&Path]) -> Result<Achieved, String> {
    let ruleset = || landlock().handle_access(AccessFs::from_all(NEWEST))?.create();
    let mut ruleset = ruleset().map_err(|e| format!("landlock: {e}"))?;
    for folder in remove {
        let fd = PathFd::new(folder).map_err(|e| format!("landlock: {e}"))?;
        let rule = PathBeneath::new(fd, AccessFs::RemoveFile);
        ruleset = ruleset.add_rule(rule).map_err(|e| format!("landlock: {}: {e}", folder.display()))?;
    }
    ruleset.restrict_self().map(achieved).map_err(|e| format!("landlock: {e}"))
}

/// An older kernel grants what it has: what it lacks is left out.
fn landlock() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::BestEffort)
}

fn achieved(status: RestrictionStatus) -> Achieved {
    let landlock_abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => (effective_abi as u32).min(NEWEST as u32),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    };
    Achieved { landlock_abi }
}

/// Installs the seccomp program, for all threads at once; from here on every other syscall is a violation.
pub fn restrict_syscalls(policy: &Policy) -> Result<(), String> {
    seccompiler::apply_filter_all_threads(&policy.program()).map_err(|e| format!("seccomp: {e}"))
}
