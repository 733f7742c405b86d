//! What a probe has found, and the report of all findings. Its JSON is stable: fields are only ever added.

use serde::Serialize;

/// Version of the report's form.
const SCHEMA: u32 = 1;

/// What findings are about.
pub const TOPICS: [&str; 20] = [
    "kernel",
    "landlock",
    "seccomp",
    "files",
    "locked_memory",
    "memory",
    "places",
    "processors",
    "qemu",
    "kvm",
    "guest",
    "tap",
    "uplink",
    "namespaces",
    "vfio",
    "switch",
    "worker",
    "port",
    "drops",
    "declared",
];

/// The report.
#[derive(Serialize)]
pub struct Report {
    /// Version of the form of this report.
    schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// The control socket that was asked.
    pub socket: String,
    /// A switch answered there.
    pub running: bool,
    /// What is to be done first, the cheapest first; then what is as it should be.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report of these findings, in order.
    pub fn new(socket: String, running: bool, mut findings: Vec<Finding>) -> Report {
        // Among equals the order of the probes stays.
        findings.sort_by_key(|finding| {
            let cost = finding.remedy.as_ref().map_or(usize::MAX, |remedy| remedy.cost as usize);
            (cost, finding.state != State::Fault)
        });
        Report { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), socket, running, findings }
    }
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, or of no account.
    Good,
    /// It works, and could be better.
    Advice,
    /// It stops sv3 or a guest.
    Fault,
}

/// What a remedy costs, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// A command; no guest notices.
    Command,
    /// The switch is started with other options; with `--take-over` no guest notices.
    Switch,
    /// One guest is started again.
    Guest,
    /// The administrator of this machine changes a setting or installs something.
    Host,
    /// This machine is started again, with another kernel or another firmware setting.
    Reboot,
}

impl Cost {
    /// All, the cheapest first.
    #[cfg(test)]
    pub const ALL: [Cost; 5] = [Cost::Command, Cost::Switch, Cost::Guest, Cost::Host, Cost::Reboot];

    /// As in JSON.
    #[cfg(test)]
    pub fn name(self) -> &'static str {
        match self {
            Cost::Command => "command",
            Cost::Switch => "switch",
            Cost::Guest => "guest",
            Cost::Host => "host",
            Cost::Reboot => "reboot",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Cost::Command => "a command; no guest notices",
            Cost::Switch => "the switch starts with other options; with --take-over no guest notices",
            Cost::Guest => "one guest starts again",
            Cost::Host => "root changes a setting of this machine or installs something",
            Cost::Reboot => "this machine starts again",
        }
    }
}

/// What to do.
#[derive(Debug, Serialize)]
pub struct Remedy {
    /// What it costs.
    pub cost: Cost,
    /// What to do, in words; the wording may change.
    #[serde(rename = "do")]
    pub act: String,
}

/// One finding.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What it is about, one of [`TOPICS`].
    pub topic: &'static str,
    /// Name of the port that it is about; absent if it is about none.
    pub port: Option<String>,
    /// How it is.
    pub state: State,
    /// What was found, in words; the wording may change.
    pub message: String,
    /// What to do; absent if there is nothing to do.
    pub remedy: Option<Remedy>,
}

impl Finding {
    fn new(topic: &'static str, state: State, message: impl Into<String>) -> Finding {
        debug_assert!(TOPICS.contains(&topic), "{topic}");
        Finding { topic, port: None, state, message: message.into(), remedy: None }
    }

    /// It is as it should be.
    pub fn good(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(topic, State::Good, message)
    }

    /// It works, and could be better.
    pub fn advice(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(topic, State::Advice, message)
    }

    /// It stops sv3 or a guest.
    pub fn fault(topic: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(topic, State::Fault, message)
    }

    /// It is about this port.
    pub fn of(mut self, port: &str) -> Finding {
        self.port = Some(port.to_string());
        self
    }

    /// What to do about it.
    pub fn to(mut self, cost: Cost, act: impl Into<String>) -> Finding {
        self.remedy = Some(Remedy { cost, act: act.into() });
        self
    }
}
