//! What each process of sv3 may ask of the kernel.
//!
//! The seccomp rules are data (`ROLE.json`, a `why` for each rule), compiled when the crate is built; [`Policy`] is the
//! program and the table of its rules. The other steps by which a process confines itself, alike for all, are
//! [`steps`]; which of them a process takes, and in what order, is its own `confine.rs`.

pub mod steps;

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

/// One rule: a syscall is allowed when all limits hold. Of several rules for a syscall, one must hold.
#[derive(Debug)]
pub struct Rule {
    /// Name of the syscall.
    pub syscall: &'static str,
    /// Limits of its arguments, in words; none: any arguments.
    pub limits: &'static [&'static str],
    /// Who calls it and why.
    pub why: &'static str,
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

    /// The program for the kernel.
    pub fn program(&self) -> BpfProgram {
        self.program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect()
    }
}

/// The name of an x86_64 syscall, for events.
pub fn syscall_name(number: i32) -> Option<&'static str> {
    SYSCALLS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syscalls_have_the_kernels_names() {
        assert_eq!(syscall_name(libc::SYS_openat as i32), Some("openat"));
        assert_eq!(syscall_name(libc::SYS_execve as i32), Some("execve"));
        assert_eq!(syscall_name(-1), None);
    }

    #[test]
    fn policies_fit_the_kernel_and_say_why() {
        for policy in [worker(), supervisor()] {
            assert!((1..4096).contains(&policy.program().len()), "{}", policy.role());
            assert!(policy.rules().iter().all(|rule| rule.why.len() > 10));
        }
    }

    #[test]
    fn the_worker_gets_by_with_twelve_syscalls() {
        let mut names: Vec<_> = worker().rules().iter().map(|rule| rule.syscall).collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() <= 12, "{names:?}");
    }
}
