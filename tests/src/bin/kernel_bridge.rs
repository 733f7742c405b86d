//! `kernel_bridge play SEED FILE`, in a machine: sends the frames of a seed through the kernel's bridge, and prints those that
//! did not go where sv3 sent them, which FILE tells (`sv3_tests::bridge`). `kernel_bridge groups`: has it snoop.

use std::process::ExitCode;

use sv3_tests::bridge::{Play, kernel};
use sv3_tests::failure::{Failure, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("kernel_bridge: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["play", seed, file] => {
            kernel::play(&Play::of(seed.parse()?), &std::fs::read(file)?, |line| println!("{line}"))
        }
        ["groups"] => kernel::play_groups(),
        _ => Err(Failure::new("usage: kernel_bridge play SEED FILE, or kernel_bridge groups")),
    }
}
