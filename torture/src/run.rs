//! Runs cases one after the other, and looks after each whether a well-behaved client is served.

use std::any::Any;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::case::{Attack, Attacked, Case, Target};
use crate::failure::{Failure, Result};
use crate::peer::{Holdings, Peer};
use crate::probe::probe;
use crate::reaction::Outcome;
use crate::report::{Finding, Report};
use crate::wire::{NOT_ACCEPTED, Wire};

/// How long a back-end may take to close what a client has left behind.
const SETTLE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);
/// Memory by which a process may grow without its being worth a word.
const GROWTH: u64 = 16 << 20;

/// Where an attack comes from: a process of its own, so that what the back-end holds against the attacker it does not hold
/// against who looks after it, and so that an attacker may die of what it does.
pub trait Attacker {
    /// Makes the attack. Its connections last until the returned guard is dropped.
    fn attack(&self, target: &Target, case: &Case) -> Result<(Attacked, Box<dyn Any>)>;
}

/// Runs the cases; `each` hears of every finding at once. After a death or a hang that does not pass no more cases are run.
/// Fails if nobody is served even before.
pub fn run(
    target: &mut Target,
    cases: &[Case],
    attacker: &dyn Attacker,
    mut each: impl FnMut(&Finding),
) -> Result<Report> {
    let before = |failure| Failure::new(format!("a well-behaved client is not served, before any attack: {failure}"));
    let mut peer = probe(&target.socket, target.patience).map_err(before)?;
    match &target.witness {
        Some(witness) => drop(probe(witness, target.patience).map_err(before)?),
        None if serves_several(target) => target.witness = Some(target.socket.clone()),
        None => {}
    }
    let mut report = Report {
        socket: target.socket.display().to_string(),
        witness: target.witness.as_ref().map(|path| path.display().to_string()),
        seed: target.seed,
        peer: peer.clone(),
        cases: Vec::new(),
    };
    for case in cases {
        let finding = run_case(target, case, attacker, &mut peer);
        each(&finding);
        let stop = finding.outcome.is_failure() && probe(&target.socket, target.patience).is_err();
        report.cases.push(finding);
        if stop {
            break;
        }
    }
    Ok(report)
}

/// Whether a client is served while another one is connected to the same socket.
fn serves_several(target: &Target) -> bool {
    let attempt = || -> Result<Peer> {
        let attack = &mut Attack::new(target);
        let _first = attack.served()?;
        probe(&target.socket, Duration::from_secs(2).min(target.patience))
    };
    let several = attempt().is_ok();
    // Until it is over with both.
    let _ = probe(&target.socket, target.patience);
    several
}

fn run_case(target: &Target, case: &Case, attacker: &dyn Attacker, peer: &mut Peer) -> Finding {
    let start = Instant::now();
    let mut finding = Finding {
        name: case.name.to_string(),
        origin: case.origin.to_string(),
        what: case.what.to_string(),
        outcome: Outcome::NotRun,
        words: "no well-behaved client can be served beside the attacker".to_string(),
        reactions: Default::default(),
        more_fds: None,
        more_memory: None,
        milliseconds: 0,
    };
    if case.crowd && target.witness.is_none() {
        return finding;
    }
    let before = peer.holdings();
    let (attacked, connections) = match attacker.attack(target, case) {
        Ok(attacked) => attacked,
        Err(failure) => {
            let stopped = Some(failure.to_string());
            (Attacked { stopped, ..Attacked::default() }, Box::new(()) as Box<dyn Any>)
        }
    };
    let beside = target.witness.as_ref().map_or(Ok(()), |witness| probe(witness, target.patience).map(drop));
    (finding.outcome, finding.words) = (attacked.tally.outcome(), attacked.tally.words());
    finding.reactions = attacked.tally.counts();
    if attacked.not_offered {
        finding.outcome = Outcome::NotOffered;
    }
    drop(connections);
    let after = probe(&target.socket, target.patience);
    match (beside, &after) {
        (Ok(()), Ok(now)) if now.pid == peer.pid && !peer.is_gone() => {
            if let Some(failure) = attacked.stopped {
                finding.words = join(&finding.words, &format!("the attacker got no further: {failure}"));
            }
            let kept = settle(peer, before);
            (finding.more_fds, finding.more_memory) =
                (growth(kept.fds, before.fds), growth(kept.memory, before.memory));
            finding.words = join(&finding.words, &growth_words(&finding));
        }
        (beside, after) => {
            let failure = after.as_ref().err().or(beside.as_ref().err()).map(Failure::to_string);
            let now = after.as_ref().ok();
            (finding.outcome, finding.words) = judge(target, peer, now, failure.unwrap_or_default());
            if let Some(now) = now {
                *peer = now.clone();
            }
        }
    }
    finding.milliseconds = start.elapsed().as_millis() as u64;
    finding
}

/// Dead or only hung.
fn judge(target: &Target, before: &Peer, after: Option<&Peer>, failure: String) -> (Outcome, String) {
    let name = format!("process {} ({})", before.pid, before.program);
    match after {
        Some(now) if before.is_gone() || now.pid != before.pid => {
            (Outcome::Died, format!("{name} ended; process {} serves now", now.pid))
        }
        None if before.is_gone() => (Outcome::Died, format!("{name} ended")),
        None if is_deserted(&target.socket) => (Outcome::Died, format!("nobody listens any more: {failure}")),
        None => (Outcome::Hung, format!("a well-behaved client is not served afterwards: {failure}")),
        Some(_) => (Outcome::Hung, format!("while the attacker stays, a well-behaved client is not served: {failure}")),
    }
}

/// Whether the socket refuses every connection, which one of a process that is only busy does not.
fn is_deserted(socket: &Path) -> bool {
    match Wire::connect_within(socket, STEP) {
        Ok(_) => false,
        Err(failure) => !failure.to_string().contains(NOT_ACCEPTED),
    }
}

fn settle(peer: &Peer, before: Holdings) -> Holdings {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = peer.holdings();
        if now.fds <= before.fds || Instant::now() >= deadline {
            return now;
        }
        std::thread::sleep(STEP);
    }
}

fn growth(now: Option<u64>, before: Option<u64>) -> Option<u64> {
    Some(now?.saturating_sub(before?))
}

fn growth_words(finding: &Finding) -> String {
    let fds = finding.more_fds.filter(|fds| *fds > 0).map(|fds| format!("keeps {fds} fds more than before"));
    let memory = finding.more_memory.filter(|octets| *octets > GROWTH);
    let memory = memory.map(|octets| format!("keeps {} MiB more than before", octets >> 20));
    fds.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
}

fn join(first: &str, second: &str) -> String {
    [first, second].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}
