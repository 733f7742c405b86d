//! What each process of sv3 may ask of the kernel.
//!
//! The seccomp rules are data (`ROLE.json`, a `why` for each rule), compiled when the crate is built; [`Policy`] is the
//! program and the table of its rules ([`rule`]). The other steps by which a process confines itself, alike for all,
//! are [`steps`]; which of them a process takes, and in what order, is its own `confine.rs`. A process that breaks its
//! policy says so by [`violation`].
//!
//! The policies are written for x86_64; for another architecture the build fails.

pub mod rule;
pub mod steps;
pub mod violation;

use rule::{Limit, Rule, Test, Width};
use seccompiler::{BpfProgram, sock_filter};

include!(concat!(env!("OUT_DIR"), "/policies.rs"));

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    role: &'static str,
    rules: &'static [Rule],
    /// Instructions: code, jt, jf, k.
    program: &'static [(u16, u8, u8, u32)],
}

/// The worker's policy: its steady state, installed before its first command.
pub fn worker() -> &'static Policy {
    &WORKER
}

/// The supervisor's policy: its steady state, installed before its first client.
pub fn supervisor() -> &'static Policy {
    &SUPERVISOR
}

impl Policy {
    /// Whose policy it is.
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// The rules, in the file's order.
    pub fn rules(&self) -> &'static [Rule] {
        self.rules
    }

    /// Whether the rules allow a syscall; what the compiled program must answer as well.
    pub fn allows(&self, number: i32, args: &[u64; 6]) -> bool {
        syscall_name(number)
            .is_some_and(|name| self.rules.iter().any(|rule| rule.syscall == name && rule.matches(args)))
    }

    /// The program for the kernel.
    pub fn program(&self) -> BpfProgram {
        self.program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect()
    }
}

/// The name of an x86_64 syscall, for events.
pub fn syscall_name(number: i32) -> Option<&'static str> {
    SYSCALLS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}
