//! `scripts/bench-guests`: two QEMU guests that stream and ask over sv3, the kernel's bridge and OVS-DPDK.
//!
//! A round boots two guests on each switch in turn and runs each [`workload`] on them, so that changes of the machine
//! meet all switches. Beside the rate it reports the processor time of the switch, of QEMU's devices and of the guests'
//! own processors apart ([`meter`]). Where guests are emulated the rate alone says little: all of the machine's
//! processors are busy, mostly with emulation, whichever switch it is.
//!
//! The kernel's bridge is in a network namespace of this program's own, which ends with it.

mod bridge;
mod contender;
mod meter;
mod options;
mod sample;
mod table;
mod workload;

use std::process::ExitCode;

use contender::Contender;
use options::Options;
use sv3_tests::failure::Result;
use workload::Workload;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.contenders.iter().any(|contender| contender.needs_namespace()) {
        bridge::own_namespace()?;
    }
    let mut samples = match &options.csv {
        Some(file) => sample::load(file)?,
        None => Vec::new(),
    };
    for round in 0..options.rounds {
        // No switch is always the first.
        for place in 0..options.contenders.len() {
            let Some(contender) = options.contenders.get((place + round) % options.contenders.len()) else { continue };
            let mut pair = match contender.start_surely(options.rx_ring) {
                Ok(pair) => pair,
                Err(failure) if *contender != Contender::Sv3 => {
                    eprintln!("round {}: {} does not take part: {failure}", round + 1, contender.name());
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            for workload in Workload::ALL {
                let sample = workload.measure(&mut pair, contender.name(), options.seconds)?;
                eprintln!(
                    "round {}: {:<9} {:<13} {}",
                    round + 1,
                    contender.name(),
                    workload.name(),
                    sample.words(workload)
                );
                if let Some(file) = &options.csv {
                    sample::append(file, &sample)?;
                }
                samples.push(sample);
            }
        }
    }
    match options.json {
        true => println!("{}", table::json(&samples)),
        false => print!("{}", table::text(&samples)),
    }
    Ok(())
}
