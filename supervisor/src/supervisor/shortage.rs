//! A worker that was killed by SIGKILL, which nobody here sent, may have been the kernel's choice for want of memory.
//! It is told whose memory files grew since they were admitted. That is a fact of the kernel's and no blame: a guest
//! that uses its memory makes it grow, and who touched a page, and whom a cgroup charges for it, is not known.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use sv3::status::{Crash, Growth};

use super::Supervisor;
use crate::ports::admission::present;
use crate::ports::kernel::Kernel;
use crate::workers::death::Death;

/// Growth in octets that is worth telling.
const TOLD_FROM: u64 = 1 << 20;
/// Ports that are told of.
const TOLD: usize = 3;

impl Supervisor {
    /// Tells of growth, if that may be why the worker died. Takes a syscall for each region: nobody is to wait for it.
    pub(super) fn suspect_shortage(&mut self, status: WaitStatus, death: &mut Death, crash: &mut Crash) {
        let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
        if !killed || death.killed_by_us || self.workers.watch.is_chaotic() {
            return;
        }
        let growth = |client: &crate::clients::client::Client| {
            let (now, then) = present(&client.device().memory, &Kernel);
            Growth { port: format!("p{}", client.id.slot), bytes: now.saturating_sub(then) }
        };
        let mut grown: Vec<Growth> =
            self.clients.slots.clients().map(growth).filter(|growth| growth.bytes >= TOLD_FROM).collect();
        grown.sort_by_key(|growth| std::cmp::Reverse(growth.bytes));
        grown.truncate(TOLD);
        death.words += "; sv3 did not send that: a person did, or the kernel, for want of memory";
        if !grown.is_empty() {
            let told: Vec<_> =
                grown.iter().map(|growth| format!("{} by {} MiB", growth.port, growth.bytes >> 20)).collect();
            death.words += &format!(" (since they came, the memory files grew of {})", told.join(", "));
        }
        crash.cause.clone_from(&death.words);
        crash.grown = grown;
        self.telemetry.crash_log.amend_last(crash);
    }
}
