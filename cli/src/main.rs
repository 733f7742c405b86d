//! The command line `sv3`. Each command has a file.

mod aside;
mod attach;
mod audit;
mod capture;
mod config;
mod control;
mod crashes;
mod declare;
mod doctor;
#[cfg(test)]
mod documents;
mod fdb;
mod groups;
mod metrics;
mod mirror;
mod output;
mod pages;
mod place;
mod port;
mod restart;
mod run;
mod status;
mod top;
mod trace;
mod upgrade;
mod uplink;
mod web;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Exit status of `sv3 doctor` if something stops sv3 or a guest.
const SOMETHING_STOPS: u8 = 3;

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
    Top(top::Top),
    Trace(trace::Trace),
    Restart(restart::Restart),
    Upgrade(upgrade::Upgrade),
    Crashes(crashes::Show),
    Metrics(metrics::Print),
    Groups(groups::Show),
    Snooping(groups::Snoop),
    Audit(audit::Show),
    Doctor(doctor::Doctor),
    Fdb(fdb::Fdb),
    Port(port::Port),
    #[command(name = "check-config")]
    CheckConfig(config::Check),
    Reload(config::Reload),
    Config(config::Config),
    Capture(capture::Capture),
    Mirror(mirror::Mirror),
    Attach(attach::Attach),
    Detach(attach::Detach),
    Uplink(uplink::Uplink),
    Web(web::Web),
    #[command(hide = true)]
    Pages(pages::Pages),
    #[command(hide = true)]
    Page(web::Page),
    #[command(hide = true)]
    Aside(aside::Start),
    #[command(hide = true)]
    Tied(uplink::Tied),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(run) => run.exec(),
        Verb::Status(show) => show.exec(),
        Verb::Top(top) => top.exec(),
        Verb::Trace(trace) => trace.exec(),
        Verb::Restart(restart) => restart.exec(),
        Verb::Upgrade(upgrade) => upgrade.exec(),
        Verb::Crashes(show) => show.exec(),
        Verb::Metrics(print) => print.exec(),
        Verb::Groups(show) => show.exec(),
        Verb::Snooping(snoop) => snoop.exec(),
        Verb::Audit(show) => show.exec(),
        Verb::Doctor(doctor) => match doctor.exec() {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(SOMETHING_STOPS),
            Err(problem) => Err(problem),
        },
        Verb::Fdb(fdb) => fdb.exec(),
        Verb::Port(port) => port.exec(),
        Verb::CheckConfig(check) => check.exec(),
        Verb::Reload(reload) => reload.exec(),
        Verb::Config(config) => config.exec(),
        Verb::Capture(capture) => capture.exec(),
        Verb::Mirror(mirror) => mirror.exec(),
        Verb::Attach(attach) => attach.exec(),
        Verb::Detach(detach) => detach.exec(),
        Verb::Uplink(uplink) => uplink.exec(),
        Verb::Web(web) => web.exec(),
        Verb::Pages(pages) => pages.exec(Cli::command()),
        Verb::Page(page) => page.exec(),
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
