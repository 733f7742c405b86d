//! Planned handovers, and binaries on trial.
//!
//! # Theory of operation
//!
//! A crash is safe by design, so a planned handover is a planned crash. The successor is on standby until it has
//! executed all commands. Then the supervisor kills the serving worker and promotes the successor. Clients are told
//! nothing.
//!
//! An upgrade does the same with a successor that runs another program. The successor is admitted if it becomes ready
//! and serves every feature that a connected client uses. Until it has served for [`GRACE`], [`Handover::program`] is
//! still the old program, and every standby and every started worker runs that. So if the successor dies, the usual
//! path after a crash *is* the rollback.

use std::fmt;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sv3::virtio::OFFERED;

use crate::doors::control::Ticket;
use crate::workers::Workers;
use crate::workers::death::Death;
use crate::workers::spawner::Program;
use crate::workers::worker::Worker;

/// How long a new binary is on trial. If its worker dies before, the old binary comes back.
pub const GRACE: Duration = Duration::from_secs(10);

/// The planned handover and the trial.
#[derive(Default)]
pub struct Handover {
    program: Program,
    plan: Option<Plan>,
    trial: Option<Trial>,
    /// Virtio features that a worker in use or on trial does not serve.
    withheld: u64,
}

struct Plan {
    /// `None`: the supervisor itself.
    asker: Option<Ticket>,
    /// The program that the successor runs.
    program: Program,
    stage: Stage,
}

/// The stage of a planned handover.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// A worker on standby that cannot be the successor has been killed.
    Clearing,
    /// The successor executes the replay.
    Replaying,
    /// The serving worker, with this pid, has been killed.
    Killed(Pid, Instant),
    /// That worker is dead. The successor serves as soon as it reports so.
    Promoted(Pid, Instant),
}

struct Trial {
    ends: Instant,
    withheld_before: u64,
}

/// Why a worker on standby is lost.
#[derive(Debug)]
pub enum Loss {
    /// It could not be started, for this reason.
    NotStarted(String),
    /// It exited by itself, in words.
    Exited(String),
    /// It was killed, in words.
    Killed(String),
}

impl Loss {
    /// A death, and the last line that the worker wrote.
    pub fn by_death(death: Death, last_line: Option<&str>) -> Loss {
        let mut words = death.words;
        if let Some(line) = last_line {
            words += &format!("; its last words: {line}");
        }
        match death.exit_code.is_some() && !death.killed_by_us {
            true => Loss::Exited(words),
            false => Loss::Killed(words),
        }
    }

    /// What happened to this worker, as a sentence.
    pub fn of(&self, worker: &str) -> String {
        match self {
            Loss::NotStarted(_) | Loss::Exited(_) => format!("{worker} {self}"),
            Loss::Killed(words) => format!("{worker} was {words}"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::NotStarted(why) => write!(f, "could not be started: {why}"),
            Loss::Exited(words) | Loss::Killed(words) => f.write_str(words),
        }
    }
}

/// What follows for the plan when the standby is lost.
#[derive(Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// The plan does not depend on it.
    Unplanned,
    /// It made room for the successor, which must be started.
    StartSuccessor,
    /// The plan fails, for this reason.
    GiveUp(String),
}

/// A worker serves as planned.
pub struct Completed {
    /// The exchange that asked for the handover; `None`: the supervisor itself did.
    pub asker: Option<Ticket>,
    /// The process that served before.
    pub old: Pid,
    /// The gap in which no worker served.
    pub gap: Duration,
    /// Its binary is new, and on trial from now on.
    pub on_trial: bool,
}

impl Handover {
    /// The program that a new worker runs.
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

    /// Why no handover can be planned now, for people.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        if self.plan.is_some() {
            return Some("a handover is under way; try again".to_string());
        }
        let left = self.due()?.saturating_duration_since(now).as_secs() + 1;
        Some(format!("the last upgrade is on trial for {left} more seconds; try again then"))
    }

    /// Plans a handover to a worker of this program.
    pub fn plan(&mut self, asker: Option<Ticket>, program: Program) {
        self.plan = Some(Plan { asker, program, stage: Stage::Clearing });
    }

    /// The successor is about to get the replay. Returns the program that it runs.
    pub fn begin_replay(&mut self) -> Option<Program> {
        let plan = self.plan.as_mut()?;
        plan.stage = Stage::Replaying;
        Some(plan.program)
    }

    /// The serving worker has been killed for its successor.
    pub fn killed(&mut self, old: Pid, now: Instant) {
        if let Some(plan) = &mut self.plan {
            plan.stage = Stage::Killed(old, now);
        }
    }

    /// The serving worker is dead. Returns whether that was the plan.
    pub fn predecessor_died(&mut self) -> bool {
        let Some(plan) = &mut self.plan else { return false };
        let Stage::Killed(old, since) = plan.stage else { return false };
        plan.stage = Stage::Promoted(old, since);
        true
    }

    /// The stage of the plan.
    pub fn stage(&self) -> Option<Stage> {
        self.plan.as_ref().map(|plan| plan.stage)
    }

    /// Gives up the plan, if there is one. Returns the exchange that asked for it.
    pub fn give_up(&mut self) -> Option<Option<Ticket>> {
        self.plan.take().map(|plan| plan.asker)
    }

    /// The standby, of this program, is lost.
    pub fn standby_lost(&self, program: Program, loss: &Loss) -> AfterLoss {
        let is_unproven = program != self.program;
        match (self.stage(), loss) {
            (Some(Stage::Clearing), _) => AfterLoss::StartSuccessor,
            (Some(Stage::Replaying), Loss::NotStarted(_)) if is_unproven => AfterLoss::GiveUp(format!(
                "the new worker {loss}; it must be an executable that belongs to root or to the switch's user"
            )),
            (Some(Stage::Replaying), _) => AfterLoss::GiveUp(loss.of("the next worker")),
            _ => AfterLoss::Unplanned,
        }
    }

    /// A serving worker of this program died unplanned. Returns whether its binary was on trial, so that the old one
    /// comes back.
    pub fn roll_back(&mut self, program: Program) -> bool {
        if program == self.program {
            return false;
        }
        if let Some(trial) = self.trial.take() {
            self.withheld = trial.withheld_before;
        }
        true
    }

    /// A worker that serves these features took over. If that completes the plan, returns how. `Some(None)`: another
    /// program took over, because the successor died meanwhile.
    pub fn took_over(&mut self, program: Program, offers: u64) -> Option<Option<Completed>> {
        let Some(Plan { stage: Stage::Promoted(old, since), program: planned, .. }) = self.plan else { return None };
        if program != planned {
            return Some(None);
        }
        let (gap, on_trial) = (since.elapsed(), planned != self.program);
        if on_trial {
            self.trial = Some(Trial { ends: Instant::now() + GRACE, withheld_before: self.withheld });
            // During the trial, both binaries must be able to serve every client.
            self.withheld |= OFFERED & !offers;
        }
        let asker = self.plan.take()?.asker;
        Some(Some(Completed { asker, old, gap, on_trial }))
    }

    /// The trial is over: the new binary, which serves these features, is the one in use.
    pub fn end_trial(&mut self, offers: Option<u64>) {
        self.trial = None;
        let Some(offers) = offers else { return };
        self.program = self.program.other();
        self.withheld = OFFERED & !offers;
    }

    /// Whether a standby may serve.
    fn admits(&self, standby: &Worker) -> bool {
        let planned = |plan: &Plan| matches!(plan.stage, Stage::Promoted(..)) && plan.program == standby.program;
        standby.program == self.program || self.plan.as_ref().is_some_and(planned)
    }
}

impl Workers {
    /// Kills the standby if its binary is not in use after this death. Returns whether another one must be started.
    pub fn dismiss_unproven(&mut self) -> bool {
        match self.standby.as_mut().filter(|standby| !self.handover.admits(standby)) {
            Some(standby) => {
                standby.kill("its binary is not in use");
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Option<Ticket> {
        Some(Ticket::of_no_exchange())
    }

    fn killed() -> Loss {
        Loss::Killed("killed by SIGSEGV".to_string())
    }

    #[test]
    fn the_loss_of_a_standby_matters_to_a_plan_by_its_stage() {
        let (mut handover, now) = (Handover::default(), Instant::now());
        let (old, new) = (handover.program(), handover.program().other());
        assert_eq!(handover.standby_lost(old, &killed()), AfterLoss::Unplanned);
        assert_eq!(handover.standby_lost(new, &killed()), AfterLoss::Unplanned);
        handover.plan(ticket(), new);
        assert!(handover.refusal(now).is_some());
        assert_eq!(handover.standby_lost(old, &killed()), AfterLoss::StartSuccessor);
        assert_eq!(handover.begin_replay(), Some(new));
        let gives_up = |loss| match handover.standby_lost(new, &loss) {
            AfterLoss::GiveUp(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(gives_up(killed()), "the next worker was killed by SIGSEGV");
        assert_eq!(gives_up(Loss::Exited("exited with status 1".into())), "the next worker exited with status 1");
        let refused = gives_up(Loss::NotStarted("Permission denied".into()));
        assert!(refused.starts_with("the new worker could not be started: Permission denied; it must be"), "{refused}");
    }

    #[test]
    fn a_new_binary_is_in_use_after_its_trial_and_withdrawn_if_it_dies_before() {
        let now = Instant::now();
        for lives in [true, false] {
            let mut handover = Handover::default();
            let (old, new) = (handover.program(), handover.program().other());
            handover.plan(ticket(), new);
            handover.begin_replay();
            assert!(!handover.predecessor_died());
            handover.killed(Pid::from_raw(1), now);
            assert!(handover.predecessor_died());
            let completed = handover.took_over(new, OFFERED & !1).unwrap().unwrap();
            assert!(completed.on_trial && completed.old == Pid::from_raw(1));
            assert!(handover.due().is_some() && handover.refusal(now).is_some() && handover.program() == old);
            match lives {
                true => handover.end_trial(Some(OFFERED & !1)),
                false => assert!(handover.roll_back(new)),
            }
            assert_eq!((handover.program(), handover.due()), (if lives { new } else { old }, None));
            assert_eq!(handover.offers(), if lives { OFFERED & !1 } else { OFFERED });
        }
    }
}
