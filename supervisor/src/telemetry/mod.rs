//! What people and programs read: events as they happen, the log of crashes, status, and metrics.

pub mod crash_log;
pub mod event;
pub mod form;
pub mod groups;
pub mod metrics;
pub mod status;

use std::fs::File;
use std::io;
use std::time::Instant;

use nix::errno::Errno;
use serde_json::json;
use sv3::status::{Crash, Status, SupervisorStatus};

use crate::estate::Clock;
use crate::estate::record::TelemetryRecord;
use crate::fd_inventory::OpenFile;
use crate::workers::death;
use crash_log::CrashLog;
use event::Events;

/// If fewer ports than this fit, the event `few_files` says so at the start.
const PORTS_FEW: usize = 64;

/// The event log, the crash log, and the supervisor's own part of status.
pub struct Telemetry {
    /// Events.
    pub events: Events,
    /// How workers died.
    pub crash_log: CrashLog,
    /// When the supervisor started.
    pub started: Instant,
    /// Landlock ABI that the supervisor achieved.
    pub landlock_abi: u32,
    /// The text for stdout when clients can be served.
    announcement: Option<String>,
}

impl Telemetry {
    /// Telemetry with this event log. The announcement is written when clients can be served.
    pub fn new(events: Events, announcement: Option<String>) -> Telemetry {
        Telemetry { events, crash_log: CrashLog::default(), started: Instant::now(), landlock_abi: 0, announcement }
    }

    /// What the next supervisor must know.
    pub fn record(&self, clock: Clock, (restarts, last_death): (u64, Option<String>)) -> TelemetryRecord {
        TelemetryRecord {
            started: clock.number(self.started),
            events_lost: self.events.lost_ever(),
            restarts,
            last_death,
            crash_log: self.crash_log.record(clock),
        }
    }

    /// Goes on where the last supervisor was. Returns how many workers were replaced, and why the last one died.
    pub fn restore(&mut self, record: TelemetryRecord, clock: Clock) -> (u64, Option<String>) {
        self.started = clock.time(record.started).min(self.started);
        self.events.add_lost(record.events_lost);
        self.crash_log.restore(record.crash_log, clock);
        (record.restarts, record.last_death)
    }

    /// Writes the event `start`, and `few_files` if the limit of open files is low.
    pub fn say_start(&mut self, landlock_abi: u32, (files, ports): (usize, usize)) {
        self.landlock_abi = landlock_abi;
        let pid = std::process::id();
        let fields = json!({ "pid": pid, "landlock_abi": landlock_abi });
        self.events.say_with("start", format!("supervisor {pid} started, landlock ABI {landlock_abi}"), fields);
        if landlock_abi == 0 {
            let message = "this kernel gives no landlock: the switch is confined by seccomp alone (`sv3 doctor` says what \
                           helps, and --require-landlock refuses to run so)";
            self.events.say("no_landlock", message);
        }
        if ports < PORTS_FEW {
            let message = format!(
                "{files} open files are enough for some {ports} ports: raise the hard limit (`ulimit -Hn`, \
                 LimitNOFILE= of a unit)"
            );
            self.events.say_with("few_files", message, json!({ "files": files, "ports": ports }));
        }
    }

    /// Writes to stdout that clients can be served. The event `listen` follows later, so a reader that waits for the
    /// event finds this text.
    pub fn announce(&mut self) {
        if let Some(text) = self.announcement.take() {
            event::write_if_room(io::stdout(), text.as_bytes());
        }
    }

    /// Writes the event of a crash.
    pub fn say_crash(&mut self, crash: &Crash) {
        if let Some(syscall) = &crash.syscall {
            let subject = death::subject(crash);
            let message = format!("{subject} made the syscall {syscall}, which its policy forbids");
            let fields = json!({ "worker_pid": crash.worker_pid, "syscall": syscall });
            self.events.say_with("policy_violation", message, fields);
        }
        let (message, fields) = death::event(crash);
        self.events.say_with("crash", message, fields);
    }

    /// The spawner has opened the log anew, or could not.
    pub fn take_log(&mut self, log: Result<File, Errno>) {
        let message = match log {
            Ok(file) => {
                self.events.replace_log(file);
                "the log was opened anew, after SIGHUP".to_string()
            }
            Err(errno) => format!("the log cannot be opened anew; events go to the old file: {}", errno.desc()),
        };
        self.events.say("log", message);
    }

    /// The supervisor's part of status.
    pub fn status(&self) -> SupervisorStatus {
        SupervisorStatus {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            landlock_abi: self.landlock_abi,
        }
    }

    /// The metrics as text.
    pub fn metrics(&self, status: &Status) -> String {
        metrics::render(status, &self.crash_log, self.events.lost_ever())
    }

    /// The files that telemetry owns.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let (kind, purpose) = match self.events.is_journal() {
            true => ("socket", "events, to the journal"),
            false => ("file", "events, by --log"),
        };
        self.events.log().into_iter().map(move |log| OpenFile::borrowed(log, kind, purpose))
    }
}
