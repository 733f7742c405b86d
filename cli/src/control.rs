//! Sends requests to a running switch: one line out, one line of JSON back.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sv3::control::{ControlRequest, LINE_MAX};
use sv3::status::Status;

use crate::declare::give::send;
use crate::output::harmless;
use crate::place::{self, PATH_MAX};

/// Longest time to wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(25);
/// Most octets of an answer: that of 1,024 ports has some 2 MiB.
const ANSWER_MAX: u64 = 64 << 20;

/// The switch to ask.
#[derive(Args, Clone)]
pub struct Control {
    /// The control socket of the switch [default: that of `sv3 run`]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A switch that runs.
pub struct Running(OwnedFd);

impl Running {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn of(pid: i32) -> Result<Running, String> {
        let gone = || "the switch has ended".to_string();
        let pid = Pid::from_raw(pid).ok_or_else(gone)?;
        pidfd_open(pid, PidfdFlags::empty()).map(Running).map_err(|_| gone())
    }
}

impl AsFd for Running {
    /// Readable when the switch has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Control {
    /// The switch with this control socket, or that of `sv3 run`.
    pub fn at(control: Option<PathBuf>) -> Control {
        Control { control }
    }

    /// The switch that serves the control socket, and its status. It is asked for its process id: the kernel's answer
    /// would be who made the socket, which another supervisor may have taken over since.
    pub fn running(&self) -> Result<(Running, Status), String> {
        let status = serde_json::from_value::<Status>(self.ask(&ControlRequest::Status)?);
        let status = status.map_err(|error| format!("the switch is of another version ({error})"))?;
        let pid = i32::try_from(status.supervisor.pid).map_err(|error| error.to_string())?;
        Ok((Running::of(pid)?, status))
    }

    /// Waits until the process `pid` serves the control socket, for at most `time`.
    pub fn wait_for(&self, pid: i32, time: Duration) -> Result<(Running, Status), String> {
        let (switch, until) = (Running::of(pid)?, Instant::now() + time);
        loop {
            match self.running() {
                Ok((_, status)) if i32::try_from(status.supervisor.pid) == Ok(pid) => return Ok((switch, status)),
                _ => {}
            }
            if switch.has_ended() {
                return Err("the switch has ended before it served".to_string());
            }
            if Instant::now() > until {
                return Err("the switch does not serve".to_string());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The control socket of the switch.
    pub fn path(&self) -> PathBuf {
        self.control.clone().unwrap_or_else(|| place::folder().join(place::CONTROL))
    }

    /// The user of the switch.
    pub fn owner(&self) -> Result<u32, String> {
        let path = self.path();
        let socket = UnixStream::connect(&path).map_err(|error| explain(&path, &error))?;
        let peer = getsockopt(&socket, PeerCredentials).map_err(|errno| explain(&path, &errno.into()))?;
        Ok(peer.uid())
    }

    /// Sends a request and returns the answer, which is JSON.
    pub fn ask(&self, request: &ControlRequest) -> Result<serde_json::Value, String> {
        parse(&self.exchange(request, &[])?)
    }

    /// Sends a request with open files and returns the answer, which is JSON.
    pub fn hand(&self, request: &ControlRequest, fds: &[BorrowedFd<'_>]) -> Result<serde_json::Value, String> {
        parse(&self.exchange(request, fds)?)
    }

    /// Sends a request and returns the answer as it is.
    pub fn ask_text(&self, request: &ControlRequest) -> Result<String, String> {
        self.exchange(request, &[])
    }

    fn exchange(&self, request: &ControlRequest, fds: &[BorrowedFd<'_>]) -> Result<String, String> {
        let socket = self.open(request, fds)?;
        let mut text = String::new();
        socket.take(ANSWER_MAX).read_to_string(&mut text).map_err(|error| explain(&self.path(), &error))?;
        Ok(text)
    }

    /// Sends a request with open files, and returns the connection, whose reads do not wait for ever.
    pub fn open(&self, request: &ControlRequest, fds: &[BorrowedFd<'_>]) -> Result<UnixStream, String> {
        let path = self.path();
        let at = |error: std::io::Error| explain(&path, &error);
        let socket = UnixStream::connect(&path).map_err(at)?;
        self.check_owner(&socket, &path)?;
        socket.set_read_timeout(Some(ANSWER_TIME)).map_err(at)?;
        let line = format!("{request}\n");
        if line.len() > LINE_MAX {
            let octets = line.len();
            return Err(format!("this is too long for one request ({octets} octets of {LINE_MAX}): name fewer ports"));
        }
        send(&socket, &line, fds).map_err(|errno| at(errno.into()))?;
        Ok(socket)
    }

    /// The switch must belong to the same user or to root: in /tmp, another user may have made the socket first. Root
    /// may ask any user's switch, if --control names it.
    pub fn check_owner(&self, socket: &UnixStream, path: &Path) -> Result<(), String> {
        let owner = getsockopt(socket, PeerCredentials).map_err(|errno| explain(path, &errno.into()))?.uid();
        let me = nix::unistd::geteuid().as_raw();
        match owner == 0 || owner == me || (me == 0 && self.control.is_some()) {
            true => Ok(()),
            false => Err(format!(
                "the switch at {} belongs to user {owner}, not to you: nothing was sent; name your switch by --control",
                path.display()
            )),
        }
    }
}

/// Why the switch cannot be asked, and what the user can do.
fn explain(path: &Path, error: &std::io::Error) -> String {
    let shown = path.display();
    let meta = std::fs::symlink_metadata(path);
    if path.as_os_str().len() > PATH_MAX {
        return format!("{shown}: a socket's path has {PATH_MAX} octets at most");
    }
    if meta.is_ok_and(|meta| !meta.file_type().is_socket() && !meta.is_symlink()) {
        return format!("{shown} is not a socket; name the control socket of a switch by --control");
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no switch runs at {shown}; start one by `sv3 run`, or name another by --control")
        }
        ErrorKind::PermissionDenied => {
            format!("the switch at {shown} belongs to another user; ask as that user or as root")
        }
        ErrorKind::WouldBlock => format!("the switch at {shown} does not answer; it may be busy: try again"),
        _ => format!("{shown}: {error}"),
    }
}

/// An answer, or the error that it tells.
pub fn parse(text: &str) -> Result<serde_json::Value, String> {
    let answer: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("the switch's answer is not JSON: {e}"))?;
    match harmless(answer.clone()).get("error").and_then(|error| error.as_str()) {
        Some(error) => Err(error.to_string()),
        None => Ok(answer),
    }
}
