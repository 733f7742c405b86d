//! `nic-model --socket PATH --wire PATH --function pf|vf`: serves a model of an 82599 to QEMU by vfio-user, for work by hand.
//!
//! The wire is a socket that somebody listens on, such as QEMU's `-netdev stream,server=on`. A line `up` or `down` on
//! standard input plugs the wire in or pulls it out. What the card complains about is printed at the end of the input.

use std::error::Error;
use std::io::BufRead;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use sv3_nic_model::vfio_user::{Function, Served};
use sv3_nic_model::{Card, Pf, PfSettings, Vf, VfSettings};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nic-model: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name).ok_or(format!("{name} is missing"))?;
        args.get(at + 1).ok_or(format!("{name} has no value"))
    };
    let function = value("--function")?;
    let (function, card) = card(function).ok_or(format!("--function {function} is unknown; there are: pf, vf"))?;
    let wire = UnixStream::connect(value("--wire")?)?;
    let served = Served::start(function, card, Path::new(value("--socket")?), wire)?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "up" => served.set_link(true),
            "down" => served.set_link(false),
            line => eprintln!("nic-model: {line:?} is not up or down"),
        }
    }
    served.complaints().iter().for_each(|complaint| println!("{complaint}"));
    Ok(())
}

fn card(function: &str) -> Option<(Function, Box<dyn Card + Send>)> {
    match function {
        "pf" => Some((Function::Physical, Box::new(Pf::new(PfSettings::default())))),
        "vf" => Some((Function::Virtual, Box::new(Vf::new(VfSettings::default())))),
        _ => None,
    }
}
