//! The succession of workers: what concerns waiting clients, requests at the control socket, and events.

use std::time::Instant;

use nix::unistd::Pid;
use serde_json::json;

use super::{SPAWNER_GONE, Supervisor};
use crate::workers::children::News;
use crate::workers::handover::{AfterLoss, Loss};
use crate::workers::spawner::Program;
use crate::workers::succession::{Next, TakeOver};

impl Supervisor {
    /// Starts a worker to serve.
    pub(super) fn start_worker(&mut self) {
        if let Err(error) = self.workers.start(self.clients.slots.told(), &self.reactor) {
            self.could_not_start(&error.to_string());
        }
    }

    /// Starts a standby, if one is wanted and there is none.
    pub(super) fn start_standby(&mut self) {
        if self.ending.is_some() || self.is_frozen() {
            return;
        }
        if let Err(error) = self.workers.start_standby(self.clients.slots.told(), &self.reactor) {
            self.standby_lost(self.workers.handover.program(), &Loss::NotStarted(error.to_string()));
        }
    }

    /// Lets the standby serve, or starts a worker as soon as that is allowed.
    pub(super) fn replace_worker(&mut self) {
        match self.workers.replace(self.clients.slots.told(), &self.reactor) {
            Next::Found => {}
            Next::CouldNotStart(error) => self.could_not_start(&error.to_string()),
        }
    }

    /// Handles answers of the spawner, such as a worker's pid.
    pub(super) fn read_spawner(&mut self) {
        match self.workers.read_spawner() {
            News::Nothing => {}
            News::Log(log) => self.telemetry.take_log(log),
            News::Gone => self.over = Some(Err(SPAWNER_GONE.to_string())),
            News::Started(pid, ended) => {
                if let Some(status) = ended {
                    self.lost(pid, status);
                }
                self.worker_took_over();
            }
            News::NoWorker(errno) => {
                self.end_waits();
                self.could_not_start(errno.desc());
            }
            News::NoStandby(program, errno) => {
                self.standby_lost(program, &Loss::NotStarted(errno.desc().to_string()));
            }
        }
    }

    /// Completes a take-over, if the serving worker has executed all commands that precede the next frame.
    pub(super) fn worker_took_over(&mut self) {
        let Some(TakeOver { pid, gap, is_first }) = self.workers.take_over() else { return };
        if let Some((gap, before)) = gap {
            let (now, before, us) = (pid.as_raw(), before.map_or(0, Pid::as_raw), gap.as_micros() as u64);
            let (ports, ms) = (self.clients.slots.count(), us as f64 / 1000.0);
            let message = format!("worker {now} took over from {before} after {ms:.3} ms with {ports} ports");
            self.telemetry.crash_log.took_over(Instant::now(), ports);
            let fields = json!({ "worker_pid": now, "before_pid": before, "gap_us": us, "ports": ports });
            self.telemetry.events.say_with("restart", message, fields);
        }
        if is_first {
            self.telemetry.announce();
            self.open_doors();
        }
        self.end_handover();
        self.took_over_switch();
        self.answer_obeyed();
        self.start_standby();
        self.ensure_role();
    }

    /// The standby is lost. Another one is started: at once for a planned handover, otherwise after a pause.
    pub(super) fn standby_lost(&mut self, program: Program, loss: &Loss) {
        if self.handing_over.is_some() {
            return;
        }
        if self.taking_over.as_ref().is_some_and(|taking| !taking.is_told()) {
            return self.cannot_take_over(loss);
        }
        let is_unproven = program != self.workers.handover.program();
        match self.workers.handover.standby_lost(program, loss) {
            AfterLoss::StartSuccessor => return self.prepare_successor(),
            AfterLoss::GiveUp(why) => self.give_up(&why),
            AfterLoss::Unplanned => {}
        }
        if is_unproven {
            return self.start_standby();
        }
        self.telemetry.events.say("standby_lost", loss.of("the standby"));
        self.workers.succession.pause_standby();
    }

    fn could_not_start(&mut self, why: &str) {
        let now = Instant::now();
        let crash = self.telemetry.crash_log.could_not_start(now, why);
        self.telemetry.say_crash(&crash);
        self.workers.succession.last_death = Some(format!("could not be started: {why}"));
        self.workers.succession.could_not_start(now);
        self.plan_start(why);
    }

    /// A worker died or could not be started: plans the start of the next one. If no worker has served yet, the
    /// supervisor ends.
    pub(super) fn plan_start(&mut self, why: &str) {
        if !self.workers.succession.has_served() {
            let worker = self.workers.config.path.display();
            self.over = Some(Err(format!("the first worker did not come up: {why} ({worker})")));
            return;
        }
        let (crashes, delay) = self.workers.succession.count_crash(Instant::now());
        if !delay.is_zero() {
            let ms = delay.as_micros().div_ceil(1000);
            let message = format!("{crashes} workers died in a row; the next starts in {ms} ms");
            self.telemetry.events.say_with("backoff", message, json!({ "crashes": crashes, "delay_ms": ms as u64 }));
        }
        self.replace_worker();
    }

    /// Ends all clients' waits for a dead worker.
    pub(super) fn end_waits(&mut self) {
        self.clients.slots.release_all();
        for slot in self.clients.slots.taken() {
            let reply = self.answer_without_worker(slot);
            self.reply(slot, reply);
        }
    }
}
