//! Runs cases one after the other, and looks after each whether a well-behaved client is served.

use std::any::Any;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::guest::wire::{NOT_ACCEPTED, Wire};
use crate::hostile::case::{Attacked, Case, Target};
use crate::hostile::peer::{Holdings, Peer};
use crate::hostile::probe::probe;
use crate::hostile::reaction::Outcome;

/// How long a back-end may take to close what a client has left behind.
const SETTLE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);
/// Growth of a process, in octets, that is not worth reporting.
const GROWTH: u64 = 16 << 20;

/// What became of one case.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The case's name.
    pub name: &'static str,
    /// Where it was first seen.
    pub origin: &'static str,
    /// In a word.
    pub outcome: Outcome,
    /// In words.
    pub words: String,
}

/// Where an attack comes from: a process of its own, so that the back-end blames only the attacker and not the process
/// that checks, and so that an attacker may die of what it does.
pub trait Attacker {
    /// Makes the attack. Its connections last until the returned guard is dropped.
    fn attack(&self, target: &Target, case: &Case) -> Result<(Attacked, Box<dyn Any>)>;
}

/// Runs the cases. Stops after a death, or a hang that does not pass. Fails if no client is served even before.
pub fn run(target: &Target, cases: &[Case], attacker: &dyn Attacker) -> Result<Vec<Finding>> {
    let before = |failure| Failure::new(format!("a well-behaved client is not served, before any attack: {failure}"));
    let mut peer = probe(target.socket(), target.patience()).map_err(before)?;
    let mut findings = Vec::new();
    for case in cases {
        let finding = run_case(target, case, attacker, &mut peer);
        let stop = finding.outcome.is_failure() && probe(target.socket(), target.patience()).is_err();
        findings.push(finding);
        if stop {
            break;
        }
    }
    Ok(findings)
}

fn run_case(target: &Target, case: &Case, attacker: &dyn Attacker, peer: &mut Peer) -> Finding {
    let before = peer.holdings();
    let (attacked, connections) = match attacker.attack(target, case) {
        Ok(attacked) => attacked,
        Err(failure) => {
            let stopped = Some(failure.to_string());
            (Attacked { stopped, ..Attacked::default() }, Box::new(()) as Box<dyn Any>)
        }
    };
    let beside = probe(target.socket(), target.patience());
    let outcome = if attacked.not_offered { Outcome::NotOffered } else { attacked.tally.outcome() };
    let mut finding = Finding { name: case.name, origin: case.origin, outcome, words: attacked.tally.words() };
    drop(connections);
    let after = probe(target.socket(), target.patience());
    match (beside, &after) {
        (Ok(_), Ok(now)) if now.pid == peer.pid && !peer.is_gone() => {
            if let Some(failure) = attacked.stopped {
                finding.words = join(&finding.words, &format!("the attacker got no further: {failure}"));
            }
            let kept = settle(peer, before);
            finding.words = join(&finding.words, &growth_words(before, kept));
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
        None if is_unattended(target.socket()) => (Outcome::Died, format!("no process listens any more: {failure}")),
        None => (Outcome::Hung, format!("a well-behaved client is not served afterwards: {failure}")),
        Some(_) => (Outcome::Hung, format!("while the attacker stays, a well-behaved client is not served: {failure}")),
    }
}

/// Whether the socket refuses every connection. A process that is only busy refuses none.
fn is_unattended(socket: &Path) -> bool {
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

fn growth_words(before: Holdings, now: Holdings) -> String {
    let fds = growth(now.fds, before.fds).filter(|fds| *fds > 0);
    let memory = growth(now.memory, before.memory).filter(|octets| *octets > GROWTH);
    let fds = fds.map(|fds| format!("keeps {fds} fds more than before"));
    let memory = memory.map(|octets| format!("keeps {} MiB more than before", octets >> 20));
    fds.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
}

fn join(first: &str, second: &str) -> String {
    [first, second].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}
