//! Guests in processes of their own, by the program `newcomer`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::failure::{Failure, Result};
use crate::switch::Switch;

/// A guest in a process of its own. It ends when this is dropped.
pub struct Newcomer(Child);

impl Newcomer {
    /// Starts `program`; it has done `what` it is told, as far as it is served.
    pub fn start(switch: &Switch, program: &str, what: &str) -> Result<Newcomer> {
        let mut command = switch.home().attacker(program)?;
        command.arg(switch.socket()).arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        let newcomer = Newcomer(child);
        let mut line = String::new();
        BufReader::new(output.ok_or_else(|| Failure::new("no output"))?).read_line(&mut line)?;
        match line.trim() == what {
            true => Ok(newcomer),
            false => Err(Failure::new(format!("a newcomer could not do {what}: {line}"))),
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
