//! `sv3 crashes`: how workers died, and how long the gap after each death was.

use std::fmt::Write;

use clap::Args;
use sv3::control::ControlRequest;
use sv3::status::{Crash, Crashes};

use crate::control::Control;
use crate::output::{harmless, print};
use crate::status::duration;

/// Show how workers died, which ring they were serving, and how long the gap after each death was.
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    control: Control,
    /// Print JSON; its fields are described in docs/operate/crashes.md
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let answer = self.control.ask(&ControlRequest::Crashes)?;
        if self.json {
            let text = serde_json::to_string_pretty(&answer).map_err(|e| e.to_string())?;
            return print(&(text + "\n"));
        }
        let Crashes { crashes } = serde_json::from_value(harmless(answer))
            .map_err(|e| format!("the switch is of another version ({e}); use --json"))?;
        print(&table(&crashes))
    }
}

const HEAD: [&str; 7] = ["WHEN", "WORKER", "UPTIME", "GAP", "PORTS", "SERVING", "CAUSE"];

fn table(crashes: &[Crash]) -> String {
    if crashes.is_empty() {
        return "no worker has died\n".to_string();
    }
    let rows: Vec<[String; 7]> = [HEAD.map(str::to_string)].into_iter().chain(crashes.iter().map(row)).collect();
    let widths: [usize; 7] = std::array::from_fn(|at| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

fn row(crash: &Crash) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_string());
    [
        crash.time.clone(),
        or_dash(crash.worker_pid.map(|pid| pid.to_string())),
        uptime(crash),
        or_dash(crash.gap_us.map(|us| format!("{us} us"))),
        or_dash(crash.ports.map(|ports| ports.to_string())),
        or_dash(crash.serving.as_ref().map(|at| format!("{} ring {}", at.port, at.ring))),
        crash.cause.clone(),
    ]
}

fn uptime(crash: &Crash) -> String {
    match (crash.worker_pid, crash.uptime_ms) {
        (None, _) => "-".to_string(),
        (_, ms @ 0..10_000) => format!("{ms} ms"),
        (_, ms) => duration(ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> serde_json::Value {
        let document = include_str!("../../docs/operate/crashes.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
    }

    #[test]
    fn the_document_shows_every_field() {
        let crashes: Crashes = serde_json::from_value(example()).unwrap();
        assert_eq!(serde_json::to_value(&crashes).unwrap(), example());
        let document = include_str!("../../docs/operate/crashes.md");
        for field in example()["crashes"][0].as_object().unwrap().keys() {
            assert!(document.contains(&format!("| `{field}`")), "{field}");
        }
    }

    #[test]
    fn people_see_a_table() {
        let crashes: Crashes = serde_json::from_value(example()).unwrap();
        let text = table(&crashes.crashes);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].contains("4713    1 h 0 min  412 us  2      p1 ring 1  killed by SIGBUS at address"),
            "{text}"
        );
        assert!(lines[2].contains("-       -          -       -      -          could not be started"), "{text}");
        assert_eq!(table(&[]), "no worker has died\n");
    }
}
