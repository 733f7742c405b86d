//! The supervisor's part of `sv3 audit`, and what `sv3 audit --json` prints. See docs/operate/audit.md. Fields are only
//! ever added.

use serde::{Deserialize, Serialize};

/// The supervisor's list of its processes: the answer to the request `audit` at the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// The supervisor first, then the workers.
    pub processes: Vec<ProcessInventory>,
    /// Process id of the spawner.
    pub spawner_pid: u32,
    /// Process ids of the closers.
    #[serde(default)]
    pub closer_pids: Vec<u32>,
    /// Network cards, and what each may reach.
    #[serde(default)]
    pub cards: Vec<CardReach>,
}

/// What a network card may reach by DMA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardReach {
    /// The port's name.
    pub port: String,
    /// The card's address on the PCI bus.
    pub address: String,
    /// The ranges of addresses that its memory is mapped at (IOVA): first address, and octets. It is the memory of the
    /// card itself, in a file that no client has.
    pub iova: Vec<(u64, u64)>,
    /// Whether the card may reach them at the moment (bus master).
    pub bus_master: bool,
    /// Range of addresses in which guests' memory is mapped, to be read only; absent if it is not.
    #[serde(default)]
    pub guests: Option<(u64, u64)>,
    /// Which process mapped the card's own memory: the one that attached the card, by its id and its user.
    pub mapped_by: (i32, u32),
}

/// One process, as the supervisor lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessInventory {
    /// `supervisor`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Landlock ABI that it achieved.
    pub landlock_abi: u32,
    /// Digest of its seccomp policy, eight hexadecimal digits.
    pub policy: String,
    /// Number of its threads.
    pub threads: usize,
    /// Whether it is a worker that may use the files of ports: its policy has more syscalls.
    #[serde(default)]
    pub files: bool,
    /// The same, and it may pin guests' memory for a card.
    #[serde(default)]
    pub cards: bool,
    /// Its open fds.
    pub fds: Vec<Fd>,
}

/// One open fd, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd {
    /// Its number; absent if the supervisor does not know it.
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
    /// Trials by children under the same confinement.
    pub proofs: Vec<Proof>,
    /// Network cards, and what each may reach.
    #[serde(default)]
    pub cards: Vec<CardReach>,
    /// All differences from what is declared, in words.
    pub differences: Vec<String>,
}

/// A live process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `supervisor`, `spawner`, `closer`, `worker` or `standby`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Facts about it.
    pub facts: Vec<Fact>,
    /// Its open fds, as the supervisor lists them; none of the spawner and the closers.
    pub fds: Vec<Fd>,
}

/// One fact about a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Name of the fact.
    pub fact: String,
    /// The declared value; absent: any value is right.
    pub declared: Option<String>,
    /// The observed value.
    pub observed: String,
    /// The source: `kernel`, `supervisor`, or `worker`, which reported it before its first guest.
    pub source: String,
    /// The observed value is as declared.
    pub agrees: bool,
}

/// Trials by children under one process's confinement.
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
    /// Their outcomes, in groups.
    pub outcomes: Vec<Outcome>,
}

/// Trials of one group with the same declared and the same observed outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The group, or the attempt.
    pub tried: String,
    /// Number of trials.
    pub count: u32,
    /// The declared outcome.
    pub declared: String,
    /// The observed outcome.
    pub observed: String,
    /// The observed outcome is as declared.
    pub agrees: bool,
}
