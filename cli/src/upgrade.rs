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
/// It is refused if it does not come up or would not serve what a connected guest uses. If it dies within ten seconds,
/// the old binary comes back. See docs/operate/upgrade.md.
#[derive(Args)]
pub struct Upgrade {
    /// The new sv3-worker
    path: PathBuf,
    #[command(flatten)]
    control: Control,
}

impl Upgrade {
    /// Opens the binary, which the switch may not do itself, hands it over and prints what came of it.
    pub fn exec(&self) -> Result<(), String> {
        let binary = File::open(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        report(self.control.hand(&ControlRequest::Upgrade, binary.as_fd())?)
    }
}
