//! Waiting: for signals, for the end of the switch and of the program.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::process::Process;
use crate::control::Running;

/// The signals by which this process is told to end, and the one that tells of the program's end.
pub struct Signals {
    file: SignalFd,
    told: bool,
}

/// Why the watch over a running program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// This process is told to end.
    Told,
    /// The program has ended.
    Program,
    /// No switch has the other end of the program's socket.
    CutOff,
    /// The switch has ended. Another one may have taken over from it.
    Switch,
}

impl Signals {
    /// Blocks them, so that they can be read.
    pub fn block() -> Result<Signals, String> {
        let ends = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
        let set: SigSet = ends.into_iter().chain([Signal::SIGCHLD]).collect();
        set.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
        let file = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Signals { file: file.map_err(|errno| format!("signalfd: {errno}"))?, told: false })
    }

    /// Whether one of them has told this process to end.
    pub fn told(&mut self) -> bool {
        while let Ok(Some(info)) = self.file.read_signal() {
            self.told |= i32::try_from(info.ssi_signo) != Ok(Signal::SIGCHLD as i32);
        }
        self.told
    }

    /// Waits for a while. False: this process is told to end, or the switch has ended.
    pub fn pause(&mut self, time: Duration, switch: Option<&Running>) -> Result<bool, String> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.told() || switch.is_some_and(Running::has_ended) {
                return Ok(false);
            }
            if left.is_zero() {
                return Ok(true);
            }
            let fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            let switch = switch.map(|switch| PollFd::new(switch.as_fd(), PollFlags::POLLIN));
            wait(&mut fds.into_iter().chain(switch).collect::<Vec<_>>(), Some(left))?;
        }
    }

    /// Watches a program and its switch until something has to be done.
    pub fn watch(&mut self, switch: &Running, process: &mut Process) -> Result<Over, String> {
        loop {
            process.listen();
            if self.told() {
                return Ok(Over::Told);
            }
            if process.ended().is_some() {
                return Ok(Over::Program);
            }
            if process.is_cut_off() {
                return Ok(Over::CutOff);
            }
            if switch.has_ended() {
                return Ok(Over::Switch);
            }
            let own = [self.file.as_fd(), switch.as_fd()].map(|fd| (fd, PollFlags::POLLIN));
            let fds = own.into_iter().chain(process.waits()).map(|(fd, flags)| PollFd::new(fd, flags));
            wait(&mut fds.collect::<Vec<_>>(), None)?;
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], most: Option<Duration>) -> Result<(), String> {
    let most = most.map_or(PollTimeout::NONE, |most| {
        PollTimeout::try_from(most.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(fds, most) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(format!("poll: {errno}")),
    }
}
