//! How a worker's death becomes known, and what follows from it.
//!
//! The kernel tells of it by SIGCHLD, once it has taken the dead process's memory away. It is known earlier of a worker that has
//! written down why it dies and hung up, of one that was stopped, and of one that was killed and is held in the kernel: these
//! are *buried*, taken for dead before the kernel says so.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Supervisor;
use crate::workers::death::{Death, Scene, culprit};
use crate::workers::watchdog::Watchdog;

/// A life that counts as one: a worker that lived longer ends a row of crashes.
const LIFE_MIN: Duration = Duration::from_millis(100);
/// Most changes of children that are heard of at a time: somebody who may signal one can stop and wake it without end.
const REAPED_MAX: usize = 16;

impl Supervisor {
    /// Children have ended.
    pub(in crate::supervisor) fn reap(&mut self) {
        self.life.unreaped = false;
        for _ in 0..REAPED_MAX {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    for worker in [&mut self.worker, &mut self.standby].into_iter().flatten() {
                        if worker.pid == Some(pid) {
                            worker.kill(&format!("it was stopped by {signal}"));
                        }
                    }
                    if self.worker.as_ref().is_some_and(|worker| worker.pid == Some(pid)) {
                        // Stopped, then killed: it never runs again.
                        self.bury(pid, Signal::SIGKILL);
                    }
                    continue;
                }
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => status,
                Ok(_) => continue,
                Err(_) => return,
            };
            let Some(pid) = status.pid() else { continue };
            if pid == self.spawner.pid() {
                self.over = Some(Err("the spawner died, so no worker can be started any more".to_string()));
            } else if self.undertaker.ended(pid) {
                // Another one is asked for in the loop.
            } else if Some(pid) == self.life.ending {
                self.over = Some(Ok(()));
            } else {
                self.lost(pid, status);
            }
        }
        // No signal tells of the rest.
        self.life.unreaped = true;
    }

    /// Goes on with children that have ended, if there were more of them than a turn takes.
    pub(in crate::supervisor) fn reap_rest(&mut self) {
        if self.life.unreaped {
            self.reap();
        }
    }

    /// A process that must have been a worker is dead.
    pub(super) fn lost(&mut self, pid: Pid, status: WaitStatus) {
        if let Some(at) = self.life.buried.iter().position(|buried| *buried == pid) {
            self.life.buried.swap_remove(at);
        } else if self.worker.as_ref().is_some_and(|worker| worker.pid == Some(pid)) {
            self.worker_died(status);
        } else if self.standby.as_ref().is_some_and(|worker| worker.pid == Some(pid)) {
            self.standby_died(status);
        } else if !self.life.asked.is_empty() {
            self.life.early_deaths.push(status);
        }
    }

    /// A worker of one thread that hangs up, having written down why it dies, is as good as dead: it touches no ring any
    /// more. The kernel says so only when it has taken all its memory away, which is milliseconds when guests are large.
    pub(in crate::supervisor) fn heed_last_words(&mut self, area: u8) {
        let Some(worker) = self.worker.as_ref().filter(|worker| worker.area == area) else { return };
        if self.threads > 1 {
            // The others run on until the kernel has ended them all.
            return;
        }
        let announced = self.ledger.workers.get(usize::from(area)).and_then(crate::workers::death::announced);
        if let Some((pid, signal)) = worker.pid.zip(announced) {
            self.bury(pid, signal);
        }
    }

    /// A worker is taken for dead; the kernel may say so later.
    pub(in crate::supervisor) fn await_burial(&mut self, pid: Pid) {
        self.life.buried.push(pid);
    }

    /// Takes the worker that serves for dead, and sees to it that it is.
    fn bury(&mut self, pid: Pid, signal: Signal) {
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        self.life.buried.push(pid);
        self.worker_died(WaitStatus::Signaled(pid, signal, false));
    }

    pub(in crate::supervisor) fn worker_died(&mut self, status: WaitStatus) {
        let when = Instant::now();
        let Some(worker) = &mut self.worker else { return };
        let Some(area) = self.ledger.workers.get(usize::from(worker.area)) else { return };
        let scene = Scene::new(area, self.hung);
        let mut death = Death::read(status, scene, worker.doom());
        let culprit = culprit(status, scene, self.hung.is_some());
        // It may have left just now; its slot is still its own.
        let culprit = culprit.and_then(|slot| Some((slot, self.slots.holder(slot)?)));
        // Reaped: the number may be another process's from now on.
        let pid = worker.pid.take();
        let number = worker.area;
        self.drain_reports();
        self.read_stderr(number);
        let Some(mut worker) = self.worker.take() else { return };
        // Who closes a file last may have to give much back: when the next worker serves, at the earliest.
        let _later = worker.let_go();
        (self.watchdog, self.hung, self.jammed) = (Watchdog::new(self.threads.into()), None, false);
        if self.handover.predecessor_died() {
            drop(worker);
            self.excuse_all();
            self.recheck_memory();
            self.send_away_jammers(true);
            return self.replace_worker();
        }
        self.worker_died_unplanned(pid.unwrap_or(Pid::from_raw(0)), worker.program);
        if self.life.died.replace(self.life.died.unwrap_or((when, pid))).is_some() {
            // It has not taken over from the one before.
            self.life.starts.failed(when);
        }
        let number = pid.and_then(|pid| u32::try_from(pid.as_raw()).ok());
        let mut crash = self.chronicle.died(when, (number, worker.asked.elapsed()), &death);
        if worker.serving.is_some_and(|since| since.elapsed() >= LIFE_MIN) {
            self.life.crashes_in_a_row = 0;
        }
        let last_words = worker.last_line().map_or(String::new(), |line| format!("; its last words: {line}"));
        drop(worker);
        self.excuse_all();
        let left = culprit.is_some_and(|(slot, _)| self.slots.client(slot).is_none());
        // What the kernel says of files comes before what the dead worker said. Who can be told by that has done it, and
        // nobody else.
        let truncated = self.recheck_memory();
        let found = self.send_away_jammers(true) || truncated;
        let by_memory = death.fault.as_ref().is_some_and(|fault| fault.port.is_some());
        match culprit.filter(|_| !found) {
            Some((_, holder)) if left => self.blame_process(holder, by_memory),
            Some((slot, _)) => self.blame(slot, by_memory),
            None => {}
        }
        self.plan_start(&(death.words.clone() + &last_words));
        self.suspect_shortage(status, &mut death, &mut crash);
        self.say_crash(&crash);
        self.life.last_death = Some(death.words);
    }

    pub(in crate::supervisor) fn standby_died(&mut self, status: WaitStatus) {
        if let Some(area) = self.standby.as_ref().map(|worker| worker.area) {
            self.read_stderr(area);
        }
        let Some(worker) = self.standby.take() else { return };
        let Some(area) = self.ledger.workers.get(usize::from(worker.area)) else { return };
        let Death { mut words, .. } = Death::read(status, Scene::new(area, None), worker.doom());
        if let Some(line) = worker.last_line() {
            words += &format!("; its last words: {line}");
        }
        self.no_standby(worker.program, &words);
    }
}
