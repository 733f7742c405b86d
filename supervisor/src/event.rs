//! Events: what happened, as one line of JSON each on stderr.
//!
//! Nothing here blocks. A line is at most `PIPE_BUF` octets and is written only when stderr has room for that many;
//! otherwise it is dropped and counted, and the next line says how many were lost. What clients can cause at will is
//! limited in rate as well.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

/// Longest message, in characters.
const MESSAGE_MAX: usize = 600;
/// Client-caused events that may come at once, and per second in the long run.
const BURST: f64 = 500.0;
const RATE: f64 = 50.0;

/// The client that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// Slot of its port.
    pub slot: u16,
    /// Its process.
    pub pid: i32,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_pid: Option<i32>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_lost: Option<u64>,
}

/// The event log.
pub struct Events {
    lost: u64,
    budget: f64,
    refilled: Instant,
}

impl Default for Events {
    fn default() -> Events {
        Events { lost: 0, budget: BURST, refilled: Instant::now() }
    }
}

impl Events {
    /// Something that sv3 itself did or suffered.
    pub fn say(&mut self, event: &str, message: impl Into<String>) {
        self.write(event, None, message.into());
    }

    /// Something that a client did. Limited in rate.
    pub fn say_of(&mut self, who: impl Into<Option<Who>>, event: &str, message: impl Into<String>) {
        self.budget = (self.budget + self.refilled.elapsed().as_secs_f64() * RATE).min(BURST);
        self.refilled = Instant::now();
        if self.budget < 1.0 {
            self.lost += 1;
            return;
        }
        self.budget -= 1.0;
        self.write(event, who.into(), message.into());
    }

    fn write(&mut self, event: &str, who: Option<Who>, message: String) {
        let line = Line {
            time: rfc3339(SystemTime::now()),
            event,
            port: who.map(|who| format!("p{}", who.slot)),
            client_pid: who.map(|who| who.pid),
            message: message.chars().take(MESSAGE_MAX).collect(),
            events_lost: (self.lost > 0).then_some(self.lost),
        };
        let mut octets = serde_json::to_vec(&line).unwrap_or_default();
        octets.push(b'\n');
        match write_if_room(std::io::stderr(), &octets) {
            true => self.lost = 0,
            false => self.lost += 1,
        }
    }
}

/// Writes up to `PIPE_BUF` octets if that cannot block. A pipe or socket that polls writable has room for them.
pub fn write_if_room(mut to: impl Write + AsFd, octets: &[u8]) -> bool {
    let room = match poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO) {
        Ok(ready) => ready > 0,
        Err(_) => false,
    };
    room && octets.len() <= libc::PIPE_BUF && to.write_all(octets).is_ok()
}

/// UTC with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    // Days to a date, by eras of 400 years that begin on 1 March (proleptic Gregorian calendar).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |ms: u64| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(1_795_263_328_000), "2026-11-21T12:15:28.000Z");
        assert_eq!(at(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_full_pipe_loses_the_line_and_does_not_block() {
        let (_read, write) = nix::unistd::pipe().unwrap();
        let mut pipe = std::fs::File::from(write);
        let line = [b'x'; 4096];
        let written = (0..1000).take_while(|_| write_if_room(&mut pipe, &line)).count();
        assert!((1..1000).contains(&written));
        assert!(!write_if_room(&mut pipe, &[b'x'; 4097]));
    }
}
