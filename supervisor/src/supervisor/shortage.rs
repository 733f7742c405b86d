//! If SIGKILL killed a worker and sv3 did not send it, the kernel may have been short of memory. Then the crash lists
//! the clients whose memory files grew since they were admitted. The kernel tells how much a file grew, and no client
//! is blamed for it: a guest that uses its memory makes it grow, and nobody knows which process touched a page, or
//! which cgroup pays for it.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use sv3::status::{Crash, Growth};

use super::Supervisor;
use crate::ports::admission::present;
use crate::ports::kernel::Kernel;
use crate::workers::death::Death;

/// Least growth in octets that is listed.
const TOLD_FROM: u64 = 1 << 20;
/// Most ports that are listed.
const TOLD: usize = 3;

impl Supervisor {
    /// Adds growth to the crash, if lack of memory may be the cause. Takes a syscall for each region, so no client
    /// should wait for it.
    pub(super) fn add_growth(&mut self, status: WaitStatus, death: &mut Death, crash: &mut Crash) {
        let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
        if !killed || death.killed_by_us || self.workers.watch.is_chaotic() {
            return;
        }
        let growth = |client: &crate::clients::client::Client| {
            let (now, then) = present(&client.device().memory, &Kernel);
            Growth { port: client.device().port.to_string(), bytes: now.saturating_sub(then) }
        };
        let mut grown: Vec<Growth> =
            self.clients.slots.clients().map(growth).filter(|growth| growth.bytes >= TOLD_FROM).collect();
        grown.sort_by_key(|growth| std::cmp::Reverse(growth.bytes));
        grown.truncate(TOLD);
        death.words += "; sv3 did not send that signal: a person did, or the kernel for lack of memory";
        if !grown.is_empty() {
            let told: Vec<_> =
                grown.iter().map(|growth| format!("{} by {} MiB", growth.port, growth.bytes >> 20)).collect();
            death.words += &format!(" (memory files that grew since they were admitted: {})", told.join(", "));
        }
        crash.cause.clone_from(&death.words);
        crash.grown = grown;
        self.telemetry.crash_log.amend_last(crash);
    }
}
