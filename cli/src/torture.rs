//! `sv3 torture`: the hostile client as a tool, for whatever serves virtio-net by vhost-user.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sv3_torture::attacker;
use sv3_torture::case::{Case, Target};
use sv3_torture::cases;
use sv3_torture::report::{Finding, Report};

use crate::status::print;

/// Exit codes beside success: the back-end died or hung; the cases could not be run.
const FAILED: u8 = 1;
const COULD_NOT_RUN: u8 = 2;

/// Attack a vhost-user net back-end (of any make) as a hostile client would, and tell how it took it. It may die of it.
#[derive(Args)]
pub struct Torture {
    /// The back-end's socket, at which it listens
    #[arg(value_name = "SOCKET", required_unless_present = "list")]
    socket: Option<PathBuf>,
    /// Run this case (may be given several times) [default: all]
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// List the cases and end
    #[arg(long)]
    list: bool,
    /// Print JSON; its fields are described in docs/torture.md
    #[arg(long)]
    json: bool,
    /// Seed of everything random [default: by the clock; it is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many seconds each race or flood goes on
    #[arg(long, value_name = "N", default_value_t = 1)]
    seconds: u64,
    /// After how many seconds a well-behaved client calls the back-end hung
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    patience: u64,
    /// Another socket of the same back-end, where a well-behaved client must be served beside the attacker [default: SOCKET,
    /// if it serves several clients]
    #[arg(long, value_name = "SOCKET")]
    witness: Option<PathBuf>,
    /// Only attack; the process that looks after the back-end asks for it
    #[arg(long, hide = true)]
    attack: bool,
}

impl Torture {
    /// Runs the cases and tells; 0 if the back-end has stood them all.
    pub fn exec(&self) -> ExitCode {
        match self.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => FAILED.into(),
            Err(problem) => {
                eprintln!("sv3: {problem}");
                COULD_NOT_RUN.into()
            }
        }
    }

    fn run(&self) -> Result<bool, String> {
        let cases = self.chosen()?;
        if self.list {
            print(&list(&cases))?;
            return Ok(true);
        }
        let mut target = Target {
            socket: self.socket.clone().unwrap_or_default(),
            witness: self.witness.clone(),
            patience: Duration::from_secs(self.patience.max(1)),
            duration: Duration::from_secs(self.seconds),
            seed: self.seed.unwrap_or_else(seed),
        };
        raise_fd_limit();
        if let (true, [case]) = (self.attack, cases.as_slice()) {
            return attacker::serve(&target, case).map(|()| true).map_err(|failure| failure.to_string());
        }
        let me = std::env::current_exe().map_err(|error| format!("cannot find my own binary: {error}"))?;
        if !self.json {
            print(&(Finding::head() + "\n"))?;
        }
        let show = |finding: &Finding| {
            if !self.json {
                // A reader that has gone away does not end the run.
                let _ = print(&(finding.row() + "\n"));
            }
        };
        let report = sv3_torture::run::run(
            &mut target,
            &cases,
            &attacker::Processes(|target, case| command(&me, target, case)),
            show,
        )
        .map_err(|failure| format!("nothing was run: {failure}"))?;
        print(&if self.json { json(&report)? } else { end(&report, cases.len()) })?;
        Ok(!report.has_failures())
    }

    fn chosen(&self) -> Result<Vec<Case>, String> {
        let all = cases::all();
        if self.case.is_empty() {
            return Ok(all);
        }
        let find = |name: &String| {
            let found = all.iter().find(|case| case.name == name).copied();
            found.ok_or_else(|| format!("there is no case {name}; `sv3 torture --list` shows them"))
        };
        self.case.iter().map(find).collect()
    }
}

/// The command that attacks.
fn command(me: &Path, target: &Target, case: &Case) -> Command {
    let mut command = Command::new(me);
    command.arg("torture").arg(&target.socket).args(["--attack", "--case", case.name]);
    command.args(["--seed", &target.seed.to_string(), "--seconds", &target.duration.as_secs().to_string()]);
    command.args(["--patience", &target.patience.as_secs().to_string()]);
    if let Some(witness) = &target.witness {
        command.arg("--witness").arg(witness);
    }
    command
}

fn list(cases: &[Case]) -> String {
    cases.iter().map(|case| format!("{:28}{:16}{}\n", case.name, case.origin, case.what)).collect()
}

fn json(report: &Report) -> Result<String, String> {
    serde_json::to_string_pretty(report).map(|text| text + "\n").map_err(|error| error.to_string())
}

fn end(report: &Report, wanted: usize) -> String {
    let left = wanted - report.cases.len();
    let unrun = if left > 0 { format!(", {left} not reached") } else { String::new() };
    let witness = match &report.witness {
        Some(_) => "a well-behaved client was served beside it all, unless said otherwise",
        None => "it serves one client at a time: no well-behaved one could be looked after beside the attacker",
    };
    format!(
        "\n{} of process {} ({}), seed {}\n{}{unrun}\n{witness}\n",
        report.socket,
        report.peer.pid,
        report.peer.program,
        report.seed,
        report.summary()
    )
}

/// Some cases hold hundreds of connections.
fn raise_fd_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_micros() as u64 & 0xffff_ffff)
}
