//! `sv3 run`: becomes the supervisor.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::place;

/// Run a switch in the foreground, as any user, without privileges.
///
/// Prints how to attach a guest; events go to stderr or to --log, a line of JSON each. Ends by Ctrl-C, SIGTERM or SIGQUIT, and
/// when its terminal is closed.
#[derive(Args)]
pub struct Run {
    /// The front door that guests attach to [default: vhost-user.sock in $XDG_RUNTIME_DIR/sv3 or /tmp/sv3-UID]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The socket for `sv3 status` and its like [default: control.sock beside the default front door]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Replace sockets that a dead switch left behind even where others may write to their folder
    #[arg(long)]
    force: bool,
    /// Keep no second worker ready to take over; a restart then takes some milliseconds more
    #[arg(long)]
    no_standby: bool,
    /// Deaths of workers within ten seconds that put the client who caused them in quarantine; 0: none do [default: 3]
    #[arg(long, value_name = "N")]
    blame: Option<u32>,
    /// Kill the worker at random times, SECONDS apart on average, to see that guests do not notice
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    chaos: Option<f64>,
    /// Add events to a file instead of printing them, and open it anew at SIGHUP; docs/operate/events.md describes them
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Serve metrics over HTTP at a loopback address, such as 127.0.0.1:9109, to every user of this machine
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<String>,
    /// Do not run with less than this landlock ABI (1 to 7); see docs/understand/confinement.md
    /// [default: with what there is]
    #[arg(long, value_name = "ABI")]
    require_landlock: Option<u32>,
    /// Most microseconds to spin for a frame before sleeping, as far as that pays; 0: sleep at once [default: 100]
    #[arg(long, value_name = "N")]
    poll_us: Option<u32>,
    /// Most frames taken from one ring at a time, 1 to 256 [default: 64]
    #[arg(long, value_name = "N")]
    batch: Option<u16>,
    /// Threads that move frames, 1 to 64; see docs/operate/tuning.md [default: 1]
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    /// Processors that workers run on, such as 2 or 0,2-3; with --threads, one for each [default: where the kernel lets them]
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
}

impl Run {
    /// Does not return unless it fails.
    pub fn exec(&self) -> Result<(), String> {
        let supervisor = place::sibling("sv3-supervisor")?;
        let worker = place::sibling("sv3-worker")?;
        let mut command = Command::new(&supervisor);
        command.arg("--socket").arg(self.path(self.socket.as_deref(), place::SOCKET)?);
        command.arg("--control").arg(self.path(self.control.as_deref(), place::CONTROL)?);
        command.arg("--worker").arg(worker);
        if self.force {
            command.arg("--force");
        }
        if self.no_standby {
            command.arg("--no-standby");
        }
        if let Some(blame) = self.blame {
            command.arg("--blame").arg(blame.to_string());
        }
        if let Some(chaos) = self.chaos {
            command.arg("--chaos").arg(chaos.to_string());
        }
        if let Some(log) = &self.log {
            command.arg("--log").arg(log);
        }
        if let Some(metrics) = &self.metrics {
            command.arg("--metrics").arg(metrics);
        }
        if let Some(abi) = self.require_landlock {
            command.arg("--require-landlock").arg(abi.to_string());
        }
        if let Some(poll_us) = self.poll_us {
            command.arg("--poll-us").arg(poll_us.to_string());
        }
        if let Some(batch) = self.batch {
            command.arg("--batch").arg(batch.to_string());
        }
        if let Some(threads) = self.threads {
            command.arg("--threads").arg(threads.to_string());
        }
        if let Some(cpus) = &self.cpus {
            command.arg("--cpus").arg(cpus);
        }
        Err(format!("{}: {}", supervisor.display(), command.exec()))
    }

    fn path(&self, given: Option<&Path>, name: &str) -> Result<PathBuf, String> {
        match given {
            Some(path) => std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display())),
            None => {
                let folder = place::folder();
                place::prepare(&folder)?;
                Ok(folder.join(name))
            }
        }
    }
}
