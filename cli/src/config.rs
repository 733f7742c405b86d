//! `sv3 check-config`, `sv3 reload` and `sv3 config`: declarations as a file.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::control::Control;
use crate::declare::{difference, file, give, show};
use crate::output::print;

/// Check a configuration file, without a switch.
///
/// Tells each fault with its line and column. docs/use/config.md describes the file.
#[derive(Args)]
pub struct Check {
    /// The file
    file: PathBuf,
}

impl Check {
    /// Reads and prints.
    pub fn exec(&self) -> Result<(), String> {
        let config = file::read(&self.file)?;
        let (ports, users) = (config.ports.len(), config.users.len());
        print(&format!("{} is good: {ports} ports, rules for {users} users\n", self.file.display()))
    }
}

/// Bring what runs into line with a configuration file: all of it or nothing.
///
/// Prints the difference first. What does not differ is left alone. Ports that were added by `sv3 port add` and are not
/// in the file go.
#[derive(Args)]
pub struct Reload {
    /// The file [default: the one that the switch read last]
    file: Option<PathBuf>,
    /// Print the difference and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    control: Control,
}

impl Reload {
    /// Reads, asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let before = give::in_force(&self.control)?;
        let path = match (&self.file, &before.file) {
            (Some(path), _) => std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?,
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => return Err("the switch has read no file: name one".to_string()),
        };
        let config = file::read(&path)?;
        let lines = difference::lines(&before.config, &config);
        lines.iter().try_for_each(|line| print(&format!("{line}\n")))?;
        if lines.is_empty() {
            print("nothing differs\n")?;
        }
        let name = path.to_str().ok_or_else(|| format!("{}: not UTF-8 text", path.display()))?.to_string();
        if self.dry_run || lines.is_empty() && before.file.as_ref() == Some(&name) {
            return Ok(());
        }
        give::declare(&self.control, &before, config, Some(name))
    }
}

/// Show what is declared.
#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print what is in force, as a file that `sv3 reload` takes
    Show {
        #[command(flatten)]
        control: Control,
    },
}

impl Config {
    /// Asks and prints.
    pub fn exec(&self) -> Result<(), String> {
        let Verb::Show { control } = &self.verb;
        let text = show::file(&give::in_force(control)?.config);
        print(if text.is_empty() { "# Nothing is declared.\n" } else { &text })
    }
}
