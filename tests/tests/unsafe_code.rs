//! There is little unsafe code, and `docs/develop/unsafe.md` lists each file that has some.

#![allow(clippy::unwrap_used, reason = "a tree that cannot be read has failed the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/develop/unsafe.md");
const CRATES: [&str; 5] = [".", "cli", "policy", "supervisor", "worker"];
/// Compiled for tests and fuzzers only.
const FOR_TESTS: [&str; 6] = [
    "worker/src/forward/burst/pace.rs",
    "worker/src/port/files/tests",
    "worker/src/port/vring/driver.rs",
    "src/fuzz",
    "supervisor/src/fuzz",
    "worker/src/fuzz",
];

#[test]
fn there_are_few_unsafe_blocks_and_each_file_with_some_is_documented() {
    let counted = counted();
    assert_eq!(documented(), counted, "docs/develop/unsafe.md is not what the code is");
    let blocks: usize = counted.values().sum();
    assert!(blocks <= 60 && counted.len() <= 22, "{blocks} unsafe blocks in {} files: {counted:#?}", counted.len());
}

fn documented() -> BTreeMap<String, usize> {
    let row = |line: &str| {
        let [file, blocks, why] = line.strip_prefix("| `")?.splitn(3, " | ").collect::<Vec<_>>().try_into().ok()?;
        assert!(why.len() > 20, "{file} has no reason");
        Some((file.trim_end_matches('`').to_string(), blocks.parse().ok()?))
    };
    DOCUMENT.lines().filter_map(row).collect()
}

/// Files with unsafe blocks outside of test modules, and how many.
fn counted() -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    CRATES.iter().for_each(|name| collect(&root.join(name).join("src"), &mut files));
    let mut counts = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().trim_start_matches("./").to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let blocks = code.map(|line| line.matches("unsafe {").count()).sum();
        if blocks > 0 && !FOR_TESTS.iter().any(|prefix| name.starts_with(prefix)) {
            counts.insert(name, blocks);
        }
    }
    counts
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}
