//! `scripts/storm`: workers die again and again under traffic, and the gap that guests see is measured.
//!
//! - `storm [N]`: N deaths between two guests in software, with and without a standby ([`soft`]); `--paced`: the guests
//!   rest 50 µs after each look for frames, since otherwise they and the worker take both processors of a small
//!   machine, and the gap is how long its scheduler makes the supervisor and the next worker wait; `--pinned`: the
//!   guests keep one processor and sv3 another, as for the shortest gaps;
//! - `storm --qemu [N]`: N deaths by each signal between two QEMU guests that ping and stream ([`vms`]);
//! - `storm --truncate [SECONDS]`: a guest truncates its memory all the time beside two that exchange frames
//!   ([`truncate`]).
//!
//! `--json` prints one JSON object instead of tables.

mod figures;
mod soft;
mod traffic;
mod truncate;
mod vms;

use std::process::ExitCode;

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};

/// Time between two looks for frames with `--paced`.
const PACE: std::time::Duration = std::time::Duration::from_micros(50);

/// How guests in software run.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// Their rest after each look for frames.
    pace: Option<std::time::Duration>,
    /// They keep the second processor, and sv3 the first.
    pinned: bool,
}

/// How the worker is made to die: by hand, as its own faults would, stopped for good, and as by its policy.
const SIGNALS: [&str; 6] = ["KILL", "SEGV", "BUS", "ABRT", "STOP", "SYS"];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            println!("The storm could not go on: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// False: a promise was broken.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--hostile", socket] = words[..] {
        return truncate::attack_without_end(socket.as_ref());
    }
    let json = words.contains(&"--json");
    let pace = words.contains(&"--paced").then_some(PACE);
    let manner = Manner { pace, pinned: words.contains(&"--pinned") };
    words.retain(|word| !["--json", "--paced", "--pinned"].contains(word));
    let (mode, number) = match words[..] {
        [] => ("", None),
        [mode @ ("--qemu" | "--truncate")] => (mode, None),
        [mode @ ("--qemu" | "--truncate"), number] => (mode, Some(number.parse()?)),
        [number] => ("", Some(number.parse()?)),
        _ => return Err(Failure::new("usage: storm [--qemu | --truncate | --paced | --pinned] [NUMBER] [--json]")),
    };
    let mut paper = Paper { json, result: serde_json::Map::new() };
    let kept = match mode {
        "--qemu" => vms::storm(&mut paper, number.unwrap_or(60))?,
        "--truncate" => truncate::storm(&mut paper, number.unwrap_or(60))?,
        _ => soft::storm(&mut paper, number.unwrap_or(1000), manner)?,
    };
    if json {
        println!("{}", Value::Object(paper.result));
    }
    Ok(kept)
}

/// Where results go: line by line as text, or as one JSON object.
struct Paper {
    json: bool,
    result: serde_json::Map<String, Value>,
}

impl Paper {
    /// A line of text.
    fn line(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// A result for programs.
    fn keep(&mut self, name: &str, value: Value) {
        self.result.insert(name.to_string(), value);
    }
}

/// Progress while it runs.
fn progress(text: &str) {
    eprintln!("{text}");
}
