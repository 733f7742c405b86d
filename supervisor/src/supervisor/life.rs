//! The lives of workers: one is started, told everything, lost, and followed by the next.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sv3::ipc::{Command, Settings};

use super::{LINK, STDERR, Supervisor};
use crate::crash::Death;
use crate::record::Order;
use crate::worker::{Waiter, Worker};

/// A life that counts as one: a worker that lived longer ends a row of crashes.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// Crashes in a row that are followed by a start at once.
const QUICK_STARTS: u32 = 10;
/// The longest delay before a start.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// What outlives each worker.
pub struct Life {
    settings: Settings,
    restarts: u64,
    last_death: Option<String>,
    crashes_in_a_row: u32,
    next_start: Option<Instant>,
    died: Option<(Instant, Option<Pid>)>,
    /// A child whose death came before the spawner told whose it was.
    early_death: Option<WaitStatus>,
    ending: Option<Pid>,
    served: bool,
}

impl Life {
    /// No worker yet.
    pub fn new(settings: Settings) -> Life {
        Life {
            settings,
            restarts: 0,
            last_death: None,
            crashes_in_a_row: 0,
            next_start: None,
            died: None,
            early_death: None,
            ending: None,
            served: false,
        }
    }

    /// When the next worker is to be started.
    pub fn next_start(&self) -> Option<Instant> {
        self.next_start
    }

    /// Workers that died and were replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Why the last one died.
    pub fn last_death(&self) -> Option<String> {
        self.last_death.clone()
    }

    /// The worker was let go; when this process ends, all is over.
    pub fn expect_end(&mut self, pid: Option<Pid>) {
        self.ending = pid;
    }
}

impl Supervisor {
    /// Starts a worker and tells it everything.
    pub(super) fn start_worker(&mut self) {
        self.life.next_start = None;
        let [head, _] = &self.ledger.lanes;
        head.crash.clear();
        for field in [&head.busy, &head.hand_port, &head.hand_ring] {
            field.store(0, Relaxed);
        }
        let mut worker = match Worker::ask_for(&self.spawner) {
            Ok(worker) => worker,
            Err(error) => return self.could_not_start(&error.to_string()),
        };
        let watched = self
            .watch(&worker.link, LINK, worker.interest)
            .and_then(|()| self.watch(&worker.stderr, STDERR, EpollFlags::EPOLLIN));
        if let Err(error) = watched {
            return self.could_not_start(&error.to_string());
        }
        let start = Order {
            command: Command::Start { settings: self.life.settings, lane: 0, standby: false },
            fd: Some(self.ledger_fd.clone()),
        };
        worker.order([start], Waiter::Leaving(u16::MAX));
        for port in self.slots.ports() {
            worker.order(port.session.replay(), Waiter::Session(port.who.slot));
        }
        self.worker = Some(worker);
    }

    /// The spawner says which process the worker is.
    pub(super) fn hear_spawner(&mut self) {
        match self.spawner.answer() {
            Ok(Some(Ok(pid))) => match &mut self.worker {
                Some(worker) => {
                    worker.is_born(pid);
                    let early = self.life.early_death.take().filter(|status| status.pid() == Some(pid));
                    match early {
                        Some(status) => self.worker_died(status),
                        None => self.worker_took_over(),
                    }
                }
                None => drop(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)),
            },
            Ok(Some(Err(errno))) => {
                self.worker = None;
                self.excuse_all();
                self.could_not_start(errno.desc());
            }
            Ok(None) => {}
            Err(_) => self.over = Some(Err("the spawner is gone, so no worker can be started any more".to_string())),
        }
    }

    /// Children have ended.
    pub(super) fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => status,
                Ok(_) => continue,
                Err(_) => return,
            };
            let pid = status.pid();
            if pid.is_some() && pid == self.worker.as_ref().and_then(|worker| worker.pid) {
                self.worker_died(status);
            } else if pid == Some(self.spawner.pid()) {
                self.over = Some(Err("the spawner died, so no worker can be started any more".to_string()));
            } else if pid.is_some() && pid == self.life.ending {
                self.over = Some(Ok(()));
            } else {
                self.life.early_death = Some(status);
            }
        }
    }

    /// Says so when a worker is ready and the spawner has told which process it is, in whichever order they say it.
    pub(super) fn worker_took_over(&mut self) {
        let worker = self.worker.as_ref().filter(|worker| worker.ready.is_some());
        let Some(now) = worker.and_then(|worker| worker.pid) else { return };
        if let Some((when, before)) = self.life.died.take() {
            let (before, ms) = (before.map_or(0, Pid::as_raw), when.elapsed().as_micros() as f64 / 1000.0);
            let ports = self.slots.taken().len();
            let message = format!("worker {now} took over from {before} after {ms:.1} ms with {ports} ports");
            self.life.restarts += 1;
            self.events.say("restart", message);
        }
        if !std::mem::replace(&mut self.life.served, true) {
            self.open_door();
            if let Some(text) = self.announcement.take() {
                crate::event::write_if_room(std::io::stdout(), text.as_bytes());
            }
        }
    }

    fn worker_died(&mut self, status: WaitStatus) {
        let Some(worker) = &mut self.worker else { return };
        let Death { words, violation } = Death::read(status, &self.ledger.lanes[0], worker.doom());
        // Reaped: the number may be another process's from now on.
        let pid = worker.pid.take();
        self.drain_reports();
        self.read_stderr();
        let Some(worker) = self.worker.take() else { return };
        self.life.died.get_or_insert((Instant::now(), pid));
        let pid = pid.map_or(0, Pid::as_raw);
        if let Some(syscall) = violation {
            self.events
                .say("policy_violation", format!("worker {pid} made the syscall {syscall}, which its policy forbids"));
        }
        self.events.say("crash", format!("worker {pid} {words}"));
        self.life.last_death = Some(words.clone());
        if worker.asked.elapsed() >= LIFE_MIN {
            self.life.crashes_in_a_row = 0;
        }
        drop(worker);
        self.excuse_all();
        self.recheck_memory();
        self.plan_start(&words);
    }

    fn could_not_start(&mut self, why: &str) {
        self.events.say("crash", format!("a worker could not be started: {why}"));
        self.life.last_death = Some(format!("could not be started: {why}"));
        self.life.died.get_or_insert((Instant::now(), None));
        self.plan_start(why);
    }

    fn plan_start(&mut self, why: &str) {
        if !self.life.served {
            self.over = Some(Err(format!("the first worker did not come up: {why}")));
            return;
        }
        let crashes = self.life.crashes_in_a_row.saturating_add(1);
        self.life.crashes_in_a_row = crashes;
        match crashes.checked_sub(QUICK_STARTS) {
            None => self.start_worker(),
            Some(more) => {
                let delay = Duration::from_millis(1 << more.min(10)).min(DELAY_MAX);
                let ms = delay.as_millis();
                self.events.say("backoff", format!("{crashes} workers died in a row; the next starts in {ms} ms"));
                self.life.next_start = Some(Instant::now() + delay);
            }
        }
    }

    /// Nobody has to wait for a worker that is dead.
    fn excuse_all(&mut self) {
        self.slots.release_all();
        for slot in self.slots.taken() {
            let reply = self.excuse_worker(slot);
            self.reply(slot, reply);
        }
    }

    /// A worker that does not obey in time is killed; one that is due is started.
    pub(super) fn expire_worker(&mut self, now: Instant) {
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.due().is_some_and(|due| due <= now)) {
            worker.is_overdue();
        }
        if self.life.next_start.is_some_and(|due| due <= now) {
            self.start_worker();
        }
    }

    /// Sends the worker what waits for it.
    pub(super) fn flush_link(&mut self) {
        let Some(worker) = self.worker.as_mut().filter(|worker| !worker.has_hung_up()) else { return };
        if worker.link.flush().is_err() {
            worker.hang_up();
            return;
        }
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, worker.link.is_backed_up());
        if wanted != worker.interest {
            worker.interest = wanted;
            let _ = self.epoll.modify(&worker.link, &mut EpollEvent::new(wanted, LINK));
        }
    }
}
