//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, ValueExt};
use sv3_tests::distance::Distance;

use crate::costs::Costs;
use crate::lease::Waiters;

/// What `--help` prints.
pub const HELP: &str = "\
scale [OPTION...]: how much 1 to 64 threads move between 2 and 1,000 ports, by a simulation

  --bench FILE       costs of bursts and frames from `scripts/bench bursts threads --csv FILE`; its figures for one and
                     two threads are shown beside the simulation's; else costs are those of docs/measured/scaling.md
  --distance WHICH   bursts' and frames' costs when the guests' processors are `near` or `far` (far)
  --octets N         of a frame (64)
  --lines N          cache lines that go over with a lease (10)
  --no-measure       leases' costs are not measured here either, but those of docs/measured/scaling.md;
                     else give it two idle processors
  --waiters-last     a thread leaves a free lease to another thread that waits for it, as was tried once
  --csv FILE         all outcomes, one a line";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// The benchmark's samples.
    pub bench: Option<PathBuf>,
    /// How far guests are from the switch.
    pub distance: Distance,
    /// Octets of a frame.
    pub octets: usize,
    /// Cache lines that go over with a lease.
    pub lines: usize,
    /// How a waiter counts.
    pub waiters: Waiters,
    /// Measure leases here.
    pub measure: bool,
    /// Where outcomes go.
    pub csv: Option<PathBuf>,
}

impl Options {
    /// From the arguments; `None`: help is wanted.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
        let mut options = Options {
            bench: None,
            distance: Distance::Far,
            octets: 64,
            lines: 10,
            waiters: Waiters::Expire,
            measure: true,
            csv: None,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("bench") => options.bench = Some(parser.value()?.into()),
                Arg::Long("distance") => options.distance = parser.value()?.parse_with(distance)?,
                Arg::Long("octets") => options.octets = parser.value()?.parse::<usize>()?.clamp(60, 65_000),
                Arg::Long("lines") => options.lines = parser.value()?.parse::<usize>()?.clamp(1, 1000),
                Arg::Long("waiters-last") => options.waiters = Waiters::Last,
                Arg::Long("no-measure") => options.measure = false,
                Arg::Long("csv") => options.csv = Some(parser.value()?.into()),
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(options))
    }

    /// What things cost, but for what is measured here.
    pub fn costs(&self) -> sv3_tests::failure::Result<Costs> {
        match &self.bench {
            Some(csv) => Costs::MEASURED.with_bench(csv, self.distance),
            None => Ok(Costs::MEASURED),
        }
    }
}

fn distance(text: &str) -> Result<Distance, String> {
    match text {
        "near" => Ok(Distance::Near),
        "far" => Ok(Distance::Far),
        _ => Err("processors are `near` or `far`".to_string()),
    }
}
