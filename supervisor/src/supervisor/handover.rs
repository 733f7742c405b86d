//! Planned handovers: what concerns clients and the request at the control socket; see [`crate::workers::handover`].

use std::time::Instant;

use nix::unistd::Pid;
use serde_json::json;
use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::status::HandoverAnswer;
use sv3::virtio::feature_names;

use super::{Supervisor, answers};
use crate::doors::control::Ticket;
use crate::workers::handover::{Completed, GRACE, Stage};
use crate::workers::spawner::Program;
use crate::workers::worker::{Waiter, Worker};

impl Supervisor {
    /// Plans a handover, to a worker of `binary` if there is one. The answer comes later. The error is for people.
    pub(super) fn plan_handover(&mut self, asker: usize, binary: Option<ForeignFd>) -> Result<(), String> {
        self.check_handover()?;
        let program = match binary {
            Some(binary) => {
                let program = self.workers.handover.program().other();
                let kept = self.workers.spawner.keep(program, binary);
                kept.map_err(|error| format!("the spawner cannot be reached: {error}"))?;
                program
            }
            None => self.workers.handover.program(),
        };
        let asker = self.doors.defer_control(asker, &self.reactor).ok_or("the exchange is over")?;
        self.begin_handover(Some(asker), program);
        Ok(())
    }

    /// Plans a handover for the supervisor itself: to a worker of the same binary, started as workers are started now.
    pub(super) fn plan_own_handover(&mut self) -> Result<(), String> {
        self.check_handover()?;
        self.begin_handover(None, self.workers.handover.program());
        Ok(())
    }

    /// Why no handover can be planned now, for people.
    fn check_handover(&self) -> Result<(), String> {
        let serves = |worker: &Worker| worker.ready.is_some() && worker.pid.is_some() && worker.kill_reason().is_none();
        let is_served = self.workers.serving.as_ref().is_some_and(serves);
        if self.is_frozen() {
            return Err("another process is taking over the switch; try again".to_string());
        }
        if self.ending.is_some() || !self.workers.succession.has_served() || !is_served {
            return Err("no worker serves at the moment; try again".to_string());
        }
        match self.workers.handover.refusal(Instant::now()) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    fn begin_handover(&mut self, asker: Option<Ticket>, program: Program) {
        self.workers.handover.plan(asker, program);
        let role = self.workers.config.role;
        let cannot_succeed = |standby: &Worker| {
            let is_other = standby.program != program || standby.role != role;
            is_other || standby.kill_reason().is_some() || standby.has_hung_up()
        };
        match self.workers.standby.as_mut().filter(|standby| cannot_succeed(standby)) {
            Some(standby) => standby.kill("it makes room for the successor"),
            None => self.prepare_successor(),
        }
    }

    /// Starts the successor unless it is on standby already, and sends a barrier, so that it reports when it has
    /// executed all commands.
    pub(super) fn prepare_successor(&mut self) {
        let Some(program) = self.workers.handover.begin_replay() else { return };
        if self.workers.standby.is_none()
            && let Err(error) = self.workers.start_successor(program, self.clients.slots.told(), &self.reactor)
        {
            return self.give_up(&format!("the next worker could not be started: {error}"));
        }
        if let Some(successor) = &mut self.workers.standby {
            successor.send([Command::Barrier.into()], Waiter::Planned);
        }
    }

    /// The successor has executed all commands: kills the serving worker, unless a client would lose a feature.
    pub(super) fn successor_is_ready(&mut self) {
        if self.taking_over.is_some() {
            return self.is_ready_to_take_over();
        }
        let Some(Stage::Replaying) = self.workers.handover.stage() else { return };
        let Some(offers) = self.workers.standby.as_ref().map(|successor| successor.offers) else { return };
        let unserved = self.clients.slots.clients().find_map(|client| {
            let missing = client.device().features & !offers;
            (missing != 0).then(|| (client.id.pid, client.device().port.to_string(), feature_names(missing).join(", ")))
        });
        if let Some((pid, name, missing)) = unserved {
            if let Some(successor) = &mut self.workers.standby {
                successor.kill("the upgrade was refused");
            }
            let why = format!("{name} (process {pid}) uses {missing}, which the new worker does not serve");
            return self.give_up(&why);
        }
        let Some((worker, old)) = self
            .workers
            .serving
            .as_mut()
            .and_then(|worker| Some((worker.pid?, worker)).map(|(pid, worker)| (worker, pid)))
        else {
            return self.give_up("no worker serves at the moment");
        };
        self.workers.handover.killed(old, Instant::now());
        worker.kill("its successor is ready");
    }

    /// The serving worker died, unplanned.
    pub(super) fn worker_died_unplanned(&mut self, pid: Pid, program: Program) {
        if let Some(Stage::Clearing | Stage::Replaying) = self.workers.handover.stage() {
            self.give_up("the worker died meanwhile, unplanned, and a worker of the same binary replaced it");
        }
        if !self.workers.handover.roll_back(program) {
            return;
        }
        let message = format!("worker {pid}, of a new binary, died on trial; the old binary comes back");
        self.telemetry.events.say_with("rollback", message, json!({ "worker_pid": pid.as_raw() }));
    }

    /// A worker serves: completes the planned handover, or gives it up.
    pub(super) fn end_handover(&mut self) {
        let Some((program, (offers, now))) = self.workers.serving.as_ref().map(|worker| (worker.program, of(worker)))
        else {
            return;
        };
        let Completed { asker, old, gap, on_trial } = match self.workers.handover.took_over(program, offers) {
            None => return,
            Some(Some(completed)) => completed,
            Some(None) => return self.give_up("the new worker died while it took over; one of the old binary serves"),
        };
        let gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        let ports = self.clients.slots.count();
        let mut message = format!("worker {now} took over from {old}, as planned, in {gap_us} us with {ports} ports");
        if on_trial {
            message += &format!("; its new binary is on trial for {} s", GRACE.as_secs());
        }
        let (pid, before) = (now.as_raw(), old.as_raw());
        let fields = json!({ "worker_pid": pid, "before_pid": before, "gap_us": gap_us, "ports": ports });
        self.telemetry.events.say_with("handover", message, fields);
        let number = |pid: Pid| u32::try_from(pid.as_raw()).unwrap_or(0);
        let answer = HandoverAnswer { old_pid: number(old), new_pid: number(now), gap_us, ports };
        if let Some(asker) = asker {
            self.doors.answer_deferred(&asker, answers::to_json(&answer), &self.reactor);
        }
    }

    /// Ends the trial: the new binary is now the one in use.
    pub(super) fn end_trial(&mut self) {
        let serving = self.workers.serving.as_ref().map(of);
        self.workers.handover.end_trial(serving.map(|(offers, _)| offers));
        let Some((_, pid)) = serving else { return };
        let message = format!("worker {pid} has passed its trial: its binary is the one in use");
        self.telemetry.events.say_with("upgrade", message, json!({ "worker_pid": pid.as_raw() }));
        if !self.workers.dismiss_unproven() {
            self.start_standby();
        }
    }

    /// Gives up the planned handover, and answers the request with the reason.
    pub(super) fn give_up(&mut self, why: &str) {
        let Some(asker) = self.workers.handover.give_up() else { return };
        self.telemetry.events.say("handover_failed", why);
        if let Some(asker) = asker {
            self.doors.answer_deferred(&asker, answers::error(why.to_string()), &self.reactor);
        }
    }
}

fn of(worker: &Worker) -> (u64, Pid) {
    (worker.offers, worker.pid.unwrap_or(Pid::from_raw(0)))
}
