//! sv3, Open vSwitch with DPDK and passt under `sv3 torture`: what each of them did in each case, as a table.
//!
//! `torture [NAME...]` runs these cases alone. A back-end that died or hung is started anew for the cases that are left.
//! JSON of all of it goes to the file that `SV3_TORTURE_JSON` names.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::peers::Peer;
use sv3_tests::switch::{Home, Switch};

fn main() -> Result<()> {
    let home = Home::new()?;
    let sv3 = home.path("bin/sv3");
    let cases = cases(&sv3)?;
    let kinds = [Kind::Sv3, Kind::Ovs, Kind::Passt];
    let mut columns = Vec::new();
    for kind in kinds {
        eprintln!("{}:", kind.name());
        columns.push(torture(&sv3, kind, &cases)?);
    }
    print(&cases, &kinds, &columns);
    if let Some(path) = std::env::var_os("SV3_TORTURE_JSON") {
        let all = kinds.iter().zip(&columns).map(|(kind, findings)| (kind.name().to_string(), findings.clone().into()));
        std::fs::write(path, serde_json::to_string_pretty(&Value::Object(all.collect()))?)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Sv3,
    Ovs,
    Passt,
}

/// A running one, until it is dropped.
enum Running {
    Sv3(Switch),
    Peer(Peer),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Sv3 => "sv3",
            Kind::Ovs => "OVS-DPDK",
            Kind::Passt => "passt",
        }
    }

    fn start(self) -> Result<Running> {
        Ok(match self {
            Kind::Sv3 => Running::Sv3(Switch::start()?),
            Kind::Ovs => Running::Peer(Peer::ovs_dpdk(2)?),
            Kind::Passt => Running::Peer(Peer::passt()?),
        })
    }
}

impl Running {
    /// The socket that is attacked, and the one of the well-behaved client if it is another one.
    fn sockets(&self) -> Vec<PathBuf> {
        match self {
            Running::Sv3(switch) => vec![switch.socket().to_path_buf()],
            Running::Peer(peer) => peer.sockets().to_vec(),
        }
    }
}

/// All cases, or those that the arguments name: name and origin.
fn cases(sv3: &Path) -> Result<Vec<(String, String)>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut list = Command::new(sv3);
    list.args(["torture", "--list"]);
    for name in &wanted {
        list.args(["--case", name]);
    }
    let text = String::from_utf8(list.output()?.stdout)?;
    let pair = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (origin, _) = rest.trim_start().split_once("  ")?;
        Some((name.to_string(), origin.to_string()))
    };
    let cases: Vec<_> = text.lines().filter_map(pair).collect();
    if cases.is_empty() { Err(Failure::new(format!("there are no such cases: {wanted:?}"))) } else { Ok(cases) }
}

/// Every case's finding, in order.
fn torture(sv3: &Path, kind: Kind, cases: &[(String, String)]) -> Result<Vec<Value>> {
    let mut findings: Vec<Value> = Vec::new();
    let mut starts = 0;
    while let Some(left) = cases.get(findings.len()..).filter(|left| !left.is_empty()) {
        let running = kind.start()?;
        let sockets = running.sockets();
        let mut command = Command::new(sv3);
        command.args(["torture", "--json", "--seed", "1"]);
        command.args(left.iter().flat_map(|(name, _)| ["--case", name.as_str()]));
        for (at, socket) in sockets.iter().take(2).enumerate() {
            if at == 1 {
                command.arg("--witness");
            }
            command.arg(socket);
        }
        let output = command.output()?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let new = report.get("cases").and_then(Value::as_array).cloned().unwrap_or_default();
        if new.is_empty() {
            let said = String::from_utf8_lossy(&output.stderr);
            // One that came up badly may come up well the next time.
            starts += 1;
            if starts > 3 {
                return Err(Failure::new(format!("{}: no case was run: {said}", kind.name())));
            }
            eprintln!("  started again: {}", said.trim());
        }
        for finding in &new {
            eprintln!("  {:28}{:14}{}", text(finding, "name"), text(finding, "outcome"), text(finding, "words"));
        }
        findings.extend(new);
        forget(running);
    }
    Ok(findings)
}

/// Ends a back-end that may be in no state to end in order.
fn forget(running: Running) {
    match running {
        Running::Sv3(switch) => drop(switch.end("TERM")),
        Running::Peer(peer) => drop(peer),
    }
}

fn text<'a>(finding: &'a Value, field: &str) -> &'a str {
    finding.get(field).and_then(Value::as_str).unwrap_or("")
}

fn print(cases: &[(String, String)], kinds: &[Kind], columns: &[Vec<Value>]) {
    let mut head = format!("{:28}{:16}", "CASE", "ORIGIN");
    let mut totals = format!("{:44}", "died or hung, of cases that were run");
    for (kind, findings) in kinds.iter().zip(columns) {
        head += &format!("{:14}", kind.name());
        let with = |words: &[&str]| findings.iter().filter(|finding| words.contains(&text(finding, "outcome"))).count();
        totals += &format!("{:14}", format!("{} of {}", with(&["died", "hung"]), findings.len() - with(&["not-run"])));
    }
    println!("{}", head.trim_end());
    for (at, (name, origin)) in cases.iter().enumerate() {
        let mut line = format!("{name:28}{origin:16}");
        for findings in columns {
            let outcome = findings.get(at).map_or("", |finding| text(finding, "outcome"));
            let word = match outcome {
                "died" | "hung" => outcome.to_uppercase(),
                other => other.replace('-', " "),
            };
            line += &format!("{word:14}");
        }
        println!("{}", line.trim_end());
    }
    println!("{}", totals.trim_end());
}
