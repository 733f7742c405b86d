//! What was measured, beside what is promised.

use std::time::Duration;

use serde_json::{Value, json};
use sv3_tests::failure::Result;

use crate::traffic::Gap;

/// What is measured, in the order of measuring.
#[derive(Default)]
pub struct Report {
    promises: Vec<Promise>,
}

struct Promise {
    name: &'static str,
    text: String,
    figures: Value,
    kept: bool,
}

impl Report {
    /// Adds a promise: its name, what was seen in words and as JSON, and whether that is what was promised.
    pub fn add(&mut self, name: &'static str, text: String, figures: Value, kept: bool) {
        self.promises.push(Promise { name, text, figures, kept });
    }

    /// Adds times that must not be longer than `most`. What failed before it could be measured is a broken promise.
    pub fn add_times(&mut self, name: &'static str, times: Result<Vec<Duration>>, most: Duration) {
        match times {
            Ok(times) => {
                let kept = times.iter().all(|time| *time <= most);
                let text = format!("{} (at most {} ms)", range(&times), most.as_millis());
                self.add(name, text, milliseconds(&times), kept);
            }
            Err(failure) => {
                let text = failure.to_string();
                let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
                self.add(name, lines.join("; "), json!({ "error": text }), false);
            }
        }
    }

    /// Adds the longest gaps of datagrams and of TCP, each under a name of its own.
    pub fn add_gaps(&mut self, [datagrams, tcp]: [&'static str; 2], gaps: &Result<Vec<Gap>>, most: Duration) {
        let pick = |part: fn(&Gap) -> Duration| gaps.as_ref().map(|gaps| gaps.iter().map(part).collect());
        self.add_times(datagrams, pick(|gap| gap.datagrams).map_err(Clone::clone), most);
        self.add_times(tcp, pick(|gap| gap.tcp).map_err(Clone::clone), most);
    }

    /// Whether every promise is kept.
    pub fn kept(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }

    /// A line for each promise.
    pub fn text(&self) -> String {
        let lines = self.promises.iter().map(|promise| {
            let verdict = if promise.kept { "" } else { "   <-- broken" };
            format!("{:<26} {}{verdict}\n", promise.name.replace('_', " "), promise.text)
        });
        lines.collect()
    }

    /// One object: each promise by its name, with `kept`, and `kept` for all of them.
    pub fn json(&self) -> Value {
        let promises = self
            .promises
            .iter()
            .map(|promise| (promise.name.to_string(), json!({ "figures": promise.figures, "kept": promise.kept })));
        json!({ "promises": promises.collect::<serde_json::Map<_, _>>(), "kept": self.kept() })
    }
}

/// Times in milliseconds, as JSON.
fn milliseconds(times: &[Duration]) -> Value {
    let times = times.iter().map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0);
    json!({ "milliseconds": times.collect::<Vec<_>>() })
}

fn range(times: &[Duration]) -> String {
    let (least, most) = (times.iter().min(), times.iter().max());
    let of = |time: Option<&Duration>| time.copied().unwrap_or_default().as_millis();
    match of(least) == of(most) {
        true => format!("{} ms", of(least)),
        false => format!("{} to {} ms", of(least), of(most)),
    }
}
