//! Planned hand-overs: from one worker to the next, and from one binary to another.
//!
//! # Theory of operation
//!
//! A crash is safe by design, so a planned hand-over is a planned crash: a successor waits on standby until it has
//! learnt all, then the worker that serves is killed and the successor promoted. Nothing is told to clients.
//!
//! An upgrade does the same with a successor of another program, which is admitted if it becomes ready and serves every
//! feature that a connected client uses. Until it has lived for [`GRACE`], [`Handover::program`] stays the old one: that
//! is what the next standby runs and what every start takes. So if the successor dies, the common path after a crash
//! *is* the rollback.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use serde_json::json;
use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::status::HandoverAnswer;
use sv3::virtio::{OFFERED, feature_names};

use super::Supervisor;
use super::token::Token;
use crate::doors::control::Ticket;
use crate::workers::spawner::Program;
use crate::workers::worker::{Waiter, Worker};

/// How long a new binary is on trial: if its worker dies before, the old one comes back.
const GRACE: Duration = Duration::from_secs(10);

/// What is planned and what is on trial.
#[derive(Default)]
pub struct Handover {
    program: Program,
    plan: Option<Plan>,
    trial: Option<Trial>,
    /// Virtio features that a worker of ours does not serve.
    withheld: u64,
}

struct Plan {
    asker: Ticket,
    /// What the successor runs.
    program: Program,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// A worker on standby that cannot be the successor has been killed.
    Room,
    /// The successor is told everything.
    Learning,
    /// The worker that serves, of this number, has been killed.
    Killed(Pid, Instant),
    /// It is dead; its successor serves as soon as it says so.
    Promoted(Pid, Instant),
}

struct Trial {
    ends: Instant,
    withheld_before: u64,
}

impl Handover {
    /// What a worker that has to be started runs.
    pub fn program(&self) -> Program {
        self.program
    }

    /// The virtio features that clients are offered.
    pub fn offers(&self) -> u64 {
        OFFERED & !self.withheld
    }

    /// When the trial ends.
    pub fn due(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.ends)
    }

    /// The worker that served is dead. True: that was the plan.
    pub fn predecessor_died(&mut self) -> bool {
        let Some(plan) = &mut self.plan else { return false };
        let Stage::Killed(old, since) = plan.stage else { return false };
        plan.stage = Stage::Promoted(old, since);
        true
    }

    /// Whether a worker on standby may serve.
    fn admits(&self, standby: &Worker) -> bool {
        let planned = |plan: &Plan| matches!(plan.stage, Stage::Promoted(..)) && plan.program == standby.program;
        standby.program == self.program || self.plan.as_ref().is_some_and(planned)
    }

    fn stage(&self) -> Option<Stage> {
        self.plan.as_ref().map(|plan| plan.stage)
    }
}

impl Supervisor {
    /// Plans a hand-over, to a worker of this binary if there is one. The answer comes later. The error is for a person.
    pub(super) fn plan_handover(&mut self, asker: usize, binary: Option<ForeignFd>) -> Result<(), String> {
        let serves = |worker: &Worker| worker.ready.is_some() && worker.pid.is_some() && worker.doom().is_none();
        if self.ending.is_some() || !self.life.has_served() || !self.worker.as_ref().is_some_and(serves) {
            return Err("no worker serves at the moment; try again".to_string());
        }
        if self.handover.plan.is_some() {
            return Err("a hand-over is under way; try again".to_string());
        }
        if let Some(due) = self.handover.due() {
            let left = due.saturating_duration_since(Instant::now()).as_secs() + 1;
            return Err(format!("the last upgrade is on trial for {left} more seconds; try again then"));
        }
        let program = match binary {
            Some(binary) => {
                let program = self.handover.program.other();
                let kept = self.spawner.keep(program, binary);
                kept.map_err(|error| format!("the spawner cannot be told: {error}"))?;
                program
            }
            None => self.handover.program,
        };
        let asker = self.control.defer(asker).ok_or("the conversation is over")?;
        if let Some(fd) = self.control.fd(asker.index()) {
            self.reactor.change(fd, Token::Control(asker.index()), EpollFlags::empty());
        }
        self.handover.plan = Some(Plan { asker, program, stage: Stage::Room });
        match &mut self.standby {
            Some(standby) if standby.program != program || standby.doom().is_some() || standby.has_hung_up() => {
                standby.kill("it makes room for another");
            }
            _ => self.teach_successor(),
        }
        Ok(())
    }

    /// Starts the successor, unless it waits already, and asks it to say when it has learnt all.
    fn teach_successor(&mut self) {
        let Some(plan) = &mut self.handover.plan else { return };
        plan.stage = Stage::Learning;
        let program = plan.program;
        if self.standby.is_none() {
            match self.bring_up(true, program) {
                Ok(worker) => self.standby = Some(worker),
                Err(error) => return self.give_up(&format!("the next worker could not be started: {error}")),
            }
        }
        if let Some(successor) = &mut self.standby {
            successor.order([Command::Barrier.into()], Waiter::Planned);
        }
    }

    /// The successor has learnt all: the worker that serves is killed, if no client loses by it.
    pub(super) fn successor_has_learnt(&mut self) {
        let Some(Plan { stage: Stage::Learning, .. }) = self.handover.plan else { return };
        let Some(offers) = self.standby.as_ref().map(|successor| successor.offers) else { return };
        let unserved = self.slots.ports().find_map(|port| {
            let missing = port.device().features & !offers;
            (missing != 0).then(|| (port.who, feature_names(missing).join(", ")))
        });
        if let Some((who, missing)) = unserved {
            if let Some(successor) = &mut self.standby {
                successor.kill("it was refused");
            }
            let (slot, pid) = (who.slot, who.pid);
            let why = format!("p{slot} (process {pid}) uses {missing}, which the new worker does not serve");
            return self.give_up(&why);
        }
        let Some((worker, old)) = self.worker.as_mut().and_then(|worker| worker.pid.map(|pid| (worker, pid))) else {
            return self.give_up("no worker serves at the moment");
        };
        if let Some(plan) = &mut self.handover.plan {
            plan.stage = Stage::Killed(old, Instant::now());
        }
        worker.kill("its successor is ready");
    }

    /// The worker on standby is gone. True: nobody is to be told, or somebody was.
    pub(super) fn standby_is_gone(&mut self, program: Program, why: &str) -> bool {
        let unproven = program != self.handover.program;
        match self.handover.stage() {
            Some(Stage::Room) => {
                self.teach_successor();
                return true;
            }
            Some(Stage::Learning) if unproven && why.starts_with("could not") => {
                let owner = "it must be an executable of root or of the switch's user";
                self.give_up(&format!("the new worker {why}; {owner}"));
            }
            Some(Stage::Learning) => {
                self.give_up(&format!("the next worker was {why}").replace("was exited", "exited"))
            }
            _ => {}
        }
        if unproven {
            self.start_standby();
        }
        unproven
    }

    /// The worker that served is dead, and nobody had planned it.
    pub(super) fn worker_died_unplanned(&mut self, pid: Pid, program: Program) {
        if let Some(Stage::Room | Stage::Learning) = self.handover.stage() {
            self.give_up("the worker died meanwhile by itself and was replaced by another of the same binary");
        }
        if program == self.handover.program {
            return;
        }
        if let Some(trial) = self.handover.trial.take() {
            self.handover.withheld = trial.withheld_before;
        }
        let message = format!("worker {pid}, of a new binary, died on trial; the old binary comes back");
        self.events.say_with("rollback", message, json!({ "worker_pid": pid.as_raw() }));
    }

    /// The worker on standby is of no use after this death. True: another one has to be started.
    pub(super) fn dismiss_unproven(&mut self) -> bool {
        match self.standby.as_mut().filter(|standby| !self.handover.admits(standby)) {
            Some(standby) => {
                standby.kill("it is of a binary that is not in use");
                true
            }
            None => false,
        }
    }

    /// A worker serves: if that was the plan, it has come true, or not.
    pub(super) fn end_handover(&mut self) {
        let Some(Plan { stage: Stage::Promoted(old, since), program, .. }) = self.handover.plan else { return };
        let blackout = since.elapsed();
        let Some((offers, now)) = self.worker.as_ref().filter(|worker| worker.program == program).map(of) else {
            return self.give_up("the new worker died while it took over; one of the old binary serves");
        };
        let blackout_us = u64::try_from(blackout.as_micros()).unwrap_or(u64::MAX);
        let ports = self.slots.taken().len();
        let mut message =
            format!("worker {now} took over from {old}, as planned, in {blackout_us} us with {ports} ports");
        if program != self.handover.program {
            let withheld_before = self.handover.withheld;
            self.handover.trial = Some(Trial { ends: Instant::now() + GRACE, withheld_before });
            // For the time of the trial clients must be served by either binary.
            self.handover.withheld |= OFFERED & !offers;
            message += &format!("; its new binary is on trial for {} s", GRACE.as_secs());
        }
        let (pid, before) = (now.as_raw(), old.as_raw());
        let fields = json!({ "worker_pid": pid, "before_pid": before, "gap_us": blackout_us, "ports": ports });
        self.events.say_with("handover", message, fields);
        if let Some(plan) = self.handover.plan.take() {
            let number = |pid: Pid| u32::try_from(pid.as_raw()).unwrap_or(0);
            let answer = HandoverAnswer { old_pid: number(old), new_pid: number(now), blackout_us, ports };
            self.answer_handover(plan.asker, serde_json::to_vec(&answer));
        }
    }

    /// A new binary that has lived through its trial is the one in use.
    pub(super) fn expire_trial(&mut self, now: Instant) {
        if self.handover.due().is_none_or(|due| due > now) {
            return;
        }
        self.handover.trial = None;
        let Some((offers, pid)) = self.worker.as_ref().map(of) else { return };
        self.handover.program = self.handover.program.other();
        self.handover.withheld = OFFERED & !offers;
        let message = format!("worker {pid} has passed its trial: its binary is the one in use");
        self.events.say_with("upgrade", message, json!({ "worker_pid": pid.as_raw() }));
        if self.dismiss_unproven() {
            return;
        }
        self.start_standby();
    }

    fn give_up(&mut self, why: &str) {
        let Some(plan) = self.handover.plan.take() else { return };
        self.events.say("handover_failed", why);
        self.answer_handover(plan.asker, serde_json::to_vec(&json!({ "error": why })));
    }

    fn answer_handover(&mut self, asker: Ticket, answer: serde_json::Result<Vec<u8>>) {
        if self.control.awaits(&asker) {
            self.answer(asker.index(), answer.unwrap_or_default());
        }
    }
}

fn of(worker: &Worker) -> (u64, Pid) {
    (worker.offers, worker.pid.unwrap_or(Pid::from_raw(0)))
}
