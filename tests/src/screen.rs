//! A terminal (pty(7)) with a program at it, and what the program shows there.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

use crate::failure::{Failure, Result};
use crate::patience::until;

/// Puts the cursor at the top left corner: where each frame begins.
const HOME: &str = "\x1b[H";

/// A terminal, and the program that has it as its controlling one.
pub struct Terminal {
    /// Our end.
    master: File,
    /// The program's end: a terminal without any would be gone for us.
    slave: OwnedFd,
    before: Termios,
    shown: String,
    rest: Vec<u8>,
    process: Child,
}

impl Terminal {
    /// Starts a program at a terminal of that many columns and lines.
    pub fn start(command: &Command, (columns, rows): (u16, u16)) -> Result<Terminal> {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let before = tcgetattr(&pty.slave)?;
        let stdio = || Ok::<_, Failure>(Stdio::from(pty.slave.try_clone()?));
        let mut all = Command::new("setsid");
        all.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => all.env(name, value),
                None => all.env_remove(name),
            };
        }
        let process = all.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).spawn()?;
        let (master, shown, rest) = (File::from(pty.master), String::new(), Vec::new());
        Ok(Terminal { master, slave: pty.slave, before, shown, rest, process })
    }

    /// The program's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Changes the number of columns and lines, which the program is told by SIGWINCH.
    pub fn resize(&self, (columns, rows): (u16, u16)) -> Result<()> {
        let name = std::fs::read_link(format!("/proc/self/fd/{}", self.slave.as_raw_fd()))?;
        let mut stty = Command::new("stty");
        stty.arg("-F").arg(name).args(["cols", &columns.to_string(), "rows", &rows.to_string()]);
        stty.status()?.success().then_some(()).ok_or_else(|| Failure::new("stty failed"))
    }

    /// All that was shown so far.
    pub fn shown(&mut self) -> Result<&str> {
        let mut octets = [0; 4096];
        loop {
            match self.master.read(&mut octets) {
                Ok(0) => break,
                Ok(count) => self.rest.extend_from_slice(octets.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        // A character may be here by half.
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let octets: Vec<u8> = self.rest.drain(..whole).collect();
        self.shown.push_str(&String::from_utf8(octets)?);
        Ok(&self.shown)
    }

    /// The lines of the last whole frame, with sequences for colours.
    pub fn frame(&mut self) -> Result<Vec<String>> {
        let mut frames = self.shown()?.rsplit(HOME);
        // The last one may still be on its way.
        let frame = frames.nth(1).unwrap_or_default();
        // The terminal adds a carriage return to each line's end.
        Ok(frame.split('\n').map(|line| line.replace('\r', "").replace("\x1b[K", "")).collect())
    }

    /// Waits for a frame that is as wanted.
    pub fn await_frame(&mut self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        let found = until(what, || Ok(Some(self.frame()?.join("\n")).filter(|frame| wanted(frame))));
        found.map_err(|failure| Failure::new(format!("{failure}; shown: {:?}", self.shown)))
    }

    /// Waits for a text after the first `from` octets of all that was shown.
    pub fn await_text(&mut self, text: &str, from: usize) -> Result<()> {
        let found =
            until(text, || Ok(self.shown()?.get(from..).is_some_and(|shown| shown.contains(text)).then_some(())));
        found.map_err(|failure| Failure::new(format!("{failure}; shown: {:?}", self.shown)))
    }

    /// Whether the terminal's modes are those from before the program.
    pub fn is_as_before(&self) -> Result<bool> {
        Ok(tcgetattr(self.slave.as_fd())? == self.before)
    }

    /// Whether typed characters are shown and come as lines.
    pub fn is_for_lines(&self) -> Result<bool> {
        Ok(tcgetattr(self.slave.as_fd())?.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO))
    }

    /// Waits for the program's end. `Ok`: its exit status; `Err`: the signal that ended it.
    pub fn end(&mut self) -> Result<std::result::Result<i32, i32>> {
        let status = until("the end", || {
            // What it says last must find room.
            self.shown()?;
            Ok(self.process.try_wait()?)
        })?;
        self.shown()?;
        Ok(status.code().ok_or(status.signal().unwrap_or_default()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
