//! The steps of confinement that all processes share. Each is one-way.

use std::path::Path;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use crate::Policy;

/// The newest ABI whose restrictions are asked for; an older kernel grants what it has.
const NEWEST: ABI = ABI::V7;

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

/// Forbids by landlock every file, TCP, signals and abstract sockets to the outside; but for removing files in `remove`.
pub fn restrict_files(remove: &[&Path]) -> Result<Achieved, String> {
    restrict(remove).map_err(|e| format!("landlock: {e}"))
}

fn restrict(remove: &[&Path]) -> Result<Achieved, Box<dyn std::error::Error>> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for folder in remove {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(folder)?, AccessFs::RemoveFile))?;
    }
    let landlock_abi = match ruleset.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, .. } => (effective_abi as u32).min(NEWEST as u32),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    };
    Ok(Achieved { landlock_abi })
}

/// Installs the seccomp program; from here on every other syscall is a violation.
pub fn restrict_syscalls(policy: &Policy) -> Result<(), String> {
    seccompiler::apply_filter(&policy.program()).map_err(|e| format!("seccomp: {e}"))
}
