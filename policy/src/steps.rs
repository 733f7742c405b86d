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

/// The newest ABI whose restrictions sv3 requests.
pub const NEWEST: ABI = ABI::V7;

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Achieved {
    /// Landlock ABI in force; 0: the kernel has no landlock.
    pub landlock_abi: u32,
}

/// The process dies with its parent. If the parent is dead already, the end of file on the socket to it shows that.
pub fn die_with_parent() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("PR_SET_PDEATHSIG: {e}"))
}

/// The process leaves no core file, which would contain guests' memory, and no process of the same user can attach to
/// it or read its memory.
pub fn hide_memory() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| format!("RLIMIT_CORE: {e}"))?;
    prctl::set_dumpable(false).map_err(|e| format!("PR_SET_DUMPABLE: {e}"))
}

/// No file grows by `write`, or can be written by it at all: a try ends the process by SIGXFSZ. This does not concern
/// sockets, pipes, eventfds, and writes through mappings.
pub fn write_no_files() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).map_err(|e| format!("RLIMIT_FSIZE: {e}"))
}

/// Bounds the process's own memory, in octets: heap, thread stacks and all other private writable memory. Memory that
/// it already has counts. Mappings of shared files do not.
pub fn bound_memory(octets: u64) -> Result<(), String> {
    setrlimit(Resource::RLIMIT_DATA, octets, octets).map_err(|e| format!("RLIMIT_DATA: {e}"))
}

/// Makes it impossible to gain privileges by executing a file, and empties every capability set. Only a process with
/// CAP_SETPCAP can empty the bounding set. Others do not need that: no_new_privs already denies what it bounds.
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

/// Landlock denies TCP, and signals and abstract sockets except to this process and those that it starts later.
pub fn restrict_reach() -> Result<Achieved, String> {
    let ruleset = || landlock().handle_access(AccessNet::from_all(NEWEST))?.scope(Scope::from_all(NEWEST))?.create();
    ruleset().and_then(RulesetCreated::restrict_self).map(achieved).map_err(|e| format!("landlock: {e}"))
}

/// Landlock denies every file, except for the removal of files in the folders `remove`. Open files stay usable.
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

/// Uses what the kernel has: an older kernel lacks some restrictions.
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

/// Installs the seccomp program, for all threads at once. From now on every syscall that the policy does not allow is
/// a violation.
pub fn restrict_syscalls(policy: &Policy) -> Result<(), String> {
    seccompiler::apply_filter_all_threads(&policy.program()).map_err(|e| format!("seccomp: {e}"))
}
