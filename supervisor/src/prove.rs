//! `sv3-supervisor --prove`: tests, for `sv3 audit`, that the kernel confines a supervisor as its policy says.
//!
//! This process serves no client. Its children confine themselves by [`confine`], as a running supervisor does, and
//! make syscalls.

use std::path::Path;

use sv3_policy::prove::{Subject, live, prove};
use sv3_policy::steps::Achieved;

use crate::confine;

/// Makes all trials and writes the outcomes to stdout.
pub fn run() -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("sv3-prove-socket-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let outcome = prove_with(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

fn prove_with(folder: &Path) -> Result<(), String> {
    let all = || -> Result<Achieved, String> {
        confine::family()?;
        confine::supervisor(&[folder])
    };
    let reach = || -> Result<Achieved, String> {
        confine::family()?;
        confine::files(&[folder])
    };
    let policy = sv3_policy::supervisor();
    let noted = &|| None;
    prove(&Subject { policy, confine: &all, reach: &reach, noted, live: live(), removable: Some(folder) })
}
