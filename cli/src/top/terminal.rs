//! The terminal: its modes, its size, keys, signals, and escape sequences (ECMA-48 and xterm's).
//!
//! In the terminal's modes, Ctrl-C, Ctrl-Z and Ctrl-\ stay signals, as those of other processes are. What is written goes
//! to the alternate screen, so that the text before stays.

use std::io::{self, Write, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::screen::{Line, Look, Style};

/// Alternate screen, no cursor, no line wrap.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// The same back, and no attributes.
const LEAVE: &str = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not tell it.
const SIZE: (usize, usize) = (80, 24);
/// Most columns and lines that are drawn.
const MOST: usize = 1000;

const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
const OTHERS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGWINCH];

/// A terminal in other modes than before, until it is dropped.
pub struct Terminal {
    /// The modes before.
    before: Termios,
    signals: SignalFd,
    is_entered: bool,
}

/// Why [`Terminal::wait`] returned.
pub enum Woken {
    /// A signal came.
    Signal(Signal),
    /// Somebody typed these octets; `None`: the terminal is gone.
    Keys(Option<Vec<u8>>),
    /// The other fd is readable.
    Bell,
}

/// How this terminal shows text, by the environment.
pub fn style() -> Style {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    // POSIX, 8.2: the first one that is set counts.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    // The Linux console has no font with all blocks.
    let has_blocks = set("TERM").is_none_or(|term| term != "linux");
    let has_utf8 = has_blocks && (locale.ends_with("utf-8") || locale.ends_with("utf8"));
    Style { has_utf8, has_colour: set("NO_COLOR").is_none() }
}

impl Terminal {
    /// Blocks signals, and takes the terminal of stdin and stdout.
    pub fn enter() -> Result<Terminal, String> {
        let signals: SigSet = ENDS.into_iter().chain(OTHERS).collect();
        signals.thread_block().map_err(|errno| format!("signals cannot be blocked: {errno}"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).map_err(|errno| format!("signalfd: {errno}"))?;
        let before = tcgetattr(stdin()).map_err(|errno| format!("the terminal tells no modes: {errno}"))?;
        let mut terminal = Terminal { before: before.clone(), signals, is_entered: false };
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore(&before);
            say(panic);
        }));
        terminal.again()?;
        Ok(terminal)
    }

    /// Takes the terminal, again if another process changed its modes. A process in the background stops here, until
    /// it is in the foreground (SIGTTOU).
    pub fn again(&mut self) -> Result<(), String> {
        let mut modes = self.before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // Without this, Ctrl-S would stop the output, and the loop with it.
        modes.input_modes.remove(InputModes::IXON);
        self.is_entered = true;
        tcsetattr(stdin(), OptionalActions::Now, &modes).map_err(|errno| format!("the terminal's modes: {errno}"))?;
        // Whoever had the terminal in between is over; errors show at the next drawing.
        let _ = write(ENTER);
        Ok(())
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        let told = tcgetwinsize(stdout()).map_or((0, 0), |size| (size.ws_col.into(), size.ws_row.into()));
        let or = |told: usize, default: usize| if told == 0 { default } else { told.min(MOST) };
        (or(told.0, SIZE.0), or(told.1, SIZE.1))
    }

    /// Shows the lines in place of those before.
    pub fn show(&self, lines: &[Line], style: Style) -> io::Result<()> {
        write(&painted(lines, style))
    }

    /// Waits for a signal, for keys, or until `bell` is readable.
    pub fn wait(&self, bell: BorrowedFd<'_>) -> Result<Woken, String> {
        let stdin = stdin();
        loop {
            let mut fds = [self.signals.as_fd(), stdin.as_fd(), bell].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(format!("poll: {errno}")),
            }
            let [signal, keys, bell] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if signal && let Ok(Some(told)) = self.signals.read_signal() {
                let number = i32::try_from(told.ssi_signo).unwrap_or_default();
                return Signal::try_from(number).map(Woken::Signal).map_err(|errno| errno.to_string());
            }
            if keys {
                return Ok(Woken::Keys(typed(stdin.as_fd())));
            }
            if bell {
                return Ok(Woken::Bell);
            }
        }
    }

    /// Gives the terminal back and stops, as Ctrl-Z asks for. Returns when the process goes on.
    pub fn pause(&mut self) -> Result<(), String> {
        self.leave();
        deliver(Signal::SIGTSTP);
        // It may have been ignored or discarded (an orphaned process group).
        self.again()
    }

    /// Gives the terminal back and dies of the signal, as the shell expects of who is interrupted.
    pub fn end_by(mut self, signal: Signal) -> Result<(), String> {
        self.leave();
        deliver(signal);
        Err(format!("ended by {signal}"))
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.is_entered) {
            restore(&self.before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Octets that were typed; `None`: no more will come.
fn typed(stdin: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut octets = [0; 256];
    match nix::unistd::read(stdin, &mut octets) {
        Ok(0) => None,
        Ok(count) => octets.get(..count).map(<[u8]>::to_vec),
        Err(Errno::EINTR | Errno::EAGAIN) => Some(Vec::new()),
        Err(_) => None,
    }
}

/// The default action of a signal that is blocked otherwise.
fn deliver(signal: Signal) {
    let only: SigSet = [signal].into_iter().collect();
    if raise(signal).is_ok() && only.thread_unblock().is_ok() {
        let _ = only.thread_block();
    }
}

fn restore(before: &Termios) {
    let _ = write(LEAVE);
    let _ = tcsetattr(stdin(), OptionalActions::Now, before);
}

fn write(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The lines with the sequences that place and colour them.
fn painted(lines: &[Line], style: Style) -> String {
    let mut out = String::from("\x1b[H");
    for (at, (look, line)) in lines.iter().enumerate() {
        let before = match look {
            Look::Plain => "",
            Look::Head => "\x1b[1m",
            Look::Cursor => "\x1b[7m",
            Look::Alert if style.has_colour => "\x1b[31m",
            Look::Alert => "\x1b[1m",
        };
        let after = if before.is_empty() { "" } else { "\x1b[m" };
        let end = if at + 1 == lines.len() { "" } else { "\r\n" };
        // Cleared first: the cursor stays in the last column once that is written, and would take it along.
        out.extend(["\x1b[K", before, line, after, end]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let lines = [(Look::Alert, "bad".to_string()), (Look::Plain, "good".to_string())];
        let style = |has_colour| Style { has_utf8: true, has_colour };
        assert_eq!(painted(&lines, style(true)), "\x1b[H\x1b[K\x1b[31mbad\x1b[m\r\n\x1b[Kgood");
        assert_eq!(painted(&lines, style(false)), "\x1b[H\x1b[K\x1b[1mbad\x1b[m\r\n\x1b[Kgood");
    }
}
