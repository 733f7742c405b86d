//! `sv3 audit`: compares what each process may do with what is declared, and proves it.
//!
//! There are three sources, and each fact names its source. The kernel shows what any user may read of a live process.
//! The supervisor lists the fds that each process has, because the kernel shows the files of a process that is not
//! dumpable only to root. The binaries themselves, run with `--prove`, confine children in the same way and let them
//! make forbidden syscalls.

mod explain;
mod kernel;
mod page;
mod proof;

use std::path::PathBuf;

use clap::Args;
use sv3::audit::{Audit, AuditAnswer, Fact, Fd, Process, ProcessInventory, Proof};
use sv3::control::ControlRequest;
use sv3_policy::WorkerRole;

use crate::control::Control;
use crate::output::{harmless, print};
use crate::place;

/// Most looks at the processes, if they change meanwhile because clients or workers come and go.
const LOOKS: u32 = 5;

/// Show what each process may do and what is declared, and prove it; fails if anything differs.
///
/// Takes some seconds, and needs no more rights than the switch's own user has. See docs/operate/audit.md.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/operate/audit.md
    #[arg(long)]
    json: bool,
    /// Print the policies instead: each syscall, the limits of its arguments, and which part makes it and why. Needs no
    /// running switch
    #[arg(long)]
    explain: bool,
    /// Prove this sv3-worker instead of the installed one, for instance after an upgrade
    #[arg(long, value_name = "PATH")]
    worker: Option<PathBuf>,
}

impl Show {
    /// Looks, tries and prints.
    pub fn exec(&self) -> Result<(), String> {
        if self.explain {
            return print(&explain::page());
        }
        let audit = self.audit()?;
        print(&match self.json {
            true => serde_json::to_string_pretty(&audit).map_err(|e| e.to_string())? + "\n",
            false => page::page(&audit),
        })?;
        match audit.differences.len() {
            0 => Ok(()),
            count => Err(format!("{count} things differ from what is declared")),
        }
    }

    fn audit(&self) -> Result<Audit, String> {
        let worker = self.worker.clone().map_or_else(|| place::sibling("sv3-worker"), Ok)?;
        let supervisor = place::sibling("sv3-supervisor")?;
        let AuditAnswer { processes: told, cards, .. } = self.ask_supervisor()?;
        let live = told.first().map_or(0, |told| told.pid);
        let mut roles: Vec<&str> = told.iter().map(role_of_policy).collect();
        roles.sort_unstable();
        roles.dedup();
        let tried: Vec<_> = std::thread::scope(|scope| {
            let prove = |role| {
                let binary = if role == "supervisor" { &supervisor } else { &worker };
                scope.spawn(move || proof::prove(role, binary, live))
            };
            let provers: Vec<_> = roles.into_iter().map(prove).collect();
            provers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        let tried = tried.into_iter().map(|tried| tried.unwrap_or_else(|_| Err("a thread panicked".to_string())));
        let (mut proofs, mut differences) = (Vec::new(), Vec::new());
        for tried in tried {
            let (proof, differs) = tried?;
            proofs.push(proof);
            differences.extend(differs);
        }
        let processes = self.processes(&proofs)?;
        for process in &processes {
            for fact in process.facts.iter().filter(|fact| !fact.agrees) {
                let declared = fact.declared.as_deref().unwrap_or_default();
                let (role, pid, what, source) = (&process.role, process.pid, &fact.fact, &fact.source);
                differences.push(format!(
                    "{role} {pid}: {what}: declared {declared}, observed {} (source: {source})",
                    fact.observed
                ));
            }
        }
        Ok(Audit { version: env!("CARGO_PKG_VERSION").to_string(), processes, proofs, cards, differences })
    }

    fn ask_supervisor(&self) -> Result<AuditAnswer, String> {
        let answer = self.control.ask(&ControlRequest::Audit)?;
        serde_json::from_value(harmless(answer)).map_err(|e| format!("the switch is of another version ({e})"))
    }

    /// Looks at the live processes, and again if they change meanwhile.
    fn processes(&self, proofs: &[Proof]) -> Result<Vec<Process>, String> {
        let mut outcome = Err("no process was examined".to_string());
        for _ in 0..LOOKS {
            outcome = self.look(proofs);
            let good =
                |processes: &Vec<Process>| processes.iter().all(|process| process.facts.iter().all(|f| f.agrees));
            if outcome.as_ref().is_ok_and(good) {
                break;
            }
        }
        outcome
    }

    fn look(&self, proofs: &[Proof]) -> Result<Vec<Process>, String> {
        let AuditAnswer { processes, spawner_pid, closer_pids, .. } = self.ask_supervisor()?;
        let mut all = Vec::new();
        for told in processes {
            all.push(process(told, proofs)?);
        }
        let helpers = [("spawner", spawner_pid, false)].into_iter();
        let helpers = helpers.chain(closer_pids.into_iter().map(|pid| ("closer", pid, true)));
        for (at, (role, pid, filtered)) in helpers.enumerate() {
            let facts = kernel::facts(pid, 1, filtered)?;
            all.insert((1 + at).min(all.len()), Process { role: role.to_string(), pid, facts, fds: Vec::new() });
        }
        Ok(all)
    }
}

/// What a worker may have.
fn role_of(told: &ProcessInventory) -> WorkerRole {
    match (told.cards, told.files) {
        (true, _) => WorkerRole::Cards,
        (false, true) => WorkerRole::Files,
        (false, false) => WorkerRole::Plain,
    }
}

fn name_of(role: WorkerRole) -> &'static str {
    sv3_policy::worker(role).role()
}

/// The role whose policy a process has.
fn role_of_policy(told: &ProcessInventory) -> &'static str {
    match &*told.role {
        "supervisor" => "supervisor",
        _ => name_of(role_of(told)),
    }
}

fn process(told: ProcessInventory, proofs: &[Proof]) -> Result<Process, String> {
    let of_policy = role_of_policy(&told);
    let ProcessInventory { role, pid, landlock_abi, policy, threads, fds, files: _, cards: _ } = told;
    let mut facts = kernel::facts(pid, threads, true)?;
    let teller = if role == "supervisor" { "supervisor" } else { "worker" };
    let proof = proofs.iter().find(|proof| proof.role == of_policy);
    let proved = |of: fn(&Proof) -> String| proof.map(of);
    facts.push(fact("landlock ABI", proved(|proof| proof.landlock_abi.to_string()), &landlock_abi.to_string(), teller));
    facts.push(fact("seccomp policy", proved(|proof| proof.policy.clone()), &policy, teller));
    facts.push(open_fds(pid, &role, &fds));
    Ok(Process { role, pid, facts, fds })
}

/// As root, compares the open files with the supervisor's list. As another user, shows the list's length.
fn open_fds(pid: u32, role: &str, told: &[Fd]) -> Fact {
    match kernel::fds(pid) {
        Some(seen) => {
            let untold = if role == "supervisor" { kernel::untold(&seen, told) } else { kernel::too_many(&seen, told) };
            let observed = match untold.is_empty() {
                true => format!("{}, all listed by the supervisor", seen.len()),
                false => format!("{}, of which the supervisor does not list: {}", seen.len(), untold.join(", ")),
            };
            let agrees = untold.is_empty();
            let declared = Some("those that the supervisor lists".to_string());
            Fact { fact: "open fds".to_string(), declared, observed, source: "kernel".to_string(), agrees }
        }
        None => fact("open fds", None, &told.len().to_string(), "supervisor"),
    }
}

/// A fact. Without a declaration, any value is right.
fn fact(what: &str, declared: Option<String>, observed: &str, source: &str) -> Fact {
    let agrees = declared.as_deref().is_none_or(|declared| declared == observed);
    Fact { fact: what.to_string(), declared, observed: observed.to_string(), source: source.to_string(), agrees }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> &'static str {
        include_str!("../../docs/operate/audit.md")
    }

    fn example() -> serde_json::Value {
        let (_, rest) = document().split_once("```json\n").unwrap();
        serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn the_document_shows_every_field() {
        let audit: Audit = serde_json::from_value(example()).unwrap();
        assert_eq!(serde_json::to_value(&audit).unwrap(), example());
        for object in
            [&example()["processes"][0]["facts"][0], &example()["proofs"][0], &example()["proofs"][0]["outcomes"][0]]
        {
            for field in object.as_object().unwrap().keys() {
                assert!(document().contains(&format!("`{field}`")), "{field}");
            }
        }
    }

    #[test]
    fn people_see_what_differs() {
        let mut audit: Audit = serde_json::from_value(example()).unwrap();
        assert!(page::page(&audit).contains("everything is as declared"));
        audit.differences.push("worker 7: NoNewPrivs: declared 1, observed 0 (source: kernel)".to_string());
        assert!(page::page(&audit).contains("NOT AS DECLARED\n  worker 7: NoNewPrivs"));
    }
}
