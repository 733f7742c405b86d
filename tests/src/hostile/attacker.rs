//! The two ends of an attack that is made by a process of its own.

use std::any::Any;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::failure::{Failure, Result};
use crate::hostile::case::{Attack, Attacked, Case, Target};
use crate::hostile::run::Attacker;

/// Runs each attack in a process: this command, which must call [`serve`].
pub struct Processes<F: Fn(&Target, &Case) -> Command>(pub F);

impl<F: Fn(&Target, &Case) -> Command> Attacker for Processes<F> {
    fn attack(&self, target: &Target, case: &Case) -> Result<(Attacked, Box<dyn Any>)> {
        let mut process = Process((self.0)(target, case).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        if let Some(output) = process.0.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line.is_empty() {
            // The attacker touched memory that it had truncated itself.
            let status = process.0.wait()?;
            return Err(Failure::new(format!("the attacker ended: {status}")));
        }
        Ok((serde_json::from_str(&line)?, Box::new(process)))
    }
}

/// An attacker. It ends when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes one attack, prints the outcome, and stays until the other end disconnects.
pub fn serve(target: &Target, case: &Case) -> Result<()> {
    let mut attack = Attack::new(target);
    let ran = (case.run)(&mut attack);
    let mut line = serde_json::to_vec(&attack.result(ran))?;
    line.push(b'\n');
    std::io::stdout().write_all(&line)?;
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}
