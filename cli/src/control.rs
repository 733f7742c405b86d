//! Talking to a running switch: one line out, one line of JSON back.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::place;

/// Longest time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Which switch is meant.
#[derive(Args)]
pub struct Control {
    /// The control socket of the switch [default: as `sv3 run`]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Control {
    /// Sends a request and returns the answer, which is JSON.
    pub fn ask(&self, request: &str) -> Result<serde_json::Value, String> {
        parse(&self.converse(request, None)?)
    }

    /// Sends a request with an open file and returns the answer, which is JSON.
    pub fn hand(&self, request: &str, fd: BorrowedFd<'_>) -> Result<serde_json::Value, String> {
        parse(&self.converse(request, Some(fd))?)
    }

    /// Sends a request and returns the answer as it is.
    pub fn ask_text(&self, request: &str) -> Result<String, String> {
        self.converse(request, None)
    }

    fn converse(&self, request: &str, fd: Option<BorrowedFd<'_>>) -> Result<String, String> {
        let path = self.control.clone().unwrap_or_else(|| place::folder().join(place::CONTROL));
        let at = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                format!("no switch runs at {}; start one by `sv3 run`, or name another by --control", path.display())
            }
            ErrorKind::PermissionDenied => {
                format!("the switch at {} belongs to another user; ask as that user or as root", path.display())
            }
            ErrorKind::WouldBlock => format!("the switch at {} does not answer", path.display()),
            _ => format!("{}: {e}", path.display()),
        };
        let mut socket = UnixStream::connect(&path).map_err(at)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(at)?;
        let line = format!("{request}\n");
        match fd {
            None => socket.write_all(line.as_bytes()).map_err(at)?,
            Some(fd) => {
                let (octets, fds) = ([IoSlice::new(line.as_bytes())], [fd.as_raw_fd()]);
                let rights = [ControlMessage::ScmRights(&fds)];
                sendmsg::<()>(socket.as_raw_fd(), &octets, &rights, MsgFlags::empty(), None)
                    .map_err(|errno| at(errno.into()))?;
            }
        }
        let mut text = String::new();
        socket.read_to_string(&mut text).map_err(at)?;
        Ok(text)
    }
}

fn parse(text: &str) -> Result<serde_json::Value, String> {
    let answer: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("the switch's answer is not JSON: {e}"))?;
    match answer.get("error").and_then(|error| error.as_str()) {
        Some(error) => Err(error.to_string()),
        None => Ok(answer),
    }
}
