//! `sv3`, the command line: one verb a file.

mod audit;
mod control;
mod crashes;
mod metrics;
mod place;
mod port;
mod restart;
mod run;
mod status;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A userspace Ethernet switch for virtual machines whose data path can crash without a guest noticing.
#[derive(Parser)]
#[command(name = "sv3", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a switch in the foreground
    Run(run::Run),
    /// Show a running switch: processes, ports, traffic, drops
    Status(status::Show),
    /// Let a fresh worker take over, without the guests' noticing
    Restart(restart::Restart),
    /// Let a worker of another binary take over, without the guests' noticing
    Upgrade(upgrade::Upgrade),
    /// Show how workers died, who was being served, and how long nobody was after that
    Crashes(crashes::Show),
    /// Print the switch in numbers, as OpenMetrics text
    Metrics(metrics::Print),
    /// Show what each process may do, beside what it is declared to, and prove it
    Audit(audit::Show),
    /// Act on one port: end its quarantine
    Port(port::Port),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(run) => run.exec(),
        Verb::Status(show) => show.exec(),
        Verb::Restart(restart) => restart.exec(),
        Verb::Upgrade(upgrade) => upgrade.exec(),
        Verb::Crashes(show) => show.exec(),
        Verb::Metrics(print) => print.exec(),
        Verb::Audit(show) => show.exec(),
        Verb::Port(port) => port.exec(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("sv3: {problem}");
            ExitCode::FAILURE
        }
    }
}
