//! Formats an audit for people.

use std::fmt::Write;

use sv3::audit::{Audit, CardReach, Process, Proof};

/// The whole audit.
pub fn page(audit: &Audit) -> String {
    let mut out = String::new();
    for process in &audit.processes {
        show_process(&mut out, process);
    }
    for proof in &audit.proofs {
        show_proof(&mut out, proof);
    }
    for card in &audit.cards {
        let CardReach { port, address, iova, guests, bus_master, mapped_by: (pid, uid) } = card;
        let _ = writeln!(out, "card {port} at {address}, by the switch's account");
        for (first, octets) in iova {
            let _ = writeln!(
                out,
                "  reaches {octets} octets at IOVA {first:#x}: its own memory, mapped by process {pid} of user {uid}"
            );
        }
        if let Some((first, octets)) = guests {
            let _ = writeln!(
                out,
                "  reads guests' memory at IOVA {first:#x} to {:#x}, as far as the worker has mapped it",
                first.saturating_add(octets.saturating_sub(1))
            );
        }
        let _ = writeln!(out, "  bus master {}\n", if *bus_master { "on" } else { "off" });
    }
    if audit.differences.is_empty() {
        out.push_str("everything is as declared\n");
    } else {
        out.push_str("NOT AS DECLARED\n");
        for difference in &audit.differences {
            let _ = writeln!(out, "  {difference}");
        }
    }
    out
}

fn show_process(out: &mut String, process: &Process) {
    let _ = writeln!(out, "{}, process {}", process.role, process.pid);
    let head = ["  FACT", "DECLARED", "OBSERVED", "SOURCE", ""].map(str::to_string);
    let rows = process.facts.iter().map(|fact| {
        let declared = fact.declared.clone().unwrap_or_else(|| "-".to_string());
        let mark = if fact.agrees { "" } else { "DIFFERS" };
        [format!("  {}", fact.fact), declared, fact.observed.clone(), fact.source.clone(), mark.to_string()]
    });
    out.push_str(&table(&[head].into_iter().chain(rows).collect::<Vec<_>>()));
    if !process.fds.is_empty() {
        let head = ["  FD", "KIND", "FOR (AS THE SUPERVISOR LISTS IT)"].map(str::to_string);
        let rows = process.fds.iter().map(|fd| {
            let number = fd.fd.map_or("-".to_string(), |fd| fd.to_string());
            [format!("  {number}"), fd.kind.clone(), fd.purpose.clone()]
        });
        out.push_str(&table(&[head].into_iter().chain(rows).collect::<Vec<_>>()));
    }
    out.push('\n');
}

fn show_proof(out: &mut String, proof: &Proof) {
    let Proof { role, binary, policy, landlock_abi, trials, outcomes } = proof;
    let _ = writeln!(out, "proof: {trials} trials by children that are confined as the {role} is ({binary} --prove;");
    let _ = writeln!(out, "seccomp policy {policy}, landlock ABI {landlock_abi})");
    let head = ["  TRIED", "TIMES", "DECLARED", "OBSERVED", ""].map(str::to_string);
    let rows = outcomes.iter().map(|outcome| {
        let mark = if outcome.agrees { "" } else { "DIFFERS" };
        let (declared, observed) = (outcome.declared.clone(), outcome.observed.clone());
        [format!("  {}", outcome.tried), outcome.count.to_string(), declared, observed, mark.to_string()]
    });
    out.push_str(&table(&[head].into_iter().chain(rows).collect::<Vec<_>>()));
    out.push('\n');
}

/// Rows in columns.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|at| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}
