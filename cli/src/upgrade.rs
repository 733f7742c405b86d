//! `sv3 upgrade`: a worker of another binary takes over.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use sv3::control::ControlRequest;

use crate::control::Control;
use crate::restart::report;

/// Let a worker of another binary take over; guests do not notice.
///
/// The switch refuses the new worker if it does not start, or lacks a feature that a connected guest uses. If the new
/// worker dies within 10 s, the old binary comes back. See docs/operate/upgrade.md.
#[derive(Args)]
pub struct Upgrade {
    /// The new sv3-worker
    path: PathBuf,
    #[command(flatten)]
    control: Control,
}

impl Upgrade {
    /// Opens the binary, because the switch may open no file, sends it, and prints the result.
    pub fn exec(&self) -> Result<(), String> {
        let binary = File::open(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        report(self.control.hand(&ControlRequest::Upgrade, &[binary.as_fd()])?)
    }
}
