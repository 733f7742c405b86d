//! A program that runs: what it says, and whether a switch still has the other end of its socket.

use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How many octets are kept of what the program says.
const SAID_MAX: usize = 4096;
/// A program that exits so soon after its first start cannot do what it was told.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The program.
pub struct Process {
    child: Child,
    began: Instant,
    /// The program's end of its socket, where this process made both. It hangs up when no switch has the other end.
    line: Option<OwnedFd>,
    /// What it writes to stdout and stderr.
    output: Option<PipeReader>,
    said: Vec<u8>,
}

impl Process {
    /// Starts the program. `line` is its end of a pair of sockets, if it gets one.
    pub fn start(mut command: Command, path: &Path, line: Option<OwnedFd>) -> Result<Process, String> {
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        let (output, theirs) = std::io::pipe().map_err(at)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| at(errno.into()))?;
        command.stdin(Stdio::null()).stdout(theirs.try_clone().map_err(at)?).stderr(theirs);
        // Ctrl-C is for this process, which then ends the program.
        let child = command.process_group(0).spawn().map_err(at)?;
        Ok(Process { child, began: Instant::now(), line, output: Some(output), said: Vec::new() })
    }

    /// Since when it runs.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether it has exited so soon that it would not run when started again either.
    pub fn failed_at_once(&mut self) -> bool {
        let age = self.age();
        self.ended().is_some_and(|status| status.code().is_some()) && age < AT_ONCE
    }

    /// Whether no switch has the other end of its socket any more. False if only the program can tell.
    pub fn is_cut_off(&self) -> bool {
        let Some(line) = &self.line else { return false };
        let mut fds = [PollFd::new(line.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Files to wait for, and for what.
    pub fn waits(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let output = self.output.iter().map(|output| (output.as_fd(), PollFlags::POLLIN));
        output.chain(self.line.iter().map(|line| (line.as_fd(), PollFlags::empty())))
    }

    /// Reads what it says, so that it never waits for a reader.
    pub fn listen(&mut self) {
        let mut octets = [0; SAID_MAX];
        while let Some(output) = &mut self.output {
            match output.read(&mut octets) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    self.said.extend(octets.get(..count).unwrap_or_default());
                    self.said.drain(..self.said.len().saturating_sub(SAID_MAX));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// Ends it, and what it started. Returns how it ended and what it said last.
    pub fn end(mut self) -> String {
        let own = self.ended();
        if own.is_none() {
            // It is not waited for yet, so its number is still its own.
            let _ = i32::try_from(self.child.id()).map(|pid| killpg(Pid::from_raw(pid), Signal::SIGKILL));
            let _ = self.child.wait();
        }
        self.listen();
        let status = own.map_or(String::new(), |status| format!(" ({})", words(status)));
        let said = String::from_utf8_lossy(&self.said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        status + &last.map_or(String::new(), |line| format!(": {}", line.trim()))
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal().and_then(|number| Signal::try_from(number).ok())) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, Path::new("sh"), None).unwrap()
    }

    #[test]
    fn a_program_that_ended_is_described_by_its_status_and_its_last_line() {
        let mut process = shell("echo first; echo the last; echo; exit 3");
        while process.ended().is_none() {
            std::thread::yield_now();
        }
        assert!(process.failed_at_once());
        assert_eq!(process.end(), " (exit status 3): the last");
    }

    #[test]
    fn a_program_that_says_much_never_waits_for_a_reader() {
        let mut process = shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; kill -KILL $$");
        while process.ended().is_none() {
            process.listen();
            std::thread::yield_now();
        }
        assert!(!process.failed_at_once(), "a signal ended it");
        assert_eq!(process.end(), " (killed by SIGKILL): line 19999");
    }

    #[test]
    fn what_the_program_started_ends_with_it() {
        let mut process = shell("sleep 1000 & echo $!; wait");
        let child = loop {
            process.listen();
            let said = String::from_utf8_lossy(&process.said).trim().to_string();
            if !said.is_empty() {
                break said;
            }
            std::thread::yield_now();
        };
        process.end();
        let state = |text: String| text.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z');
        while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|text| !state(text)) {
            std::thread::yield_now();
        }
    }
}
