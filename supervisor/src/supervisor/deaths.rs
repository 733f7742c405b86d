//! What follows from a worker's death.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::Supervisor;
use crate::clients::holder::Holder;
use crate::workers::children::{Child, Role};
use crate::workers::death::{Death, Evidence, announced, client_to_blame};
use crate::workers::handover::Loss;
use crate::workers::worker::Worker;

/// A life that counts as one: a worker that lived longer ends a row of crashes.
const LIFE_MIN: Duration = Duration::from_millis(100);
/// Most changes of children that are heard of at a time: somebody who may signal one can stop and wake it without end.
const REAPED_MAX: usize = 16;

/// A worker that served and is dead.
struct Dead {
    when: Instant,
    pid: Option<Pid>,
    worker: Worker,
    death: Death,
    /// The client by whose doing it died, as far as the dead worker's word goes, and the slot that it had then.
    blamed: Option<(u16, Holder)>,
}

impl Supervisor {
    /// Children have ended.
    pub(super) fn reap(&mut self) {
        self.workers.children.unreaped = false;
        for _ in 0..REAPED_MAX {
            match self.workers.next_child() {
                None => return,
                Some(Child::Other) => {}
                // Stopped, then killed: it never runs again.
                Some(Child::Stopped(pid)) if self.workers.role(pid) == Some(Role::Serving) => {
                    self.bury(pid, Signal::SIGKILL);
                }
                Some(Child::Stopped(_)) => {}
                Some(Child::Spawner) => {
                    self.over = Some(Err("the spawner died, so no worker can be started any more".to_string()));
                }
                Some(Child::LetGo) => self.over = Some(Ok(())),
                Some(Child::Worker(pid, status)) => self.lost(pid, status),
            }
        }
        // No signal tells of the rest.
        self.workers.children.unreaped = true;
    }

    /// A process that must have been a worker is dead.
    pub(super) fn lost(&mut self, pid: Pid, status: WaitStatus) {
        match self.workers.whose_death(pid, status) {
            Some(Role::Serving) => self.worker_died(status),
            Some(Role::Standby) => self.standby_died(status),
            None => {}
        }
    }

    /// A worker that was killed is taken for dead, and has been noted as such.
    pub(super) fn is_dead(&mut self, pid: Pid) {
        let status = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        match self.workers.role(pid) {
            Some(Role::Serving) => self.worker_died(status),
            _ => self.standby_died(status),
        }
    }

    /// A worker of one thread that hangs up, having written down why it dies, is as good as dead: it touches no ring
    /// any more. The kernel says so only when it has taken all its memory away, which is milliseconds when guests are
    /// large.
    pub(super) fn heed_last_words(&mut self, area: u8) {
        if self.workers.config.threads > 1 {
            // The others run on until the kernel has ended them all.
            return;
        }
        let Some(worker) = self.workers.serving.as_ref().filter(|worker| worker.area == area) else { return };
        if let Some((pid, signal)) = worker.pid.zip(self.workers.area(area).and_then(announced)) {
            self.bury(pid, signal);
        }
    }

    /// Takes the worker that serves for dead, and sees to it that it is.
    fn bury(&mut self, pid: Pid, signal: Signal) {
        let _ = kill(pid, Signal::SIGKILL);
        self.workers.children.bury(pid);
        self.worker_died(WaitStatus::Signaled(pid, signal, false));
    }

    /// The worker that served is dead. In this order:
    ///
    /// 1. The evidence is read: the next worker gets the other area of the ledger, and the one after it this one.
    /// 2. What the worker still said is heard, and it is forgotten. The files that it had to unmap are kept until the
    ///    end: who closes one last may have to give much memory back, and the next worker serves first.
    /// 3. The watch begins anew.
    /// 4. A planned death changes nothing else: clients that waited are answered, the kernel is asked about their
    ///    files, and the successor serves. It is no crash, nobody is blamed, and here it ends.
    /// 5. A plan that this death spoils is given up; a binary on trial is withdrawn.
    /// 6. The gap in which nobody serves begins, and the crash is remembered.
    /// 7. Clients that waited for the dead worker are answered. Slots of clients that are gone become free.
    /// 8. The kernel is asked about clients' files, and clients are sent away whose memory has become too short or
    ///    whose call eventfd is full. Whom that tells of has done it.
    /// 9. Only if it tells of nobody, the dead worker's word is taken for who is to blame, which may be the end of a
    ///    port's service (quarantine).
    /// 10. The next worker serves, or is started. From here on nobody waits for what follows.
    /// 11. What takes time is told: how memory grew, and the crash with all that is known of it.
    pub(super) fn worker_died(&mut self, status: WaitStatus) {
        let Some(mut dead) = self.examine(status) else { return };
        let _files = dead.worker.let_go();
        self.workers.watch.begin_anew(self.workers.config.threads);
        if self.workers.handover.predecessor_died() {
            drop(dead);
            self.excuse_all();
            self.recheck_memory();
            self.send_away_stalled(true);
            return self.replace_worker();
        }
        self.worker_died_unplanned(dead.pid.unwrap_or(Pid::from_raw(0)), dead.worker.program);
        self.workers.succession.worker_died(dead.when, dead.pid);
        let number = dead.pid.and_then(|pid| u32::try_from(pid.as_raw()).ok());
        let lived = dead.worker.asked.elapsed();
        let mut crash = self.telemetry.crash_log.died(dead.when, (number, lived), &dead.death);
        if dead.worker.serving.is_some_and(|since| since.elapsed() >= LIFE_MIN) {
            self.workers.succession.end_crashes();
        }
        let last_words = dead.worker.last_line().map_or(String::new(), |line| format!("; its last words: {line}"));
        let Dead { worker, mut death, blamed, .. } = dead;
        drop(worker);
        self.excuse_all();
        self.blame_for(blamed, &death);
        self.plan_start(&(death.words.clone() + &last_words));
        self.suspect_shortage(status, &mut death, &mut crash);
        self.telemetry.say_crash(&crash);
        self.workers.succession.last_death = Some(death.words);
    }

    /// Steps 1 and 2: reads the evidence, hears the rest, and takes the worker away.
    fn examine(&mut self, status: WaitStatus) -> Option<Dead> {
        let when = Instant::now();
        let worker = self.workers.serving.as_mut()?;
        let area = self.workers.ledger.workers.get(usize::from(worker.area))?;
        let hung = self.workers.watch.hung;
        let evidence = Evidence::new(area, hung);
        let death = Death::read(status, evidence, worker.kill_reason());
        let slot = client_to_blame(status, evidence, hung.is_some());
        // It may have left just now; its slot is still its own.
        let blamed = slot.and_then(|slot| Some((slot, self.clients.slots.holder(slot)?)));
        // Reaped: the number may be another process's from now on.
        let pid = worker.pid.take();
        let number = worker.area;
        self.drain_reports();
        self.read_stderr(number);
        let worker = self.workers.serving.take()?;
        Some(Dead { when, pid, worker, death, blamed })
    }

    /// Steps 8 and 9: blames the clients of which the kernel tells, or else the one of which the dead worker does.
    fn blame_for(&mut self, blamed: Option<(u16, Holder)>, death: &Death) {
        let left = blamed.is_some_and(|(slot, _)| self.clients.slots.client(slot).is_none());
        let truncated = self.recheck_memory();
        let found = self.send_away_stalled(true) || truncated;
        let by_memory = death.fault.as_ref().is_some_and(|fault| fault.port.is_some());
        match blamed.filter(|_| !found) {
            Some((_, holder)) if left => self.blame_process(holder, by_memory),
            Some((slot, _)) => self.blame(slot, by_memory),
            None => {}
        }
    }

    fn standby_died(&mut self, status: WaitStatus) {
        if let Some(area) = self.workers.standby.as_ref().map(|worker| worker.area) {
            self.read_stderr(area);
        }
        let Some(worker) = self.workers.standby.take() else { return };
        let Some(area) = self.workers.area(worker.area) else { return };
        let death = Death::read(status, Evidence::new(area, None), worker.kill_reason());
        self.standby_lost(worker.program, &Loss::by_death(death, worker.last_line()));
    }
}
