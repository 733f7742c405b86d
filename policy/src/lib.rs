//! The syscalls that each process of sv3 may make.
//!
//! The seccomp rules are data (`ROLE.json`, with a `why` for each rule). The build compiles them. A [`Policy`] is the
//! program and the table of its rules ([`rule`]). [`steps`] has the other steps of confinement, which all processes
//! share; each process's own `confine.rs` selects and orders them. [`prove`] shows that the kernel enforces all of
//! them.
//!
//! The policies are written for x86_64. For another architecture the build fails.

pub mod prove;
pub mod rule;
pub mod steps;

use rule::{Limit, Rule, Test, Width};
use seccompiler::{BpfProgram, sock_filter};

include!(concat!(env!("OUT_DIR"), "/policies.rs"));

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    role: &'static str,
    debug: bool,
    unknown: Verdict,
    mismatch: Verdict,
    rules: &'static [Rule],
    /// Instructions: code, jt, jf, k.
    program: &'static [(u16, u8, u8, u32)],
}

/// What the kernel does with a syscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Makes it.
    Allow,
    /// Does not make it. The process's handler for SIGSYS notes the number and ends the process.
    Trap,
    /// Does not make it, and ends the process by SIGSYS.
    Kill,
}

/// What a worker may have beside vrings. Each role has what those before it have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerRole {
    /// Nothing.
    #[default]
    Plain,
    /// Ports of files.
    Files,
    /// A card that reads guests' memory.
    Cards,
}

impl WorkerRole {
    /// All, the one that may do least first.
    pub const ALL: [WorkerRole; 3] = [WorkerRole::Plain, WorkerRole::Files, WorkerRole::Cards];

    /// How a worker is told that it has the role. `None`: it is told nothing.
    pub fn option(self) -> Option<&'static std::ffi::CStr> {
        match self {
            WorkerRole::Plain => None,
            WorkerRole::Files => Some(c"--files"),
            WorkerRole::Cards => Some(c"--cards"),
        }
    }

    /// The role that an option of a worker names.
    pub fn of_option(word: &str) -> Option<WorkerRole> {
        let is_named = |role: &WorkerRole| role.option().is_some_and(|option| option.to_bytes() == word.as_bytes());
        WorkerRole::ALL.into_iter().find(is_named)
    }
}

/// The worker's policy in this build: its steady state, installed before its first command.
pub fn worker(role: WorkerRole) -> &'static Policy {
    match (role, cfg!(debug_assertions)) {
        (WorkerRole::Plain, false) => &WORKER,
        (WorkerRole::Plain, true) => &WORKER_DEBUG,
        (WorkerRole::Files, false) => &WORKER_FILES,
        (WorkerRole::Files, true) => &WORKER_FILES_DEBUG,
        (WorkerRole::Cards, false) => &WORKER_CARDS,
        (WorkerRole::Cards, true) => &WORKER_CARDS_DEBUG,
    }
}

/// The supervisor's policy in this build: its steady state, installed before its first client.
pub fn supervisor() -> &'static Policy {
    if cfg!(debug_assertions) { &SUPERVISOR_DEBUG } else { &SUPERVISOR }
}

/// The policy in this build of the process of `sv3 web` that speaks with browsers: installed before the first one.
pub fn web() -> &'static Policy {
    if cfg!(debug_assertions) { &WEB_DEBUG } else { &WEB }
}

/// The policy in this build of the process of `sv3 web` that asks the switch: installed before the first question.
pub fn web_asker() -> &'static Policy {
    if cfg!(debug_assertions) { &WEB_ASKER_DEBUG } else { &WEB_ASKER }
}

/// The policies of all processes in release and in debug builds.
pub fn all() -> [&'static Policy; 12] {
    [
        &WORKER,
        &WORKER_DEBUG,
        &WORKER_FILES,
        &WORKER_FILES_DEBUG,
        &WORKER_CARDS,
        &WORKER_CARDS_DEBUG,
        &SUPERVISOR,
        &SUPERVISOR_DEBUG,
        &WEB,
        &WEB_DEBUG,
        &WEB_ASKER,
        &WEB_ASKER_DEBUG,
    ]
}

impl Policy {
    /// The process that the policy is for: `supervisor`, `worker`, `worker-files` for a worker that may have ports of
    /// files, or `worker-cards` for one that may also have a card that reads guests' memory; `web` and `web-asker` for the
    /// two of `sv3 web`.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// Whether it is the policy of debug builds.
    pub fn is_debug(&self) -> bool {
        self.debug
    }

    /// The rules, in the file's order.
    pub fn rules(&self) -> &'static [Rule] {
        self.rules
    }

    /// Whether the rules allow a syscall.
    pub fn allows(&self, number: i32, args: &[u64; 6]) -> bool {
        syscall_name(number)
            .is_some_and(|name| self.rules.iter().any(|rule| rule.syscall == name && rule.matches(args)))
    }

    /// The verdict by the rules. The compiled program must give the same answer.
    pub fn verdict(&self, number: i32, args: &[u64; 6]) -> Verdict {
        match self.allows(number, args) {
            true => Verdict::Allow,
            false if number as u32 > LAST_SYSCALL => self.unknown,
            false => self.mismatch,
        }
    }

    /// The program for the kernel.
    pub fn program(&self) -> BpfProgram {
        self.program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect()
    }

    /// A number that distinguishes programs (FNV-1a of the instructions). It does not protect against somebody who
    /// makes a second program with the same number on purpose.
    pub fn digest(&self) -> u32 {
        let octets = self.program.iter().flat_map(|&(code, jt, jf, k)| {
            let [a, b] = code.to_le_bytes();
            let [c, d, e, f] = k.to_le_bytes();
            [a, b, jt, jf, c, d, e, f]
        });
        octets.fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
    }
}

/// The name of an x86_64 syscall, for events.
pub fn syscall_name(number: i32) -> Option<&'static str> {
    SYSCALLS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// The number of an x86_64 syscall.
pub fn syscall_number(name: &str) -> Option<i32> {
    SYSCALLS.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
}

/// The highest number that the kernel's table has.
pub fn last_syscall() -> i32 {
    LAST_SYSCALL as i32
}
