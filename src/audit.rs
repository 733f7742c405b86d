//! The supervisor's part of `sv3 audit`, and the output of `sv3 audit --json`. See docs/operate/audit.md. Later
//! versions only add fields.

use serde::{Deserialize, Serialize};

/// What the supervisor reports of its processes: the answer to the request `audit` on the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Testimony {
    /// The supervisor first, then the workers.
    pub processes: Vec<Witness>,
    /// Process id of the spawner.
    pub spawner_pid: u32,
    /// Process ids of the closers.
    #[serde(default)]
    pub undertaker_pids: Vec<u32>,
}

/// What the supervisor reports of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Witness {
    /// `supervisor`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Landlock ABI that it achieved.
    pub landlock_abi: u32,
    /// Digest of the seccomp policy that it installed, eight hexadecimal digits.
    pub policy: String,
    /// How many threads it has.
    pub threads: usize,
    /// Its open fds.
    pub fds: Vec<Fd>,
}

/// One open fd, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd {
    /// Its number. Absent where the process that reports it does not know it.
    pub fd: Option<i32>,
    /// `socket`, `eventfd`, `eventpoll`, `signalfd`, `pipe`, `memory`, `null`, `file`, `inherited`.
    pub kind: String,
    /// What it is for.
    #[serde(rename = "for")]
    pub purpose: String,
}

/// What `sv3 audit --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// sv3's version.
    pub version: String,
    /// The live processes.
    pub processes: Vec<Process>,
    /// What children under the same confinement tried.
    pub proofs: Vec<Proof>,
    /// All that differs from the declarations, in words. Empty: nothing differs.
    pub differences: Vec<String>,
}

/// A live process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `supervisor`, `spawner`, `undertaker`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// What is known of it.
    pub facts: Vec<Fact>,
    /// Its open fds, as the supervisor reports them. None for the spawner, of which nobody reports them.
    pub fds: Vec<Fd>,
}

/// One thing that is known of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Name of the fact.
    pub fact: String,
    /// What it should be. Absent: nothing is declared.
    pub declared: Option<String>,
    /// What it is.
    pub observed: String,
    /// The source: `kernel`, `supervisor`, or `worker`. A worker reported it before it met its first guest.
    pub source: String,
    /// Whether it is as declared.
    pub agrees: bool,
}

/// What children under one process's confinement tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// `supervisor` or `worker`.
    pub role: String,
    /// The binary that was run with `--prove`.
    pub binary: String,
    /// Digest of its seccomp policy.
    pub policy: String,
    /// Landlock ABI that it achieved.
    pub landlock_abi: u32,
    /// Number of trials.
    pub trials: u32,
    /// The outcome of the trials, in groups.
    pub outcomes: Vec<Outcome>,
}

/// Trials of one group with the same declared and observed outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The group. For an attempt: the attempt itself.
    pub tried: String,
    /// How many trials.
    pub count: u32,
    /// What should come of them.
    pub declared: String,
    /// What came of them.
    pub observed: String,
    /// Whether both are the same.
    pub agrees: bool,
}
