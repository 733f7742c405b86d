//! What `sv3 run` starts beside the supervisor: processes that attach ports when the switch serves, and end with it.
//!
//! The supervisor waits for its children and knows all of them. So each of these processes is started by one that ends
//! at once, and is nobody's child.

use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use clap::Args;

use crate::output::complain;
use crate::uplink::{Program, Publish, choose, reason};

/// The options of `sv3 run` about ports of open files.
#[derive(Args)]
pub struct Aside {
    /// Attach a port when the switch serves: tap:NAME, macvtap:NAME, nic:ADDRESS or stream:PATH, as `sv3 attach` does; may be given
    /// several times
    #[arg(long, value_name = "KIND:NAME")]
    attach: Vec<Port>,
    /// Give guests the internet without root: slirp, gvproxy or passt [default: the first that is installed]
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true, value_enum)]
    internet: Option<Option<Program>>,
    /// Make a guest's TCP port reachable at a port of this host's loopback; may be given several times
    #[arg(long, value_name = "HOSTPORT:GUEST:PORT", requires = "internet")]
    publish: Vec<Publish>,
}

/// A port to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    kind: String,
    name: String,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Port, String> {
        let known = ["tap", "macvtap", "nic", "stream"];
        match text.split_once(':') {
            Some((kind, name)) if known.contains(&kind) && !name.is_empty() => {
                Ok(Port { kind: kind.to_string(), name: name.to_string() })
            }
            _ => Err(format!("{text:?} must be tap:NAME, macvtap:NAME, nic:ADDRESS or stream:PATH")),
        }
    }
}

impl Aside {
    /// Starts the processes. This process is about to become the supervisor that serves `control`.
    pub fn start(&self, control: &Path) -> Result<(), String> {
        for Port { kind, name } in &self.attach {
            start(&["attach", kind, name], &[], control)?;
        }
        let Some(wanted) = self.internet else { return Ok(()) };
        // What is wrong is told before the switch starts.
        let (program, path) = choose(wanted, None)?;
        if wanted.is_none() {
            complain(&reason(program));
        }
        let published: Vec<String> =
            self.publish.iter().flat_map(|one| ["--publish".to_string(), one.to_string()]).collect();
        let program = path.to_str().ok_or_else(|| format!("{}: not UTF-8 text", path.display()))?;
        start(&["uplink", "--program", program], &published, control)
    }
}

fn start(words: &[&str], more: &[String], control: &Path) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut command = Command::new(&own);
    command.arg("aside").args(words).args(more);
    command.arg("--of").arg(std::process::id().to_string()).arg("--control").arg(control);
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("{}: {error}", own.display()))?;
    if status.success() { Ok(()) } else { Err(format!("`sv3 {}` could not be started", words.join(" "))) }
}

/// Start another command and end at once.
#[derive(Args)]
pub struct Start {
    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Start {
    /// Starts it.
    pub fn exec(&self) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let started = Command::new(&own).args(&self.words).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        started.map(drop).map_err(|error| format!("{}: {error}", own.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_to_attach_has_a_kind_and_a_name() {
        let port = |kind: &str, name: &str| Ok(Port { kind: kind.to_string(), name: name.to_string() });
        assert_eq!("tap:tap0".parse(), port("tap", "tap0"));
        assert_eq!("nic:0000:02:00.1".parse(), port("nic", "0000:02:00.1"));
        assert_eq!("stream:/run/a:b".parse(), port("stream", "/run/a:b"));
        for wrong in ["", "tap", "tap:", "pipe:x", ":x"] {
            assert!(wrong.parse::<Port>().unwrap_err().contains("tap:NAME"), "{wrong}");
        }
    }
}
