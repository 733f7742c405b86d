//! `sv3-supervisor --prove`: finds out that the kernel confines a supervisor as its policy says. For `sv3 audit`.
//!
//! This process serves nobody. Its children confine themselves by [`confine`], as a supervisor does in life, and try.

use std::path::Path;

use sv3_policy::prove::{Subject, live, prove};
use sv3_policy::steps::Achieved;

use crate::confine;

/// Tries everything and writes the outcome to stdout.
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
