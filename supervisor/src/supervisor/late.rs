//! Workers that are late: that hang, are stuck, do not obey, or do not die.

use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::Supervisor;
use crate::workers::cpu_time::Moment;
use crate::workers::watchdog::Trouble;

impl Supervisor {
    /// Kills a worker that hangs, or that chaos mode wants dead.
    pub(super) fn watch_worker(&mut self, now: Instant) {
        let Some(worker) = &mut self.worker else { return };
        let Some(area) = self.ledger.workers.get(usize::from(worker.area)) else { return };
        if self.watchdog.due().is_some_and(|due| due <= now) {
            // One that was killed for another reason has that one.
            match self.watchdog.look(area, Moment::of(worker.pid)).filter(|_| worker.doom().is_none()) {
                Some(Trouble::Hangs(thread)) => {
                    self.hung = Some(thread);
                    let who = if self.threads > 1 { format!("thread {thread} of it") } else { "it".to_string() };
                    worker.kill(&format!("{who} hangs: awake and running, and no progress in half a second"));
                }
                Some(Trouble::Stuck) => worker.kill("it is stuck: awake, not running, and no progress in 10 s"),
                None => {}
            }
        }
        if let Some(chaos) = self.chaos.as_mut().filter(|chaos| chaos.next <= now) {
            chaos.plan();
            if let Some(pid) = worker.pid {
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// A worker that does not obey in time is killed, and taken for dead if the kernel does not say so.
    pub(super) fn expire_late(&mut self, now: Instant) {
        let mut gone = None;
        for worker in [&mut self.worker, &mut self.standby].into_iter().flatten() {
            match worker.due().is_some_and(|due| due <= now) {
                true if worker.doom().is_some() => gone = worker.pid.or(gone),
                true => worker.is_overdue(now),
                false => {}
            }
        }
        let Some(pid) = gone else { return };
        self.await_burial(pid);
        let status = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        match self.worker.as_ref().is_some_and(|worker| worker.pid == Some(pid)) {
            true => self.worker_died(status),
            false => self.standby_died(status),
        }
    }
}
