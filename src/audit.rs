//! What the supervisor testifies for `sv3 audit`, and what `sv3 audit --json` prints. See docs/operate/audit.md; fields
//! are only ever added.

use serde::{Deserialize, Serialize};

/// What the supervisor tells of its processes; the answer to the request `audit` on the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// The supervisor first, then the workers.
    pub processes: Vec<ProcessInventory>,
    /// Process id of the spawner.
    pub spawner_pid: u32,
    /// Process ids of the closers.
    #[serde(default)]
    pub closer_pids: Vec<u32>,
}

/// What is told of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessInventory {
    /// `supervisor`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Landlock ABI that it achieved.
    pub landlock_abi: u32,
    /// Digest of the seccomp policy that it put on, eight hexadecimal digits.
    pub policy: String,
    /// How many threads it has.
    pub threads: usize,
    /// Its open fds.
    pub fds: Vec<Fd>,
}

/// One open fd, or several of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd {
    /// Its number; absent where who tells does not know it.
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
    /// All that is not as declared, in words; empty: all is.
    pub differences: Vec<String>,
}

/// A live process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `supervisor`, `spawner`, `closer`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// What is known of it.
    pub facts: Vec<Fact>,
    /// Its open fds, as the supervisor tells; not of the spawner, which nobody tells of.
    pub fds: Vec<Fd>,
}

/// One thing that is known of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What.
    pub fact: String,
    /// What it should be; absent: it is as it is.
    pub declared: Option<String>,
    /// What it is.
    pub observed: String,
    /// Who says so: `kernel`, `supervisor`, or `worker`, which said so before it met its first guest.
    pub source: String,
    /// It is what it should be.
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
    /// Their outcome, in groups.
    pub outcomes: Vec<Outcome>,
}

/// Trials of one group that should end alike and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The group; for a deed, the deed.
    pub tried: String,
    /// How many.
    pub count: u32,
    /// What should come of them.
    pub declared: String,
    /// What came of them.
    pub observed: String,
    /// That is the same.
    pub agrees: bool,
}
