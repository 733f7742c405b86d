//! Confines the two processes of `sv3 web`. What each may do stands in `policy/web.json` and `policy/web-asker.json`.

use sv3_policy::{Policy, steps};

/// Most octets of private memory: some answers of [`super::asker::ANSWER_MAX`].
const MEMORY: u64 = 192 << 20;

/// Confines the page server. It keeps the listening socket, the socket to the asker, and stderr.
pub fn page() -> Result<(), String> {
    steps::die_with_parent()?;
    confine(sv3_policy::web())
}

/// Confines the asker. It can still connect to sockets that have a path.
pub fn asker() -> Result<(), String> {
    confine(sv3_policy::web_asker())
}

fn confine(policy: &Policy) -> Result<(), String> {
    steps::hide_memory()?;
    steps::drop_privileges()?;
    steps::write_no_files()?;
    steps::bound_memory(MEMORY)?;
    steps::restrict_reach()?;
    steps::restrict_files(&[])?;
    steps::restrict_syscalls(policy)
}
