//! What a run found, for people and for programs (docs/torture.md describes the JSON).

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::peer::Peer;
use crate::reaction::Outcome;

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The back-end's socket.
    pub socket: String,
    /// Where a well-behaved client was looked after beside the attacker; nothing if there was no such place.
    pub witness: Option<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// Who listened at the socket at first.
    pub peer: Peer,
    /// The cases, in the order in which they ran.
    pub cases: Vec<Finding>,
}

/// What became of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The case's name.
    pub name: String,
    /// Where it was first seen.
    pub origin: String,
    /// What was done.
    pub what: String,
    /// In a word.
    pub outcome: Outcome,
    /// In words.
    pub words: String,
    /// What the back-end did how often.
    pub reactions: BTreeMap<&'static str, u32>,
    /// Fds that it has more than before, a second after all was over; nothing if they cannot be seen.
    pub more_fds: Option<u64>,
    /// Octets of its own that it has more than before, likewise.
    pub more_memory: Option<u64>,
    /// How long the case took with the probe after it.
    pub milliseconds: u64,
}

impl Report {
    /// Whether a case killed or hung the back-end.
    pub fn has_failures(&self) -> bool {
        self.cases.iter().any(|finding| finding.outcome.is_failure())
    }

    /// How many cases had each outcome, in words.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        for finding in &self.cases {
            *counts.entry(finding.outcome).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.word())).collect();
        format!("{} cases: {}", self.cases.len(), counts.join(", "))
    }
}

impl Finding {
    /// Names, origins and outcomes begin at these columns of a table.
    const COLUMNS: [usize; 3] = [28, 16, 12];

    /// The head of a table of findings.
    pub fn head() -> String {
        Finding::line(["CASE", "ORIGIN", "OUTCOME", "WHAT IT DID"])
    }

    /// A line of a table.
    pub fn row(&self) -> String {
        Finding::line([&self.name, &self.origin, self.outcome.word(), &self.words])
    }

    fn line([name, origin, outcome, words]: [&str; 4]) -> String {
        let mut line = String::new();
        for (text, width) in [name, origin, outcome].into_iter().zip(Finding::COLUMNS) {
            let _ = write!(line, "{text:width$}");
        }
        line + words
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn the_document_shows_every_field() {
        let document = include_str!("../../docs/torture.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        let example: Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
        let finding = Finding {
            name: String::new(),
            origin: String::new(),
            what: String::new(),
            outcome: Outcome::Hung,
            words: String::new(),
            reactions: BTreeMap::new(),
            more_fds: None,
            more_memory: None,
            milliseconds: 0,
        };
        let peer = Peer::of(&std::os::unix::net::UnixStream::pair().unwrap().0);
        let report = Report { socket: String::new(), witness: None, seed: 1, peer, cases: vec![finding] };
        assert!(report.has_failures());
        assert_eq!(report.summary(), "1 cases: 1 HUNG");
        let real = serde_json::to_value(&report).unwrap();
        assert_eq!(keys(&real), keys(&example));
        assert_eq!(keys(&real["cases"][0]), keys(&example["cases"][0]));
        assert_eq!(keys(&real["peer"]), keys(&example["peer"]));
        for field in keys(&real["cases"][0]).union(&keys(&real)).filter(|field| *field != "cases") {
            assert!(document.contains(&format!("`{field}`")), "{field}");
        }
        for outcome in ["refused", "answered", "ignored", "not-offered", "not-run", "hung", "died"] {
            assert!(document.contains(&format!("| `{outcome}` |")), "{outcome}");
        }
    }
}
