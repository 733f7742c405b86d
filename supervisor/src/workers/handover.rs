//! What is planned of a hand-over, and which binary is on trial.
//!
//! # Theory of operation
//!
//! A crash is safe by design, so a planned hand-over is a planned crash: a successor waits on standby until it has
//! learnt all, then the worker that serves is killed and the successor promoted. Nothing is told to clients.
//!
//! An upgrade does the same with a successor of another program, which is admitted if it becomes ready and serves
//! every feature that a connected client uses. Until it has lived for [`GRACE`], [`Handover::program`] stays the old
//! one: that is what the next standby runs and what every start takes. So if the successor dies, the common path
//! after a crash *is* the rollback.

use std::fmt;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sv3::virtio::OFFERED;

use crate::doors::control::Ticket;
use crate::workers::Workers;
use crate::workers::death::Death;
use crate::workers::spawner::Program;
use crate::workers::worker::Worker;

/// How long a new binary is on trial: if its worker dies before, the old one comes back.
pub const GRACE: Duration = Duration::from_secs(10);

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

/// How far a planned hand-over has come.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// A worker on standby that cannot be the successor has been killed.
    Clearing,
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

/// Why a worker on standby is lost.
#[derive(Debug)]
pub enum Loss {
    /// It could not be started, for this reason.
    NotStarted(String),
    /// It exited by itself: its death, in words.
    Exited(String),
    /// It was killed.
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

    /// What became of a successor, with its name before it.
    fn of_successor(&self) -> String {
        match self {
            Loss::NotStarted(_) | Loss::Exited(_) => format!("the next worker {self}"),
            Loss::Killed(words) => format!("the next worker was {words}"),
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

/// What follows for a plan when the worker on standby is lost.
#[derive(Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// Nothing that was planned depends on it.
    Unplanned,
    /// It made room for the successor, which is to be started.
    StartSuccessor,
    /// The plan fails, for this reason.
    GiveUp(String),
}

/// A worker serves as planned.
pub struct Completed {
    /// ClientId asked for it.
    pub asker: Ticket,
    /// The process that served before.
    pub old: Pid,
    /// How long nobody served.
    pub gap: Duration,
    /// Its binary is new, and on trial from now on.
    pub on_trial: bool,
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

    /// Why none can be planned now, for a person.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        if self.plan.is_some() {
            return Some("a hand-over is under way; try again".to_string());
        }
        let left = self.due()?.saturating_duration_since(now).as_secs() + 1;
        Some(format!("the last upgrade is on trial for {left} more seconds; try again then"))
    }

    /// Plans one to a worker of this program.
    pub fn plan(&mut self, asker: Ticket, program: Program) {
        self.plan = Some(Plan { asker, program, stage: Stage::Clearing });
    }

    /// The successor is to be told everything. Returns what it runs.
    pub fn begin_learning(&mut self) -> Option<Program> {
        let plan = self.plan.as_mut()?;
        plan.stage = Stage::Learning;
        Some(plan.program)
    }

    /// The worker that serves has been killed for its successor.
    pub fn killed(&mut self, old: Pid, now: Instant) {
        if let Some(plan) = &mut self.plan {
            plan.stage = Stage::Killed(old, now);
        }
    }

    /// The worker that served is dead. True: that was the plan.
    pub fn predecessor_died(&mut self) -> bool {
        let Some(plan) = &mut self.plan else { return false };
        let Stage::Killed(old, since) = plan.stage else { return false };
        plan.stage = Stage::Promoted(old, since);
        true
    }

    /// How far the plan has come.
    pub fn stage(&self) -> Option<Stage> {
        self.plan.as_ref().map(|plan| plan.stage)
    }

    /// There is no plan any more; who asked for it.
    pub fn give_up(&mut self) -> Option<Ticket> {
        self.plan.take().map(|plan| plan.asker)
    }

    /// The worker on standby, of this program, is lost.
    pub fn standby_lost(&self, program: Program, loss: &Loss) -> AfterLoss {
        let is_unproven = program != self.program;
        match (self.stage(), loss) {
            (Some(Stage::Clearing), _) => AfterLoss::StartSuccessor,
            (Some(Stage::Learning), Loss::NotStarted(_)) if is_unproven => AfterLoss::GiveUp(format!(
                "the new worker {loss}; it must be an executable of root or of the switch's user"
            )),
            (Some(Stage::Learning), _) => AfterLoss::GiveUp(loss.of_successor()),
            _ => AfterLoss::Unplanned,
        }
    }

    /// A worker of this program that served died unplanned. True: its binary was on trial, and the old one comes back.
    pub fn roll_back(&mut self, program: Program) -> bool {
        if program == self.program {
            return false;
        }
        if let Some(trial) = self.trial.take() {
            self.withheld = trial.withheld_before;
        }
        true
    }

    /// A worker that serves these features took over. If that was the plan, and it is of the planned program, the
    /// plan has come true. `Some(None)`: the worker of the plan died meanwhile.
    pub fn took_over(&mut self, program: Program, offers: u64) -> Option<Option<Completed>> {
        let Some(Plan { stage: Stage::Promoted(old, since), program: planned, .. }) = self.plan else { return None };
        if program != planned {
            return Some(None);
        }
        let (gap, on_trial) = (since.elapsed(), planned != self.program);
        if on_trial {
            self.trial = Some(Trial { ends: Instant::now() + GRACE, withheld_before: self.withheld });
            // For the time of the trial clients must be served by either binary.
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

    /// Whether a worker on standby may serve.
    fn admits(&self, standby: &Worker) -> bool {
        let planned = |plan: &Plan| matches!(plan.stage, Stage::Promoted(..)) && plan.program == standby.program;
        standby.program == self.program || self.plan.as_ref().is_some_and(planned)
    }
}

impl Workers {
    /// The worker on standby is of no use after this death. True: another one has to be started.
    pub fn dismiss_unproven(&mut self) -> bool {
        match self.standby.as_mut().filter(|standby| !self.handover.admits(standby)) {
            Some(standby) => {
                standby.kill("it is of a binary that is not in use");
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket::of_nobody()
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
        assert_eq!(handover.begin_learning(), Some(new));
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
            handover.begin_learning();
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
