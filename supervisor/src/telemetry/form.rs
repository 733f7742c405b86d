//! In which form events are written, and which of them.
//!
//! Programs read a line of JSON each, people at a terminal a sentence, and systemd's journal its own datagrams, which have
//! fields (systemd, "Native Journal Protocol"). A datagram to the journal is one event: it is written whole or not at all.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use serde_json::Value;

/// The journal's socket.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// How severe an event is; the numbers are those of syslog (RFC 5424, 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something died or failed.
    Error = 3,
    /// Something is wrong or was refused, and the switch goes on.
    Warning = 4,
    /// The switch itself begins, changes or ends.
    Notice = 5,
    /// What clients and operators do in ordinary life.
    Info = 6,
}

impl Level {
    /// The level of an event.
    pub fn of(event: &str) -> Level {
        match event {
            "crash" | "policy_violation" | "handover_failed" | "rollback" => Level::Error,
            "few_files" | "no_landlock" | "refuse" | "no_memory" | "file_fault" | "zero_copy" | "card_fault"
            | "address_conflict" | "address_flaps" | "loop" | "role" | "ring_fault" | "command_failed" | "backoff"
            | "standby_lost" | "standby_lacks" | "blame" | "quarantine" | "client_class" | "stuck_close" | "worker" => {
                Level::Warning
            }
            "attach" | "detach" | "migration" | "capture" | "capture_end" | "mirror" | "mirror_end" => Level::Info,
            _ => Level::Notice,
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Notice => "notice",
            Level::Info => "info",
        }
    }
}

/// How much is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors only.
    Quiet,
    /// Every event.
    #[default]
    Usual,
    /// Every event, and in text its fields too.
    Verbose,
}

impl Verbosity {
    /// Whether an event is written.
    pub fn takes(self, event: &str) -> bool {
        self != Verbosity::Quiet || Level::of(event) <= Level::Warning
    }
}

/// The form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A line of JSON.
    #[default]
    Json,
    /// A line for people.
    Text,
    /// A datagram for systemd's journal.
    Journal,
}

/// What `--log-format` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Text if stderr is a terminal, the journal's form if stderr leads there, else JSON.
    #[default]
    Auto,
    /// This form.
    Form(Form),
}

impl Wanted {
    /// Reads a value of `--log-format`.
    pub fn parse(text: &str) -> Result<Wanted, String> {
        Ok(match text {
            "auto" => Wanted::Auto,
            "json" => Wanted::Form(Form::Json),
            "text" => Wanted::Form(Form::Text),
            "journal" => Wanted::Form(Form::Journal),
            _ => return Err("is none of auto, json, text, journal".to_string()),
        })
    }

    /// The form, and the journal's socket if it is the journal's. `to_file`: events go to a file. Must be called before
    /// confinement.
    pub fn settle(self, to_file: bool) -> Result<(Form, Option<File>), String> {
        match self {
            Wanted::Auto if to_file => Ok((Form::Json, None)),
            Wanted::Auto if io::stderr().is_terminal() => Ok((Form::Text, None)),
            Wanted::Auto if leads_to_journal() => {
                Ok(journal().map_or((Form::Json, None), |socket| (Form::Journal, Some(socket))))
            }
            Wanted::Auto => Ok((Form::Json, None)),
            Wanted::Form(Form::Journal) if to_file => {
                Err("--log-format journal writes to the journal, and --log to a file: leave one of them out"
                    .to_string())
            }
            Wanted::Form(Form::Journal) => match journal() {
                Ok(socket) => Ok((Form::Journal, Some(socket))),
                Err(error) => {
                    Err(format!("the journal at {JOURNAL} cannot be reached: {error}; choose another --log-format"))
                }
            },
            Wanted::Form(form) => Ok((form, None)),
        }
    }
}

/// Whether stderr is the journal's stream: systemd says which file that is (systemd.exec(5), `$JOURNAL_STREAM`).
fn leads_to_journal() -> bool {
    let Ok(stat) = nix::sys::stat::fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn journal() -> io::Result<File> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(JOURNAL)?;
    socket.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(socket)))
}

/// The event as text for people, without a newline. `line` is its JSON.
pub fn text(line: &Value, verbosity: Verbosity) -> String {
    let word = |field: &str| line.get(field).and_then(Value::as_str).unwrap_or_default();
    let event = word("event");
    // Of 2026-11-21T12:15:28.001Z the seconds of a day.
    let time = word("time").get(11..19).unwrap_or_default();
    let mut out = format!("{time}Z ");
    match Level::of(event) {
        Level::Error => out.push_str("error: "),
        Level::Warning => out.push_str("warning: "),
        Level::Notice | Level::Info => {}
    }
    escape(&mut out, word("message"));
    if let Some(lost) = line.get("events_lost") {
        let _ = write!(out, " ({lost} events before this one were lost)");
    }
    if verbosity == Verbosity::Verbose {
        let _ = write!(out, "  [{event}");
        let told = ["time", "event", "level", "message", "events_lost"];
        for (name, value) in line.as_object().into_iter().flatten().filter(|(name, _)| !told.contains(&name.as_str())) {
            let _ = write!(out, " {name}=");
            escape(&mut out, &plain(value));
        }
        out.push(']');
    }
    out
}

/// The event as a datagram for the journal. `line` is its JSON.
pub fn datagram(line: &Value) -> Vec<u8> {
    let event = line.get("event").and_then(Value::as_str).unwrap_or_default();
    let mut out = Vec::new();
    field(&mut out, "PRIORITY", &(Level::of(event) as u8).to_string());
    field(&mut out, "SYSLOG_IDENTIFIER", "sv3");
    for (name, value) in line.as_object().into_iter().flatten() {
        match name.as_str() {
            // The journal has its own.
            "time" | "level" => {}
            "message" => field(&mut out, "MESSAGE", &plain(value)),
            name => field(&mut out, &format!("SV3_{}", name.to_ascii_uppercase()), &plain(value)),
        }
    }
    out
}

/// A field of a datagram. A value with a newline has its length in front.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend(name.as_bytes());
    match value.contains('\n') {
        true => {
            out.push(b'\n');
            out.extend((value.len() as u64).to_le_bytes());
        }
        false => out.push(b'='),
    }
    out.extend(value.as_bytes());
    out.push(b'\n');
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// Adds text of which nothing moves a terminal's cursor or changes the direction of what follows (Unicode TR 9).
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c.is_control() || turns {
            true => _ = write!(out, "\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal() -> Value {
        json!({
            "time": "2026-11-21T12:15:28.001Z", "event": "refuse", "level": "warning", "port": "p0", "client_pid": 7,
            "message": "p0: no\u{1b}[2J\nway\u{202e}", "events_lost": 3,
        })
    }

    #[test]
    fn people_read_a_sentence_that_moves_no_cursor() {
        let line = text(&refusal(), Verbosity::Usual);
        assert_eq!(line, "12:15:28Z warning: p0: no\\u001b[2J\\u000away\\u202e (3 events before this one were lost)");
        let line = text(&refusal(), Verbosity::Verbose);
        assert!(line.ends_with("[refuse client_pid=7 port=p0]"), "{line}");
        let line = text(&json!({ "time": "x", "event": "attach", "message": "p0: connected" }), Verbosity::Usual);
        assert_eq!(line, "Z p0: connected");
    }

    #[test]
    fn the_journal_gets_fields_and_a_newline_ends_none() {
        let octets = datagram(&refusal());
        let message = "p0: no\u{1b}[2J\nway\u{202e}";
        let whole = String::from_utf8_lossy(&octets).into_owned();
        for part in
            ["PRIORITY=4\n", "SYSLOG_IDENTIFIER=sv3\n", "SV3_EVENT=refuse\n", "SV3_PORT=p0\n", "SV3_CLIENT_PID=7\n"]
        {
            assert!(whole.contains(part), "{part} in {whole}");
        }
        let length = (message.len() as u64).to_le_bytes();
        let wanted = [b"MESSAGE\n".as_slice(), &length, message.as_bytes(), b"\n"].concat();
        assert!(octets.windows(wanted.len()).any(|part| part == wanted), "{whole}");
        assert!(!whole.contains("TIME") && !whole.contains("LEVEL"));
    }

    #[test]
    fn a_quiet_log_has_what_is_wrong() {
        for (event, taken) in
            [("crash", true), ("refuse", true), ("start", false), ("attach", false), ("restart", false)]
        {
            assert_eq!(Verbosity::Quiet.takes(event), taken, "{event}");
            assert!(Verbosity::Usual.takes(event) && Verbosity::Verbose.takes(event));
        }
    }

    #[test]
    fn the_form_is_what_was_asked_for() {
        for (word, form) in [("json", Form::Json), ("text", Form::Text)] {
            assert_eq!(Wanted::parse(word).unwrap().settle(true).unwrap().0, form);
        }
        assert_eq!(Wanted::Auto.settle(true).unwrap().0, Form::Json);
        assert!(Wanted::parse("journal").unwrap().settle(true).unwrap_err().contains("--log"));
        assert!(Wanted::parse("xml").unwrap_err().contains("auto, json, text, journal"));
    }

    #[test]
    fn the_document_has_every_level_of_every_event() {
        let document = include_str!("../../../docs/operate/events.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let mut counted = 0;
        for (level, events) in rows.filter(|(name, _)| ["error", "warning", "info"].contains(name)) {
            for event in events.split('`').skip(1).step_by(2) {
                assert_eq!(Level::of(event).name(), level, "{event}");
                counted += 1;
            }
        }
        assert_eq!(counted, 32, "those of no row are notices");
    }
}
