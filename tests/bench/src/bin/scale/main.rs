//! What several threads will do on more processors than this machine has: a simulation of the switch's threads, bursts
//! and leases ([`sim`]), with what these cost as the benchmark measured it ([`costs`]) and as this program measures it
//! here ([`measure`]). See docs/measured/scaling.md.

mod costs;
mod lease;
mod measure;
mod options;
mod sim;
mod table;
mod traffic;

use std::process::ExitCode;

use options::{HELP, Options};
use sv3_tests::failure::Result;

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
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut costs = options.costs()?;
    if options.measure {
        measure::all(&mut costs, options.lines)?;
    }
    table::costs(&costs, options.octets);
    if options.measure {
        table::rivals(&costs, &measure::rivals(options.lines)?);
        table::several_receivers(&costs, &measure::several_receivers(options.lines)?);
    }
    if let Some(csv) = &options.bench {
        table::measured(&costs, &costs::points(csv)?);
    }
    table::scale(&costs, options)
}
