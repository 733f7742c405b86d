//! Documents lead to each other: every link leads to a file of the tree and to a heading of it, every document is in the
//! list, and none has what a merge left. The book that is made of them has no dead link either.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use sv3_tests::failure::{Failure, Result};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The book's table of contents.
const CONTENTS: &str = "docs/SUMMARY.md";

/// All documents, by their path from the root.
fn documents() -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "policy/README.md"].map(PathBuf::from).into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder))? {
            let path = folder.join(entry?.file_name());
            match Path::new(ROOT).join(&path).is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "md") => all.push(path),
                false => {}
            }
        }
    }
    all.sort();
    Ok(all)
}

fn text(document: &Path) -> Result<String> {
    Ok(fs::read_to_string(Path::new(ROOT).join(document))?)
}

/// The text without blocks of code and without code in sentences, where brackets are no links.
fn prose(text: &str) -> String {
    let outside: String = text.split("```").step_by(2).collect();
    outside.split('`').step_by(2).collect::<Vec<_>>().join("x")
}

/// Where the links of a document lead.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text).replace('\n', " ");
    let ends = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    ends.map(|link| link.trim().to_string()).collect()
}

/// The names of a document's headings as links have them: small letters, hyphens for spaces, no other signs.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect::<String>()
    };
    headings.map(name).collect()
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let mut followed = 0;
    for document in documents()? {
        let whole = text(&document)?;
        for link in links(&whole) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, at)| (file, Some(at)));
            let target = match file {
                "" => document.clone(),
                file => plain(&document.parent().unwrap_or(Path::new("")).join(file)),
            };
            let wrong = |why: &str| Failure::new(format!("{}: {link} {why}", document.display()));
            if !Path::new(ROOT).join(&target).exists() {
                return Err(wrong("does not exist"));
            }
            if let Some(anchor) = anchor
                && !anchors(&text(&target)?).contains(anchor)
            {
                return Err(wrong("has no such heading"));
            }
            followed += 1;
        }
    }
    assert!(followed > 200, "{followed} links");
    Ok(())
}

#[test]
fn every_document_is_in_the_list() -> Result<()> {
    let list = text(Path::new("docs/README.md"))?;
    let named: BTreeSet<PathBuf> = links(&list).iter().map(|link| plain(&Path::new("docs").join(link))).collect();
    for document in documents()?.into_iter().filter(|document| document != Path::new(CONTENTS)) {
        let listed = document == Path::new("docs/README.md") || named.contains(&document);
        assert!(listed, "docs/README.md does not lead to {}", document.display());
    }
    Ok(())
}

#[test]
fn the_books_table_of_contents_has_every_document_once() -> Result<()> {
    let mut named: Vec<PathBuf> =
        links(&text(Path::new(CONTENTS))?).iter().map(|link| plain(&Path::new("docs").join(link))).collect();
    named.sort();
    let all: Vec<PathBuf> = documents()?.into_iter().filter(|document| document != Path::new(CONTENTS)).collect();
    assert_eq!(named, all, "the table of contents, and the documents");
    Ok(())
}

/// Values of an attribute in a page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_book_is_made_and_its_pages_lead_to_each_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(format!("{ROOT}/scripts/book")).arg(folder.path()).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut followed = 0;
    for document in documents()?.into_iter().filter(|document| document != Path::new(CONTENTS)) {
        let page = document.with_extension("html");
        let html = fs::read_to_string(folder.path().join(&page))?;
        for link in attributes(&html, "href").into_iter().filter(|link| !link.contains(':')) {
            let (file, anchor) = link.split_once('#').map_or((link, ""), |(file, anchor)| (file, anchor));
            let target = match file {
                "" => page.clone(),
                file => plain(&page.parent().unwrap_or(Path::new("")).join(file)),
            };
            let there = fs::read_to_string(folder.path().join(&target));
            let wrong = |why: &str| Failure::new(format!("{}: {link}: {why}", page.display()));
            let is_page = target.extension().is_some_and(|extension| extension == "html");
            match there {
                Err(_) if folder.path().join(&target).is_file() => {}
                Err(error) => return Err(wrong(&error.to_string())),
                Ok(html) if is_page && !anchor.is_empty() && !attributes(&html, "id").contains(&anchor) => {
                    return Err(wrong("no such heading"));
                }
                Ok(_) => followed += 1,
            }
        }
    }
    assert!(followed > 500, "{followed} links");
    Ok(())
}

#[test]
fn no_document_has_what_a_merge_left() -> Result<()> {
    for document in documents()? {
        let whole = text(&document)?;
        for (number, line) in whole.lines().enumerate() {
            let left = ["<<<<<<< ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark)) || line == "=======";
            assert!(!left, "{}:{}: {line}", document.display(), number + 1);
        }
    }
    Ok(())
}
