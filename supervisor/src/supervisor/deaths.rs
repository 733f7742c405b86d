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

/// Octets of a page of a file that is not of huge pages.
const SMALLEST_PAGE: u64 = 4096;
/// A worker that served for longer than this ends a row of crashes.
const LIFE_MIN: Duration = Duration::from_millis(100);
/// Most changes of children that are handled in one turn: a process that may signal a child can stop and continue it
/// without end.
const REAPED_MAX: usize = 16;

/// A serving worker that has died.
struct Dead {
    when: Instant,
    pid: Option<Pid>,
    worker: Worker,
    death: Death,
    /// The client that the dying worker's record blames, and its slot then.
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
                    self.over = Some(Err("the spawner died; start the switch again".to_string()));
                }
                Some(Child::LetGo) => self.over = Some(Ok(())),
                Some(Child::Worker(pid, status)) => self.lost(pid, status),
            }
        }
        // No further signal comes for the rest.
        self.workers.children.unreaped = true;
    }

    /// Handles the death of a process that must have been a worker.
    pub(super) fn lost(&mut self, pid: Pid, status: WaitStatus) {
        match self.workers.whose_death(pid, status) {
            Some(Role::Serving) => self.worker_died(status),
            Some(Role::Standby) => self.standby_died(status),
            None => {}
        }
    }

    /// Handles a killed worker as dead, before the kernel reports the death.
    pub(super) fn is_dead(&mut self, pid: Pid) {
        let status = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        match self.workers.role(pid) {
            Some(Role::Serving) => self.worker_died(status),
            _ => self.standby_died(status),
        }
    }

    /// A worker with one thread that has written its crash record and closed its link is as good as dead: it touches no
    /// ring any more. The kernel reports the death only after it has freed the worker's memory, which takes
    /// milliseconds if guests are large.
    pub(super) fn handle_announced_death(&mut self, area: u8) {
        if self.workers.config.threads > 1 {
            // The other threads run until the kernel has ended them.
            return;
        }
        let Some(worker) = self.workers.serving.as_ref().filter(|worker| worker.area == area) else { return };
        if let Some((pid, signal)) = worker.pid.zip(self.workers.area(area).and_then(announced)) {
            self.bury(pid, signal);
        }
    }

    /// Handles the serving worker as dead, and kills it.
    fn bury(&mut self, pid: Pid, signal: Signal) {
        let _ = kill(pid, Signal::SIGKILL);
        self.workers.children.bury(pid);
        self.worker_died(WaitStatus::Signaled(pid, signal, false));
    }

    /// Handles the death of the serving worker, in this order:
    ///
    /// 1. Reads the evidence from the worker's area of the ledger. The next worker has the other area, and the one
    ///    after it gets this one again.
    /// 2. Reads the reports that the worker left, and removes the worker. The files that it had to unmap are kept until
    ///    the end: the last close of a file may free much memory, and the next worker must serve first.
    /// 3. Resets the watch, and gives up a trace that the worker was asked for.
    /// 4. If the death was planned: answers clients that waited, asks the kernel about their files, lets the successor
    ///    serve, and returns. A planned death is no crash, and no client is blamed.
    /// 5. Gives up a planned handover that this death makes impossible, and withdraws a binary on trial.
    /// 6. The gap without a serving worker begins; adds the crash to the log.
    /// 7. Answers clients that waited for the dead worker, and frees slots of clients that have disconnected.
    /// 8. Asks the kernel about clients' files. Disconnects clients whose memory has become too short or whose call
    ///    eventfd is full: they caused the death.
    /// 9. If step 8 found no client, blames the one that the dead worker's record names, which may put a port in
    ///    quarantine.
    /// 10. Lets the next worker serve, or starts one. No client waits for the rest. Stops cards, whose next worker stops
    ///     their queues by itself and then waits for the supervisor.
    /// 11. Does what takes time: finds how memory files grew, and writes the event of the crash.
    pub(super) fn worker_died(&mut self, status: WaitStatus) {
        let Some(mut dead) = self.examine(status) else { return };
        let _files = dead.worker.let_go();
        self.workers.watch.begin_anew(self.workers.config.threads);
        self.give_up_trace();
        self.took_over_switch();
        if self.died_for_successor() {
            return;
        }
        if self.workers.handover.predecessor_died() {
            drop(dead);
            self.end_waits();
            self.recheck_memory();
            self.send_away_stalled(true);
            self.replace_worker();
            return self.stop_cards();
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
        self.end_waits();
        self.blame_for(blamed, &death);
        self.plan_start(&(death.words.clone() + &last_words));
        self.stop_cards();
        self.add_growth(status, &mut death, &mut crash);
        self.telemetry.say_crash(&crash);
        self.workers.succession.last_death = Some(death.words);
    }

    /// Steps 1 and 2: reads the evidence and the last reports, and removes the worker.
    fn examine(&mut self, status: WaitStatus) -> Option<Dead> {
        let when = Instant::now();
        let worker = self.workers.serving.as_mut()?;
        let area = self.workers.ledger.workers.get(usize::from(worker.area))?;
        let hung = self.workers.watch.hung;
        let names = self.clients.slots.names();
        let evidence = Evidence::new(area, hung).with(&names);
        let death = Death::read(status, evidence, worker.kill_reason());
        let slot = client_to_blame(status, evidence, hung.is_some());
        // The client may have disconnected just now; the slot is still its own.
        let blamed = slot.and_then(|slot| Some((slot, self.clients.slots.holder(slot)?)));
        // The process is reaped: another process may now get its pid.
        let pid = worker.pid.take();
        let number = worker.area;
        self.drain_reports();
        self.read_stderr(number);
        let worker = self.workers.serving.take()?;
        Some(Dead { when, pid, worker, death, blamed })
    }

    /// Steps 8 and 9: blames the clients that the kernel's answers show, or else the one that the dead worker's record
    /// names.
    fn blame_for(&mut self, blamed: Option<(u16, Holder)>, death: &Death) {
        let mut is_there = |slot| self.clients.slots.client(slot).is_some() || self.clients.slots.named(slot).is_some();
        let left = blamed.is_some_and(|(slot, _)| !is_there(slot));
        let truncated = self.recheck_memory();
        let found = self.send_away_stalled(true) || truncated;
        let by_memory = death.fault.as_ref().is_some_and(|fault| fault.port.is_some());
        match blamed.filter(|_| !found) {
            // A port that was attached and is detached has no process to blame.
            Some((_, holder)) if left && holder.pid < 0 => {}
            Some((_, holder)) if left => self.blame_process(holder, by_memory),
            Some((slot, _)) => {
                let why = self.missing_page(slot, death);
                self.blame(slot, by_memory, why);
            }
            None => {}
        }
    }

    /// Why an access to a client's memory may have failed whose file is as long as it must be. For the event.
    fn missing_page(&mut self, slot: u16, death: &Death) -> &'static str {
        let region = death.fault.as_ref().and_then(|fault| fault.region).filter(|_| death.signal == Some("SIGBUS"));
        let (Some(region), Some(client)) = (region, self.clients.slots.client(slot)) else { return "" };
        match client.device().memory.iter().find(|memory| memory.region.guest_addr == region) {
            Some(memory) if memory.region.block > SMALLEST_PAGE => {
                ": its file has no page at this address, and the machine no free huge page (HugePages_Free in \
                 /proc/meminfo); prealloc=on gives a guest its huge pages when it starts"
            }
            Some(_) => ": its file has no page at this address, and its file system no room for one",
            None => "",
        }
    }

    fn standby_died(&mut self, status: WaitStatus) {
        if let Some(area) = self.workers.standby.as_ref().map(|worker| worker.area) {
            self.read_stderr(area);
        }
        let Some(worker) = self.workers.standby.take() else { return };
        let Some(area) = self.workers.area(worker.area) else { return };
        let names = self.clients.slots.names();
        let death = Death::read(status, Evidence::new(area, None).with(&names), worker.kill_reason());
        self.standby_lost(worker.program, &Loss::by_death(death, worker.last_line()));
    }
}
