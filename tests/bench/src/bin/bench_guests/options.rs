//! What the command line asks for.

use std::path::PathBuf;

use sv3_tests::failure::{Failure, Result};

use crate::contender::Contender;

const USAGE: &str = "usage: bench-guests [--rounds N] [--seconds N] [--rx-ring N] [--json] [--csv FILE] [SWITCH...]
  SWITCH    sv3, bridge, ovs, ovs-sleep or ovs-tso; all of them unless told
  --rounds  how often each is measured; 3 unless told, 0 to show what FILE holds
  --seconds how long each load lasts, at least 2; 4 unless told
  --rx-ring entries of the guests' receive rings, 256 to 1024, a power of two; QEMU's 256 unless told
  --csv     adds a line for each sample to FILE, and counts those that it holds";

/// The least that leaves something to measure behind the start of a load.
const LEAST_SECONDS: u32 = 2;

/// The options.
pub struct Options {
    /// How often each switch is measured.
    pub rounds: usize,
    /// How long each load lasts.
    pub seconds: u32,
    /// Entries of the guests' receive rings.
    pub rx_ring: Option<u16>,
    /// One JSON object instead of tables.
    pub json: bool,
    /// Where samples are kept.
    pub csv: Option<PathBuf>,
    /// What is measured, in this order in the first round.
    pub contenders: Vec<Contender>,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options =
            Options { rounds: 3, seconds: 4, rx_ring: None, json: false, csv: None, contenders: Vec::new() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Failure::new(format!("{argument} wants a value\n{USAGE}")));
            match argument.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--rx-ring" => options.rx_ring = Some(value()?.parse()?),
                "--json" => options.json = true,
                "--csv" => options.csv = Some(value()?.into()),
                name => {
                    let found = Contender::ALL.into_iter().find(|contender| contender.name() == name);
                    options.contenders.push(found.ok_or_else(|| Failure::new(format!("what is {name}?\n{USAGE}")))?);
                }
            }
        }
        if options.seconds < LEAST_SECONDS {
            return Err(Failure::new(format!("--seconds {}: at least {LEAST_SECONDS}\n{USAGE}", options.seconds)));
        }
        if options.contenders.is_empty() {
            options.contenders = Contender::ALL.to_vec();
        }
        Ok(options)
    }
}
