//! Starts a program that never outlives `sv3 uplink`, even if that is killed: the kernel kills it with its parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use nix::sys::signal::SigSet;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Become a program that ends with its parent.
#[derive(Args)]
pub struct Tied {
    /// The parent's process id
    parent: i32,
    /// The program's file
    program: OsString,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Tied {
    /// The command that becomes the program. It works after the file of this program was replaced, too.
    pub fn command(program: &std::path::Path, words: &[OsString]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("tied").arg(std::process::id().to_string()).arg(program).args(words);
        command
    }

    /// Becomes the program; returns only if that fails.
    pub fn exec(&self) -> Result<(), String> {
        let shown = self.program.to_string_lossy();
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| format!("prctl: {errno}"))?;
        if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != self.parent) {
            return Err(format!("{shown}: its parent has ended already"));
        }
        // The parent reads its own signals from a file.
        SigSet::empty().thread_set_mask().map_err(|errno| format!("cannot unblock signals: {errno}"))?;
        Err(format!("{shown}: {}", Command::new(&self.program).args(&self.words).exec()))
    }
}
