//! QEMU's machine protocol, as far as the scenarios need it: one command, one answer, events skipped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// A connection to QEMU's monitor.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects to the monitor's socket.
    pub fn connect(path: &Path) -> Result<Qmp> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut qmp = Qmp(BufReader::new(socket));
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returned.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.0.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(Failure::new(format!("QEMU has ended at {command}")));
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("QEMU refuses {request}: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
