//! No crate runs in the supervisor or in the worker without a reason in `docs/develop/dependencies.md`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../docs/develop/dependencies.md");

#[test]
fn every_crate_of_the_supervisor_has_a_reason_and_no_reason_is_left_over() {
    assert_eq!(documented("S"), linked("sv3-supervisor"));
}

#[test]
fn every_crate_of_the_worker_has_a_reason_and_no_reason_is_left_over() {
    assert_eq!(documented("W"), linked("sv3-worker"));
}

/// Crates of the document's tables that are marked with `letter`.
fn documented(letter: &str) -> BTreeSet<String> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let row = |(name, rest): (&str, &str)| {
        let (processes, reason) = rest.split_once('|').unwrap();
        assert!(reason.trim_matches([' ', '|']).len() > 10, "{name} has no reason");
        processes.split_whitespace().any(|process| process == letter).then(|| name.to_string())
    };
    rows.filter_map(row).collect()
}

/// Crates that are linked into a package, as Cargo resolves them.
fn linked(package: &str) -> BTreeSet<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix=none", "--format={p}", "--edges=normal,no-proc-macro", "-p", package])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != package).map(String::from).collect()
}
