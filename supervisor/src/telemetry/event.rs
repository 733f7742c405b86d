//! Events: what happened, as one line each on stderr or in a file, or as one datagram to the journal. See
//! docs/operate/events.md.
//!
//! Nothing here blocks. A line is at most `PIPE_BUF` octets and is written only when there is room for that many;
//! otherwise it is dropped and counted, and the next line says how many were lost. If only a part of a line could be
//! written, as on a full disk, the line is ended before the next one. Events that clients can cause at will are also
//! limited in rate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::Value;

use crate::telemetry::form::{self, Form, Level, Verbosity};

/// Longest message, in characters.
const MESSAGE_MAX: usize = 600;
/// Most client-caused events that are written at once, and per second in the long run.
const BURST: f64 = 500.0;
const RATE: f64 = 50.0;

/// The client that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct ClientId {
    /// Slot of its port; beyond all slots if it has none yet.
    pub slot: u16,
    /// Its process.
    pub pid: i32,
}

/// Names a port in events. If a client is behind it, the client is named as well.
#[derive(Clone, Debug)]
pub struct Named {
    /// The port's name.
    pub name: String,
    /// The client.
    pub client: Option<ClientId>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'a str,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_pid: Option<i32>,
    message: String,
    /// An object, or nothing.
    #[serde(flatten)]
    fields: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_lost: Option<u64>,
}

/// The event log.
pub struct Events {
    /// The file for lines, and its name; absent: lines go to stderr. The journal's socket is one too.
    file: Option<(File, PathBuf)>,
    form: Form,
    verbosity: Verbosity,
    /// The last thing written is an incomplete line.
    torn: bool,
    /// A message on stderr has said that the file cannot be written.
    failing: bool,
    /// Events lost since the last line that was written.
    lost: u64,
    lost_ever: u64,
    budget: f64,
    refilled: Instant,
    /// The names of declared ports, by slot.
    pub names: BTreeMap<u16, String>,
}

/// Opens a file to append events to. Must be called before confinement.
pub fn open_log(path: &Path) -> Result<File, String> {
    open(path).map_err(|error| format!("cannot open the log {}: {error}; choose another by --log", path.display()))
}

/// Opens a file to append events to.
pub fn open(path: &Path) -> io::Result<File> {
    // Non-blocking: a pipe without a reader is an error, not a wait.
    let mut options = File::options();
    let options = options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

impl Events {
    /// An event log that writes to a file, or to stderr.
    pub fn new(file: Option<(File, PathBuf)>) -> Events {
        let (refilled, names) = (Instant::now(), BTreeMap::new());
        let (form, verbosity) = (Form::default(), Verbosity::default());
        Events {
            file,
            form,
            verbosity,
            torn: false,
            failing: false,
            lost: 0,
            lost_ever: 0,
            budget: BURST,
            refilled,
            names,
        }
    }

    /// The same in this form, and only so much.
    pub fn written(self, form: Form, verbosity: Verbosity) -> Events {
        Events { form, verbosity, ..self }
    }

    /// Whether events go to a file that can be opened anew.
    pub fn can_reopen(&self) -> bool {
        self.file.is_some() && !self.is_journal()
    }

    /// Whether events go to the journal.
    pub fn is_journal(&self) -> bool {
        self.form == Form::Journal
    }

    /// The file that events go to, if not stderr.
    pub fn log(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|(file, _)| file.as_fd())
    }

    /// Continues in another file of the same name.
    pub fn replace_log(&mut self, file: File) {
        if let Some((old, _)) = &mut self.file {
            (*old, self.torn, self.failing) = (file, false, false);
        }
    }

    /// Writes an event of sv3 itself.
    pub fn say(&mut self, event: &str, message: impl Into<String>) {
        self.write(event, None, message.into(), None);
    }

    /// The same, with more fields: a JSON object.
    pub fn say_with(&mut self, event: &str, message: impl Into<String>, fields: Value) {
        self.write(event, None, message.into(), Some(fields));
    }

    /// Writes an event that a client caused. Limited in rate.
    pub fn say_of(&mut self, id: impl Into<Option<ClientId>>, event: &str, message: impl Into<String>) {
        self.say_of_with(id, event, message, None);
    }

    /// The same, with more fields: a JSON object.
    pub fn say_of_with(
        &mut self,
        id: impl Into<Option<ClientId>>,
        event: &str,
        message: impl Into<String>,
        fields: impl Into<Option<Value>>,
    ) {
        self.budget = (self.budget + self.refilled.elapsed().as_secs_f64() * RATE).min(BURST);
        self.refilled = Instant::now();
        if self.budget < 1.0 {
            return self.lose();
        }
        self.budget -= 1.0;
        self.write(event, id.into(), message.into(), fields.into());
    }

    /// Writes an event about a port, with more fields: a JSON object. Limited in rate if a client is behind the port.
    pub fn say_of_port(&mut self, port: &Named, event: &str, message: impl Into<String>, mut fields: Value) {
        match port.client {
            Some(id) => self.say_of_with(id, event, message, fields),
            None => {
                if let Some(fields) = fields.as_object_mut() {
                    fields.insert("port".to_string(), port.name.clone().into());
                }
                self.say_with(event, message, fields);
            }
        }
    }

    /// Events lost since the start.
    pub fn lost_ever(&self) -> u64 {
        self.lost_ever
    }

    /// Counts events that the last supervisor lost.
    pub fn add_lost(&mut self, lost: u64) {
        self.lost_ever = self.lost_ever.saturating_add(lost);
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.lost_ever += 1;
    }

    fn write(&mut self, event: &str, id: Option<ClientId>, message: String, fields: Option<Value>) {
        if !self.verbosity.takes(event) {
            return;
        }
        // A pending client has no port: only its process is named.
        let port = id.filter(|id| usize::from(id.slot) < sv3::MAX_PORTS);
        let port = port.map(|id| self.names.get(&id.slot).cloned().unwrap_or(format!("p{}", id.slot)));
        let line = Line {
            time: rfc3339(SystemTime::now()),
            event,
            level: Level::of(event).name(),
            port,
            client_pid: id.map(|id| id.pid),
            message: message.chars().take(MESSAGE_MAX).collect(),
            fields,
            events_lost: (self.lost > 0).then_some(self.lost),
        };
        let mut octets = self.render(&line);
        if self.torn {
            octets.insert(0, b'\n');
        }
        let (count, error) = match &self.file {
            Some((file, _)) => write_part(file, &octets),
            None => write_part(io::stderr(), &octets),
        };
        // If only the newline that ends a torn line was written, the file is whole again. A line that lacks only its
        // own newline counts as written.
        self.torn = count > usize::from(self.torn) && count < octets.len() || self.torn && count == 0;
        match count + 1 >= octets.len() {
            true => self.lost = 0,
            false => self.lose(),
        }
        self.tell_of_failure(error);
    }

    /// The line in the form of this log, with its newline.
    fn render(&self, line: &Line<'_>) -> Vec<u8> {
        let mut octets = match self.form {
            Form::Json => serde_json::to_vec(line).unwrap_or_default(),
            Form::Text => {
                let value = serde_json::to_value(line).unwrap_or_default();
                form::text(&value, self.verbosity).into_bytes()
            }
            Form::Journal => return form::datagram(&serde_json::to_value(line).unwrap_or_default()),
        };
        octets.push(b'\n');
        octets
    }

    /// Says once on stderr that the file cannot be written, and again only after a write succeeded.
    fn tell_of_failure(&mut self, error: Option<io::Error>) {
        let Some((_, path)) = &self.file else { return };
        if let Some(error) = error.as_ref().filter(|_| !self.failing) {
            let path = path.display();
            let text = format!("sv3: events are lost, because {path} cannot be written: {error}\n");
            write_if_room(io::stderr(), text.as_bytes());
        }
        self.failing = error.is_some();
    }
}

/// Writes up to `PIPE_BUF` octets if that cannot block. Returns how many were written, and the error that prevented the
/// rest, unless the error was lack of room. A pipe or socket that polls writable has room for them.
fn write_part(mut to: impl Write + AsFd, octets: &[u8]) -> (usize, Option<io::Error>) {
    let room = poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if !room || octets.len() > libc::PIPE_BUF {
        return (0, None);
    }
    let mut count = 0;
    while let Some(rest) = octets.get(count..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return (count, Some(ErrorKind::WriteZero.into())),
            Ok(written) => count += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (count, None),
            Err(error) => return (count, Some(error)),
        }
    }
    (count, None)
}

/// Writes up to `PIPE_BUF` octets if that cannot block. Returns whether all of them were written.
pub fn write_if_room(to: impl Write + AsFd, octets: &[u8]) -> bool {
    write_part(to, octets).0 == octets.len()
}

/// RFC 3339, UTC, with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
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
        let mut pipe = File::from(write);
        let line = [b'x'; 4096];
        let written = (0..1000).take_while(|_| write_if_room(&mut pipe, &line)).count();
        assert!((1..1000).contains(&written));
        assert!(!write_if_room(&mut pipe, &[b'x'; 4097]));
    }

    #[test]
    fn a_file_is_added_to_and_fields_stand_beside_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let mut events = Events::new(Some((open_log(&path).unwrap(), path.clone())));
        events.say_with("crash", "worker 7 died", serde_json::json!({ "worker_pid": 7 }));
        events.say("stop", "asked to end");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let crash: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (lines.len(), lines[0], &crash["worker_pid"], &crash["event"]),
            (3, "before", &7.into(), &"crash".into())
        );
        assert!(open_log(&dir.path().join("none/log")).unwrap_err().contains("none/log"));
    }

    #[test]
    fn what_does_not_fit_is_counted_for_ever_and_told_once() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut events = Events::new(Some((File::from(write), PathBuf::new())));
        (0..1000).for_each(|_| events.say("stop", "x".repeat(600)));
        let lost = events.lost_ever();
        assert!(lost > 0);
        io::copy(&mut io::Read::take(File::from(read.try_clone().unwrap()), 60_000), &mut io::sink()).unwrap();
        events.say("stop", "again");
        assert_eq!((events.lost, events.lost_ever()), (0, lost));
    }

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next_one_and_each_loss_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut events = Events::new(Some((open_log(&path).unwrap(), path.clone())));
        events.say("stop", "whole");
        // As a full disk leaves it: the file ends in a part of a line, and no write succeeds.
        std::fs::write(&path, "{\"time\":\"20").unwrap();
        (events.torn, events.lost, events.lost_ever) = (true, 1, 1);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = events.file.replace((full, "/dev/full".into()));
        (0..3).for_each(|_| events.say("stop", "lost"));
        assert!(events.torn && events.failing);
        assert_eq!((events.lost, events.lost_ever), (4, 4));
        events.file = file;
        events.say("stop", "again");
        events.say("stop", "and again");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Option<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!((&lines[0], &lines[1].as_ref().unwrap()["events_lost"]), (&None, &4.into()), "{text}");
        assert!(lines[2].as_ref().is_some_and(|line| line.get("events_lost").is_none()), "{text}");
        assert!(!events.torn && !events.failing);
    }

    #[test]
    fn a_part_of_a_line_leaves_it_torn() {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        // A sink that takes 10 octets of each line and refuses the rest, and later takes all but the newline.
        struct Tight(File, usize);
        impl AsFd for Tight {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }
        impl Write for Tight {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                let count = octets.len().min(self.1);
                self.1 -= count;
                if count == 0 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(count) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (count, error) = write_part(Tight(File::from(write), 10), &[b'x'; 100]);
        assert_eq!((count, error.unwrap().raw_os_error()), (10, Some(libc::ENOSPC)));
        drop(read);
    }

    const FORMS: [&str; 5] = ["(", "_with(", "_of(", "_of_with(", "_of_port("];

    /// Names of the events that the source writes: the first string after each call of `say` and the other forms.
    fn names(dir: &Path, names: &mut std::collections::BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self::names(&path, names);
            } else if path != Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry/event.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let calls = text.split(".say").skip(1).filter(|rest| FORMS.iter().any(|form| rest.starts_with(form)));
                names.extend(calls.filter_map(|rest| rest.split('"').nth(1)).map(str::to_string));
            }
        }
    }

    #[test]
    fn the_document_has_a_row_and_an_example_of_every_event() {
        let mut said = std::collections::BTreeSet::new();
        names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut said);
        let document = include_str!("../../../docs/operate/events.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let rows: Vec<String> = rows.map(str::to_string).collect();
        let examples = document.lines().filter(|line| line.starts_with('{'));
        let examples: Vec<Value> = examples.map(|line| serde_json::from_str(line).unwrap()).collect();
        for name in &said {
            assert!(rows.contains(name), "docs/operate/events.md has no row of the event {name}");
            assert!(
                examples.iter().any(|line| line["event"] == **name),
                "docs/operate/events.md has no example of {name}"
            );
        }
        for line in &examples {
            assert!(said.contains(line["event"].as_str().unwrap()), "no code writes {line}");
            assert!(line["time"].is_string() && line["message"].is_string(), "{line}");
        }
    }
}
