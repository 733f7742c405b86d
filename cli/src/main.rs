//! The command line `sv3`. Each command has a file.

mod aside;
mod attach;
mod audit;
mod capture;
mod control;
mod crashes;
mod metrics;
mod mirror;
mod output;
mod place;
mod port;
mod restart;
mod run;
mod status;
mod upgrade;
mod uplink;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A userspace Ethernet switch for virtual machines whose data path can crash without a guest noticing.
#[derive(Parser)]
#[command(name = "sv3", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

// Each command's help is at its own type. A doc comment here would replace that help.
#[derive(Subcommand)]
enum Verb {
    Run(run::Run),
    Status(status::Show),
    Restart(restart::Restart),
    Upgrade(upgrade::Upgrade),
    Crashes(crashes::Show),
    Metrics(metrics::Print),
    Audit(audit::Show),
    Port(port::Port),
    Capture(capture::Capture),
    Mirror(mirror::Mirror),
    Attach(attach::Attach),
    Detach(attach::Detach),
    Uplink(uplink::Uplink),
    #[command(hide = true)]
    Aside(aside::Start),
    #[command(hide = true)]
    Tied(uplink::Tied),
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
        Verb::Capture(capture) => capture.exec(),
        Verb::Mirror(mirror) => mirror.exec(),
        Verb::Attach(attach) => attach.exec(),
        Verb::Detach(detach) => detach.exec(),
        Verb::Uplink(uplink) => uplink.exec(),
        Verb::Aside(start) => start.exec(),
        Verb::Tied(tied) => tied.exec(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output::complain(&problem);
            ExitCode::FAILURE
        }
    }
}
