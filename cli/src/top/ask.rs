//! Asks the switch again and again, beside the loop.

use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sv3::control::ControlRequest;
use sv3::status::{Crashes, Status};

use crate::control::Control;
use crate::output::harmless;

/// What the switch told at one moment.
pub struct Look {
    /// When the answer came.
    pub at: Instant,
    /// The status; its strings are harmless.
    pub status: Status,
    /// How workers died, if more have died than before.
    pub crashes: Option<Crashes>,
}

/// Asks for the status. Asks for the crashes as well, if the number of restarts is another one than `known`.
pub fn look(control: &Control, known: Option<u64>) -> Result<Look, String> {
    let of_other = |error: serde_json::Error| format!("the switch is of another version ({error})");
    let status: Status = serde_json::from_value(harmless(control.ask(&ControlRequest::Status)?)).map_err(of_other)?;
    let at = Instant::now();
    let crashes = match known == Some(status.worker.restarts) {
        true => None,
        false => Some(serde_json::from_value(harmless(control.ask(&ControlRequest::Crashes)?)).map_err(of_other)?),
    };
    Ok(Look { at, status, crashes })
}

/// A thread that asks. It ends with the process.
pub struct Asker {
    bell: PipeReader,
    news: Receiver<Result<Look, String>>,
}

impl Asker {
    /// Starts to ask; the first time after `interval`. Signals that are blocked now are blocked in the thread as well.
    pub fn start(control: Control, interval: Duration, mut known: Option<u64>) -> Result<Asker, String> {
        let (bell, mut rope) = pipe().map_err(|error| format!("pipe: {error}"))?;
        let (tell, news) = channel();
        let ask = move || {
            let mut due = Instant::now() + interval;
            loop {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // An answer that took longer than the interval delays the next one.
                due = (due + interval).max(Instant::now());
                let look = look(&control, known);
                known = look.as_ref().ok().map(|look| look.status.worker.restarts);
                if tell.send(look).is_err() || rope.write_all(&[0]).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().spawn(ask).map_err(|error| format!("no thread: {error}"))?;
        Ok(Asker { bell, news })
    }

    /// Readable when there is news.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What came since the last call. Must be called when the bell rings, and only then.
    pub fn news(&self) -> Vec<Result<Look, String>> {
        // One octet a message, written after it: none is lost, and the pipe never fills up.
        let mut octets = [0; 64];
        let count = (&self.bell).read(&mut octets).unwrap_or(0);
        self.news.try_iter().take(count).collect()
    }
}
