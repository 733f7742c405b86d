//! `sv3 mirror`: a port that gets copies of what other ports send or get.

use clap::{Args, Subcommand};
use sv3::control::ControlRequest;
use sv3::mirror::{Mirror as Wanted, MirrorDirection};

use crate::control::Control;
use crate::output::print;

/// Let a port get copies of the frames of other ports.
#[derive(Args)]
pub struct Mirror {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Begin a mirror; its port gets copies and nothing else, and what it sends is dropped
    Add {
        /// A name for the mirror
        name: String,
        /// The ports whose frames are copied, by name
        #[arg(long, value_name = "PORT[,PORT]", value_delimiter = ',', required = true)]
        from: Vec<String>,
        /// Which frames: `in` from the ports, `out` to them
        #[arg(long, value_name = "in|out|both", default_value = "both", value_parser = direction)]
        direction: MirrorDirection,
        /// The port that gets the copies
        #[arg(long, value_name = "PORT")]
        to: String,
        #[command(flatten)]
        control: Control,
    },
    /// End a mirror; its port is an ordinary one again
    Del {
        /// The mirror's name
        name: String,
        #[command(flatten)]
        control: Control,
    },
}

fn direction(word: &str) -> Result<MirrorDirection, String> {
    MirrorDirection::parse(word).ok_or_else(|| "in, out or both".to_string())
}

impl Mirror {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        match &self.verb {
            Verb::Add { name, from, direction, to, control } => {
                let mirror = Wanted { name: name.clone(), to: to.clone(), direction: *direction, from: from.clone() };
                if Wanted::parse(&mirror.to_string()).as_ref() != Some(&mirror) {
                    return Err("names have no spaces and no commas; a mirror has at most 16 ports".to_string());
                }
                control.ask(&ControlRequest::MirrorAdd(mirror))?;
                print(&format!("{to} gets copies of the frames of {}\n", from.join(", ")))
            }
            Verb::Del { name, control } => {
                control.ask(&ControlRequest::MirrorRemove(name.clone()))?;
                print(&format!("mirror {name} has ended\n"))
            }
        }
    }
}
