//! `sv3-worker --prove [PID] [--files | --cards]`: shows that the kernel confines a worker as its policy says. For `sv3 audit`.
//!
//! This process serves no client. Its children confine themselves by [`confine`], as a real worker does, and try
//! syscalls.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ledger::LedgerMap;
use sv3_policy::WorkerRole;
use sv3_policy::prove::{Subject, live, prove};

use crate::process::{confine, crash};

/// Makes all trials, of a worker of this role, and writes the outcome to stdout.
pub fn run(role: WorkerRole) -> Result<(), String> {
    crash::handle_signals().map_err(|e| format!("signal handlers: {e}"))?;
    let (_, map) = LedgerMap::create().map_err(|e| format!("ledger: {e}"))?;
    let ledger: &LedgerMap = Box::leak(Box::new(map));
    let area = &ledger.workers[0];
    crash::record_in(area);
    let noted = || {
        let number = area.crash.syscall.load(Relaxed);
        let noted = area.crash.signal.load(Relaxed) == libc::SIGSYS;
        area.crash.clear();
        noted.then_some(number)
    };
    let policy = sv3_policy::worker(role);
    let (confine, reach) = (&|| confine::worker(confine::memory(1), role, || Ok(())), &confine::reach);
    prove(&Subject { policy, confine, reach, noted: &noted, live: live(), removable: None })
}
