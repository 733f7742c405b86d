//! `docs/understand/architecture.md` says which files a change touches. An example of each row is walked through: the words
//! of the example stand in the files of its row, and nowhere else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tree that cannot be read has failed the test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/understand/architecture.md");
/// What only tests and fuzzers use.
const APART: [&str; 5] = ["/fuzz", "/tests", "/examples", "/admission/model.rs", "/supervisor/live.rs"];
/// Files that a row may change.
const MOST: usize = 5;

/// A row of the table.
struct Row {
    /// Folders and files that the change brings.
    new: Vec<String>,
    /// Files that it changes.
    changed: Vec<String>,
}

#[test]
fn a_port_kind_touches_the_files_of_its_row() {
    let found = files_with(&["InMemory", "MemoryPort", "PortKind::Memory", "in_memory"]);
    assert_eq!(beyond(&row("a new port kind"), found), NONE);
}

#[test]
fn a_protocol_touches_the_files_of_its_row() {
    let found = files_with(&["vhost_user::"]);
    // Memory is admitted as vhost-user describes it.
    let admission = BTreeSet::from(["supervisor/src/ports/admission.rs".to_string()]);
    let beyond = beyond(&row("a new protocol"), found);
    assert_eq!(beyond.difference(&admission).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_setting_touches_the_files_of_its_row() {
    let beyond = beyond(&row("a new setting"), files_with(&["poll_us", "poll-us"]));
    assert_eq!(beyond, BTreeSet::from(["worker/src/poll/poller.rs".to_string()]), "where the worker uses it");
}

#[test]
fn a_request_touches_the_files_of_its_row() {
    assert_eq!(beyond(&row("a new request"), files_with(&["SendRarp", "Code::SEND_RARP"])), NONE);
}

#[test]
fn a_drop_reason_touches_the_files_of_its_row() {
    let beyond = beyond(&row("a new drop reason"), files_with(&["RxBadChain"]));
    assert_eq!(beyond, BTreeSet::from(["worker/src/port/vring/receive.rs".to_string()]), "the place that drops it");
}

const NONE: BTreeSet<String> = BTreeSet::new();

/// The row of the document; every file that it names is there, and there are few.
fn row(name: &str) -> Row {
    let line = DOCUMENT.lines().find(|line| line.starts_with(&format!("| {name} |"))).expect("no such row");
    let cells: Vec<&str> = line.split(" | ").collect();
    let paths = |cell: &str| {
        let words = cell.split('`').skip(1).step_by(2);
        words.filter(|word| word.contains('/')).map(str::to_string).collect::<Vec<_>>()
    };
    let [_, new, changed, _] = cells[..] else { panic!("a row of {} cells", cells.len()) };
    let row = Row { new: paths(new), changed: paths(changed) };
    assert!(row.changed.len() <= MOST, "{name}: {:?}", row.changed);
    for path in &row.changed {
        assert!(root().join(path).is_file(), "{name}: there is no file {path}");
    }
    row
}

/// Those of `files` that the row does not name, and that are not in what is new.
fn beyond(row: &Row, files: BTreeSet<String>) -> BTreeSet<String> {
    let new = |file: &str| {
        // Of a folder that others of its kind share, or one that has the name of the thing.
        row.new.iter().any(|place| match place.split_once("NAME") {
            Some((before, _)) => file.strip_prefix(before).is_some_and(|rest| rest.starts_with("vhost_user")),
            None => file.starts_with(place.as_str()) && (file.contains("/in_memory/") || file.ends_with("/memory.rs")),
        })
    };
    files.into_iter().filter(|file| !row.changed.contains(file) && !new(file)).collect()
}

/// The processes' own files in which one of the words stands, but for comments and unit tests.
fn files_with(words: &[&str]) -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "supervisor/src", "worker/src", "cli/src", "policy/src"] {
        collect(&root().join(folder), &mut files);
    }
    let name = |file: &Path| file.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
    let has = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        code.lines().any(|line| !line.trim_start().starts_with("//") && words.iter().any(|word| line.contains(word)))
    };
    let files = files.into_iter().filter(has).map(|file| name(&file));
    files.filter(|file| !APART.iter().any(|folder| file.contains(folder))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
