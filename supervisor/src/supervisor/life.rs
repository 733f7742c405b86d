//! The lives of workers: one is started, told everything, lost, and followed by the next.
//!
//! While one worker serves, another one waits on standby: confined, told everything that the first was told, every
//! client's memory mapped. When the first dies, [`Command::Promote`] makes the second serve, and a third is started to
//! wait. Without a standby (`--no-standby`, or deaths that come faster than workers) the next worker is started when it
//! is needed and told the same; it only takes longer. What of a port a worker on standby cannot obey it goes on without, and
//! is told again before it serves.

mod deaths;
#[cfg(any(test, feature = "fuzzing"))]
pub mod live;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::json;
use sv3::ipc::{Command, Settings};

use super::Supervisor;
use super::token::Token;
use crate::workers::command::WorkerCommand;
use crate::workers::cpu_time::Moment;
use crate::workers::spawner::{Answer, Program};
use crate::workers::starts::Starts;
use crate::workers::worker::{Cradle, Waiter, Worker};

/// How long after a death the next standby is started. Its start takes a processor for a millisecond or two, and all that
/// waited meanwhile in the rings comes first.
const BREATH: Duration = Duration::from_millis(10);
/// How long no new standby is started after one died or could not be.
const STANDBY_PAUSE: Duration = Duration::from_secs(1);

/// What outlives each worker.
pub struct Life {
    settings: Settings,
    standby: bool,
    /// No standby is started before.
    standby_pause: Option<Instant>,
    /// What the spawner was asked for, in order.
    asked: VecDeque<Asked>,
    restarts: u64,
    last_death: Option<String>,
    crashes_in_a_row: u32,
    starts: Starts,
    next_start: Option<Instant>,
    died: Option<(Instant, Option<Pid>)>,
    /// Children whose death came before the spawner told whose it was.
    early_deaths: Vec<WaitStatus>,
    /// There may be more children that have ended.
    unreaped: bool,
    /// Workers that are taken for dead before the kernel has said so.
    buried: Vec<Pid>,
    ending: Option<Pid>,
    served: bool,
}

/// A process that the spawner was asked for.
enum Asked {
    Worker(Cradle),
    Undertaker,
}

impl Life {
    /// No worker yet.
    pub fn new(settings: Settings, standby: bool) -> Life {
        Life {
            settings,
            standby,
            standby_pause: None,
            asked: VecDeque::new(),
            restarts: 0,
            last_death: None,
            crashes_in_a_row: 0,
            starts: Starts::new(Instant::now()),
            next_start: None,
            died: None,
            early_deaths: Vec::new(),
            unreaped: false,
            buried: Vec::new(),
            ending: None,
            served: false,
        }
    }

    /// When the next worker is to be started, or other children are to be heard of.
    pub fn next_start(&self) -> Option<Instant> {
        let unreaped = self.unreaped.then(Instant::now);
        self.next_start.into_iter().chain(self.standby_pause).chain(unreaped).min()
    }

    /// Workers that died and were replaced.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The spawner has been asked for a worker and has not answered.
    pub fn starts_a_worker(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked, Asked::Worker(_)))
    }

    /// The spawner has been asked for an undertaker.
    pub fn asked_for_undertaker(&mut self) {
        self.asked.push_back(Asked::Undertaker);
    }

    /// Files that the spawner needs to answer.
    pub fn cradles(&self) -> impl Iterator<Item = &Cradle> {
        self.asked.iter().filter_map(|asked| match asked {
            Asked::Worker(cradle) => Some(cradle),
            Asked::Undertaker => None,
        })
    }

    /// Why the last one died.
    pub fn last_death(&self) -> Option<String> {
        self.last_death.clone()
    }

    /// A worker has served since the start.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// The worker was let go; when this process ends, all is over.
    pub fn expect_end(&mut self, pid: Option<Pid>) {
        self.ending = pid;
    }
}

impl Supervisor {
    /// Starts a worker that serves.
    pub(super) fn start_worker(&mut self) {
        self.life.next_start = None;
        match self.bring_up(false, self.handover.program()) {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => self.could_not_start(&error.to_string()),
        }
    }

    /// Starts a worker that waits, if there is to be one and is none.
    pub(super) fn start_standby(&mut self) {
        let serves = self.worker.as_ref().is_some_and(|worker| worker.ready.is_some() && !worker.has_hung_up());
        let wanted = self.life.standby && self.standby.is_none() && self.life.standby_pause.is_none();
        if !serves || !wanted || self.ending.is_some() {
            return;
        }
        let now = Instant::now();
        let due = self.life.starts.due(now);
        if due > now {
            self.life.standby_pause = Some(due);
            return;
        }
        match self.bring_up(true, self.handover.program()) {
            Ok(worker) => self.standby = Some(worker),
            Err(error) => self.no_standby(self.handover.program(), &format!("could not be started: {error}")),
        }
    }

    /// Asks for a worker and tells it everything.
    pub(super) fn bring_up(&mut self, standby: bool, program: Program) -> io::Result<Worker> {
        self.life.starts.take(Instant::now());
        let other = if standby { &self.worker } else { &self.standby };
        let area = u8::from(other.as_ref().is_some_and(|worker| worker.area == 0));
        if let Some(own) = self.ledger.workers.get(usize::from(area)) {
            own.clear(self.threads.into());
        }
        let (mut worker, mut cradle) = Worker::unborn(program, area)?;
        self.reactor.watch(&worker.link, Token::Link(area), worker.interest)?;
        self.reactor.watch(&worker.stderr, Token::Stderr(area), EpollFlags::EPOLLIN)?;
        // One that is to serve at once waits as well, until it has been told of all ports: a frame from the first of
        // them must not meet a switch that has not heard of the second.
        let command = Command::Start { settings: self.life.settings, area, standby: true };
        worker.teach([WorkerCommand::with_fd(command, self.ledger_fd.clone())], &mut cradle);
        for port in self.slots.ports().filter(|port| port.quarantine.is_none()) {
            worker.teach(port.session.replay(), &mut cradle);
        }
        cradle.ask(&mut self.spawner, program)?;
        self.life.asked.push_back(Asked::Worker(cradle));
        if !standby {
            self.promote(&mut worker);
        }
        Ok(worker)
    }

    /// Lets a worker that was told everything serve.
    fn promote(&self, worker: &mut Worker) {
        // What it has gone on without it is told once more, before it moves a frame.
        for port in self.slots.ports().filter(|port| !port.session.is_waiting() && port.quarantine.is_none()) {
            if worker.lacks(port.who.slot).is_some() {
                worker.order(port.session.replay(), Waiter::Nobody);
            }
        }
        worker.promote();
        // Who waits for the position of a ring waits for this worker now, which has to start the ring for that.
        for port in self.slots.ports().filter(|port| port.session.is_waiting() && port.quarantine.is_none()) {
            let slot = port.who.slot;
            worker.order([port.device().port_remove()], Waiter::Nobody);
            worker.order(port.session.replay(), Waiter::Session(slot));
        }
    }

    /// Gives orders to every worker; only the one that serves answers `waiter`. False: no worker serves.
    pub(super) fn order(&mut self, orders: Vec<WorkerCommand>, waiter: Waiter) -> bool {
        if let Some(standby) = &mut self.standby {
            standby.order(orders.iter().cloned(), Waiter::Nobody);
        }
        match &mut self.worker {
            Some(worker) => {
                worker.order(orders, waiter);
                true
            }
            None => false,
        }
    }

    /// The worker of a area.
    pub(super) fn at_lane(&mut self, area: u8) -> Option<&mut Worker> {
        [&mut self.worker, &mut self.standby].into_iter().flatten().find(|worker| worker.area == area)
    }

    /// The spawner says which process a worker is.
    pub(super) fn hear_spawner(&mut self) {
        let answer = match self.spawner.answer() {
            Ok(Some(Answer::Worker(answer))) => answer,
            Ok(Some(Answer::Log(log))) => return self.take_log(log),
            Ok(None) => return,
            Err(_) => {
                self.over = Some(Err("the spawner is gone, so no worker can be started any more".to_string()));
                return;
            }
        };
        let area = match self.life.asked.pop_front() {
            Some(Asked::Worker(cradle)) => cradle.area,
            Some(Asked::Undertaker) => {
                let early = |pid: &Pid| self.life.early_deaths.iter().position(|status| status.pid() == Some(*pid));
                let dead = answer.ok().as_ref().and_then(early).map(|at| self.life.early_deaths.swap_remove(at));
                return self.undertaker.started(answer.ok().filter(|_| dead.is_none()));
            }
            None => 0,
        };
        let serves = self.worker.as_ref().is_some_and(|worker| worker.area == area);
        match (answer, self.at_lane(area)) {
            (Ok(pid), Some(worker)) => {
                worker.is_born(pid);
                if let Some(at) = self.life.early_deaths.iter().position(|status| status.pid() == Some(pid)) {
                    let status = self.life.early_deaths.swap_remove(at);
                    self.lost(pid, status);
                }
                self.worker_took_over();
            }
            (Ok(pid), None) => drop(nix::sys::signal::kill(pid, Signal::SIGKILL)),
            (Err(errno), Some(_)) if serves => {
                self.worker = None;
                self.excuse_all();
                self.could_not_start(errno.desc());
            }
            (Err(errno), Some(worker)) => {
                let program = worker.program;
                self.standby = None;
                self.no_standby(program, &format!("could not be started: {}", errno.desc()));
            }
            (Err(_), None) => {}
        }
    }

    /// The worker that serves has obeyed everything that came before its first client's next frame.
    pub(super) fn worker_took_over(&mut self) {
        let Some(worker) = self.worker.as_mut().filter(|worker| worker.took_over) else { return };
        // It may have been quicker than the spawner's word; then this is done when that comes.
        let Some(now) = worker.pid.map(Pid::as_raw) else { return };
        worker.took_over = false;
        self.life.starts.succeeded();
        // It says that it wakes; but as long as there is traffic it may never have slept since it was promoted.
        if let Some(area) = self.ledger.workers.get(usize::from(worker.area)) {
            self.watchdog.watch(area, Moment::of(worker.pid));
        }
        if let Some((when, before)) = self.life.died.take() {
            let (before, us) = (before.map_or(0, Pid::as_raw), when.elapsed().as_micros() as u64);
            let (ports, ms) = (self.slots.taken().len(), us as f64 / 1000.0);
            let message = format!("worker {now} took over from {before} after {ms:.3} ms with {ports} ports");
            self.life.restarts += 1;
            self.chronicle.took_over(Instant::now(), ports);
            let fields = json!({ "worker_pid": now, "before_pid": before, "gap_us": us, "ports": ports });
            self.events.say_with("restart", message, fields);
            self.life.standby_pause.get_or_insert_with(|| Instant::now() + BREATH);
        }
        if !std::mem::replace(&mut self.life.served, true) {
            // Who waits for the event finds the text there.
            if let Some(text) = self.announcement.take() {
                crate::telemetry::event::write_if_room(io::stdout(), text.as_bytes());
            }
            self.open_door();
        }
        self.end_handover();
        self.start_standby();
    }

    /// The worker on standby is lost; another one is started in a while.
    fn no_standby(&mut self, program: Program, why: &str) {
        if self.standby_is_gone(program, why) {
            return;
        }
        self.events.say("standby_lost", format!("the worker on standby {why}"));
        self.life.standby_pause = Some(Instant::now() + STANDBY_PAUSE);
    }

    fn could_not_start(&mut self, why: &str) {
        let crash = self.chronicle.could_not_start(Instant::now(), why);
        self.say_crash(&crash);
        self.life.last_death = Some(format!("could not be started: {why}"));
        self.life.died.get_or_insert((Instant::now(), None));
        self.life.starts.failed(Instant::now());
        self.plan_start(why);
    }

    fn plan_start(&mut self, why: &str) {
        if !self.life.served {
            let worker = self.worker_path.display();
            self.over = Some(Err(format!("the first worker did not come up: {why} ({worker})")));
            return;
        }
        let crashes = self.life.crashes_in_a_row.saturating_add(1);
        self.life.crashes_in_a_row = crashes;
        let now = Instant::now();
        let delay = self.life.starts.due(now).saturating_duration_since(now);
        if !delay.is_zero() {
            let ms = delay.as_micros().div_ceil(1000);
            let message = format!("{crashes} workers died in a row; the next starts in {ms} ms");
            self.events.say_with("backoff", message, json!({ "crashes": crashes, "delay_ms": ms as u64 }));
        }
        self.replace_worker();
    }

    /// Lets the worker on standby serve, whatever came before; without one, starts another worker as soon as one may be.
    fn replace_worker(&mut self) {
        let standby = match self.dismiss_unproven() {
            true => None,
            false => self.standby.take().filter(|worker| worker.doom().is_none() && !worker.has_hung_up()),
        };
        let Some(mut worker) = standby else {
            let now = Instant::now();
            let due = self.life.starts.due(now);
            return match due <= now {
                true => self.start_worker(),
                false => self.life.next_start = Some(due),
            };
        };
        self.life.next_start = None;
        self.promote(&mut worker);
        self.worker = Some(worker);
        self.flush_links();
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
        self.expire_late(now);
        if self.life.next_start.is_some_and(|due| due <= now) {
            self.replace_worker();
        }
        if self.life.standby_pause.is_some_and(|due| due <= now) {
            self.life.standby_pause = None;
            self.start_standby();
        }
    }

    /// Sends the workers what waits for them.
    pub(super) fn flush_links(&mut self) {
        for worker in [&mut self.worker, &mut self.standby].into_iter().flatten() {
            if worker.has_hung_up() {
                continue;
            }
            if worker.flush().is_err() {
                worker.hang_up();
                continue;
            }
            let mut wanted = EpollFlags::EPOLLIN;
            wanted.set(EpollFlags::EPOLLOUT, worker.link.is_backed_up() && worker.link.refused_until().is_none());
            if wanted != worker.interest {
                worker.interest = wanted;
                self.reactor.change(&worker.link, Token::Link(worker.area), wanted);
            }
        }
    }
}
