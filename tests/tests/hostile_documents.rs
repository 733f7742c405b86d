//! Documents name the tests of what they promise. This looks for each of these tests.

use std::fs;
use std::path::{Path, PathBuf};

use sv3_tests::failure::{Failure, Result};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where to look for tests that are named without a folder.
const FOLDERS: [&str; 3] = ["tests/tests", "supervisor/tests", "policy/tests"];

#[test]
fn every_test_that_a_document_names_exists() -> Result<()> {
    let mut named = 0;
    for document in documents()? {
        let text = fs::read_to_string(&document)?;
        for (file, test) in tests_of(&text) {
            named += 1;
            let code = source(&file).ok_or_else(|| missing(&document, &file))?;
            if let Some(test) = test {
                let wanted = format!("fn {test}(");
                if !code.contains(&wanted) {
                    return Err(missing(&document, &format!("{file}: {test}")));
                }
            }
        }
    }
    assert!(named > 80, "{named} tests are named");
    Ok(())
}

#[test]
fn every_claim_and_every_hostile_input_names_a_test() -> Result<()> {
    for (name, least) in [("docs/understand/hostile-inputs.md", 45), ("docs/understand/threat-model.md", 25)] {
        let text = fs::read_to_string(Path::new(ROOT).join(name))?;
        let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| it can never | held"));
        let rows: Vec<&str> = rows.filter(|line| !line.starts_with("| source |")).collect();
        assert!(rows.len() >= least, "{name} has {} rows", rows.len());
        for row in rows {
            assert!(tests_of(row).iter().any(|(_, test)| test.is_some()), "{name}: {row}");
        }
    }
    Ok(())
}

/// The documents of the tree.
fn documents() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    let mut all = vec![root.join("README.md"), root.join("SECURITY.md")];
    collect(&root.join("docs"), &mut all)?;
    Ok(all)
}

fn collect(folder: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, all)?,
            false => all.push(path),
        }
    }
    Ok(())
}

/// Files of tests, and tests in them: `file.rs`, `file.rs: name`, `file.rs: name, name`, in backquotes.
fn tests_of(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for span in text.split('`').skip(1).step_by(2) {
        let (file, names) = span.split_once(": ").map_or((span, None), |(file, names)| (file, Some(names)));
        let is_test = file.ends_with(".rs") && (names.is_some() || file.contains("tests/"));
        if !is_test || file.contains(char::is_whitespace) {
            continue;
        }
        match names {
            None => found.push((file.to_string(), None)),
            Some(names) => {
                found.extend(names.split(", ").map(|name| (file.to_string(), Some(name.trim().to_string()))))
            }
        }
    }
    found
}

fn source(file: &str) -> Option<String> {
    let root = Path::new(ROOT);
    let places = FOLDERS.iter().map(|folder| root.join(folder).join(file));
    [root.join(file)].into_iter().chain(places).find_map(|path| fs::read_to_string(path).ok())
}

fn missing(document: &Path, what: &str) -> Failure {
    Failure::new(format!("{} names {what}, which does not exist", document.display()))
}
