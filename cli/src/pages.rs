//! Manual pages and completions, from the one definition of the command line. Packages run this when they are built.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

/// Write manual pages and completions into a folder.
#[derive(Args)]
pub struct Pages {
    /// The folder, which gets folders for pages and for each shell
    folder: PathBuf,
}

impl Pages {
    /// Writes them.
    pub fn exec(&self, mut command: Command) -> Result<(), String> {
        let folder = |name: &str| -> Result<PathBuf, String> {
            let path = self.folder.join(name);
            let made = std::fs::create_dir_all(&path);
            made.map(|()| path.clone()).map_err(|error| format!("{}: {error}", path.display()))
        };
        let fail = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, "sv3", folder(&shell.to_string())?).map_err(fail)?;
        }
        clap_mangen::generate_to(command, folder("man1")?).map_err(fail)
    }
}
