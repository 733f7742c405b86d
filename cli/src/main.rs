//! `sv3`, the command line: one verb a file.

mod control;
mod place;
mod port;
mod run;
mod status;

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
    /// Act on one port: end its quarantine
    Port(port::Port),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(run) => run.exec(),
        Verb::Status(show) => show.exec(),
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
