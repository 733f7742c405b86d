//! What people and programs read: events as they happen, the log of crashes, status, and metrics.

pub mod crash_log;
pub mod event;
pub mod metrics;
pub mod status;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use serde_json::json;
use sv3::status::{Crash, Status, SupervisorStatus};

use crate::fd_inventory::OpenFile;
use crate::workers::death;
use crash_log::CrashLog;
use event::Events;

/// Fewer ports than this are worth a word at the start.
const PORTS_FEW: usize = 64;

/// What is told, and what is remembered to be told when somebody asks.
pub struct Telemetry {
    /// Events.
    pub events: Events,
    /// How workers died.
    pub crash_log: CrashLog,
    /// When the supervisor started.
    pub started: Instant,
    /// Landlock ABI that the supervisor achieved.
    pub landlock_abi: u32,
    /// For stdout, when clients can be served.
    announcement: Option<String>,
}

impl Telemetry {
    /// Events go to this file, or else to stderr.
    pub fn new(log: Option<(File, PathBuf)>, announcement: String) -> Telemetry {
        Telemetry {
            events: Events::new(log),
            crash_log: CrashLog::default(),
            started: Instant::now(),
            landlock_abi: 0,
            announcement: Some(announcement),
        }
    }

    /// The supervisor has started, with so much of landlock, and a limit of open files that is good for so many ports.
    pub fn say_start(&mut self, landlock_abi: u32, (files, ports): (usize, usize)) {
        self.landlock_abi = landlock_abi;
        let pid = std::process::id();
        let fields = json!({ "pid": pid, "landlock_abi": landlock_abi });
        self.events.say_with("start", format!("supervisor {pid} started, landlock ABI {landlock_abi}"), fields);
        if ports < PORTS_FEW {
            let message = format!(
                "{files} open files are good for some {ports} ports: raise the hard limit (`ulimit -Hn`, LimitNOFILE= \
                 of a unit)"
            );
            self.events.say_with("few_files", message, json!({ "files": files, "ports": ports }));
        }
    }

    /// Clients can be served: tells so on stdout. Who waits for the event that follows finds the text there.
    pub fn announce(&mut self) {
        if let Some(text) = self.announcement.take() {
            event::write_if_room(io::stdout(), text.as_bytes());
        }
    }

    /// The event of a crash.
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

    /// The log was asked for once more, and is here, or will not come.
    pub fn take_log(&mut self, log: Result<File, Errno>) {
        let message = match log {
            Ok(file) => {
                self.events.replace_log(file);
                "the log was opened anew, after SIGHUP".to_string()
            }
            Err(errno) => format!("the log cannot be opened anew, and goes on in the old file: {}", errno.desc()),
        };
        self.events.say("log", message);
    }

    /// What status tells of this process.
    pub fn status(&self) -> SupervisorStatus {
        SupervisorStatus {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            landlock_abi: self.landlock_abi,
        }
    }

    /// The switch in numbers.
    pub fn metrics(&self, status: &Status) -> String {
        metrics::render(status, &self.crash_log, self.events.lost_ever())
    }

    /// The files that it owns.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        self.events.log().into_iter().map(|log| OpenFile::borrowed(log, "file", "events, by --log"))
    }
}
