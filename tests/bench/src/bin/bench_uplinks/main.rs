//! `scripts/bench-uplinks`: a QEMU guest and its host, a guest and the world, and two guests on streams, by sv3 and by
//! what users have without it.
//!
//! A round boots each setup in turn and measures TCP both ways and requests. This program, and all that it starts, is
//! in a network namespace of its own, which is the host of the guests; the world is another one.

mod programs;
mod setup;

#[path = "../bench/place.rs"]
#[allow(dead_code, reason = "shared with the benchmark of software guests")]
mod place;
#[path = "../bench/relay.rs"]
#[allow(dead_code, reason = "shared with the benchmark of software guests")]
mod relay;

use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use setup::{Bench, Setup};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::vm::has_kvm;

const USAGE: &str = "usage: bench-uplinks [--rounds N] [--seconds N] [--json] [host] [world] [streams]";
/// What is measured, and its unit.
const FIGURES: [&str; 3] = ["up Gbit/s", "down Gbit/s", "TCP_RR/s"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: usize,
    seconds: u32,
    json: bool,
    groups: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options { rounds: 3, seconds: 3, json: false, groups: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Failure::new(USAGE));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--json" => options.json = true,
                group if setup::GROUPS.iter().any(|(known, _)| *known == group) => options.groups.push(argument),
                _ => return Err(Failure::new(USAGE)),
            }
        }
        Ok(options)
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Failure::new(format!("a network namespace: {errno}; run this as root")))?;
    setup::prepare()?;
    let mut results = Vec::new();
    for (group, setups) in setup::GROUPS {
        if options.groups.is_empty() || options.groups.iter().any(|wanted| wanted == group) {
            results.push((group, measure(&options, setups)?));
        }
    }
    match options.json {
        true => println!("{}", as_json(&results)),
        false => results.iter().for_each(|(group, rows)| print!("{}", table(group, rows))),
    }
    Ok(())
}

/// A setup and its samples by figure.
type Row = (Setup, [Vec<f64>; FIGURES.len()]);

fn measure(options: &Options, setups: &[Setup]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = setups.iter().map(|setup| (*setup, Default::default())).collect();
    for round in 0..options.rounds {
        // No setup is always the first.
        for place in 0..rows.len() {
            let at = (place + round) % rows.len();
            let Some((setup, samples)) = rows.get_mut(at) else { continue };
            let figures = Bench::boot(*setup)
                .and_then(|mut bench| bench.measure(options.seconds))
                .map_err(|failure| Failure::new(format!("{}: {failure}", setup.words())))?;
            let [up, down, requests] = figures;
            eprintln!(
                "round {}: {:<42} {up:6.2} up, {down:6.2} down, {requests:6.0} requests/s",
                round + 1,
                setup.words()
            );
            samples.iter_mut().zip(figures).for_each(|(samples, figure)| samples.push(figure));
        }
    }
    Ok(rows)
}

fn median(samples: &[f64]) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Medians, and the first setup's, which is ours, beside each.
fn table(group: &str, rows: &[Row]) -> String {
    let accelerator = if has_kvm() { "KVM" } else { "emulated guests" };
    let mut text = format!("\n{group}, medians, {accelerator}{:>25}", "");
    FIGURES.iter().for_each(|figure| text += &format!("  {figure:>12}  sv3/it"));
    text.push('\n');
    let ours = rows.first().map(|(_, samples)| samples.each_ref().map(|samples| median(samples)));
    for (setup, samples) in rows {
        text += &format!("  {:<50}", setup.words());
        for (samples, ours) in samples.iter().zip(ours.into_iter().flatten()) {
            let value = median(samples);
            let digits = if value < 100.0 { 2 } else { 0 };
            text += &format!("  {value:>12.digits$}  {:>6.2}", ours / value);
        }
        text.push('\n');
    }
    text
}

fn as_json(results: &[(&str, Vec<Row>)]) -> serde_json::Value {
    let row = |group: &str, (setup, samples): &Row| {
        let figures = FIGURES.iter().zip(samples).map(|(name, samples)| (name.to_string(), json!(samples)));
        json!({ "group": group, "setup": setup.words(), "samples": figures.collect::<serde_json::Map<_, _>>() })
    };
    let rows = results.iter().flat_map(|(group, rows)| rows.iter().map(move |it| row(group, it)));
    json!({ "kvm": has_kvm(), "results": rows.collect::<Vec<_>>() })
}
