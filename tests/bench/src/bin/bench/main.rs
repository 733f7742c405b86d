//! `scripts/bench`: sv3 beside other switches and beside what the machine can do, in the same run.
//!
//! The load comes from sv3's own guests ([`guest`]), so that a traffic generator is not what is measured; see
//! docs/develop/measuring.md for the scenarios.

mod arena;
mod capture;
mod clock;
mod flood;
mod frame;
mod guest;
mod idle;
mod latency;
mod limits;
mod link;
mod memory;
mod mesh;
mod model;
mod options;
mod packed;
mod place;
mod plot;
mod relay;
mod report;
mod ring;
mod rules;
mod socket_ports;
mod split;
mod stream;
mod switch;
mod tap_ceiling;
mod threads;
mod throughput;
mod turns;
mod uplink;

use std::process::ExitCode;

use options::{HELP, Options};
use packed::Packed;
use report::{Case, write_csv, write_json};
use ring::Ring;
use split::Split;
use sv3_tests::failure::{Failure, Result};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("The benchmark could not go on: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Processes that start from here on run on the switch's processor; the guests' thread goes to the other.
    place::pin(place::SWITCH)?;
    let (cases, failed) = if options.packed { scenarios::<Packed>(options) } else { scenarios::<Split>(options) };
    if let Some(path) = &options.csv {
        write_csv(&cases, path)?;
    }
    if let Some(path) = &options.json {
        write_json(&cases, path)?;
    }
    if let Some(path) = &options.plot {
        plot::draw(&cases, path)?;
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}

/// Measures all of its loads.
type Scenario = fn(&Options) -> Result<Vec<Case>>;

/// The figures of all switches, and which scenarios could not go on.
fn scenarios<R: Ring + Send>(options: &Options) -> (Vec<Case>, Vec<String>) {
    let scenarios: [(&str, Scenario); 18] = [
        ("model", limits::limits),
        ("throughput", throughput::by_size::<R>),
        ("both-ways", throughput::both_ways::<R>),
        ("flows", throughput::flows::<R>),
        ("flood", flood::flood::<R>),
        ("idle-ports", idle::beside_a_pair::<R>),
        ("latency", latency::under_load::<R>),
        ("wake-up", latency::wake_up::<R>),
        ("idle", idle::costs::<R>),
        ("bursts", throughput::bursts::<R>),
        ("threads", threads::threads::<R>),
        ("uplink", uplink::uplink),
        ("streams", socket_ports::streams),
        ("vlan", rules::vlan::<R>),
        ("guard", rules::guard::<R>),
        ("rules", rules::rules::<R>),
        ("declared", rules::declared::<R>),
        ("capture", capture::capture::<R>),
    ];
    let (mut cases, mut failed) = (Vec::new(), Vec::new());
    for (name, run) in scenarios.into_iter().filter(|(name, _)| options.wants(name)) {
        match run(options) {
            Ok(more) => cases.extend(more),
            Err(failure) => failed.push(format!("{name}: {failure}")),
        }
    }
    (cases, failed)
}
