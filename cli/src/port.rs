//! `sv3 port`: acts on one port.

use clap::{Args, Subcommand};
use sv3::control::ControlRequest;

use crate::control::Control;
use crate::output::print;

/// Act on one port.
#[derive(Args)]
pub struct Port {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// End the quarantine of a client that caused deaths of workers
    Release {
        /// The port's name, as `sv3 status` shows it
        name: String,
        #[command(flatten)]
        control: Control,
    },
}

impl Port {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let Verb::Release { name, control } = &self.verb;
        control.ask(&ControlRequest::Release(name.clone()))?;
        print(&format!("{name} is served again\n"))
    }
}
