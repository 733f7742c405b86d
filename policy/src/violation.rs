//! A process that breaks its policy names the syscall on stderr, then dies by SIGSYS.
//!
//! The default action of the policies is `trap`, for with `kill_process` only the kernel's audit log would know which
//! syscall it was, and nobody unprivileged may read that. The worker does not use this: its crash handler writes the
//! number into the ledger, and the supervisor reports it. The supervisor has nobody above it, so it speaks itself.
#![allow(unsafe_code)] // a signal handler

use std::io::Write;
use std::os::fd::BorrowedFd;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Installs the handler; before the policy, which permits no such thing.
pub fn report_on_stderr() -> Result<(), String> {
    let action = SigAction::new(SigHandler::SigAction(on_violation), SaFlags::SA_SIGINFO, SigSet::all());
    // SAFETY: `on_violation` is async-signal-safe: it formats numbers and names into a buffer of its own and calls
    // nothing but write(2) and abort(3).
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop).map_err(|e| format!("SIGSYS handler: {e}"))
}

extern "C" fn on_violation(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted context to an SA_SIGINFO handler.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    // Seccomp leaves the number where the syscall had it.
    let number = context.uc_mcontext.gregs.get(libc::REG_RAX as usize).map_or(-1, |rax| *rax as i32);
    let mut line = [0; 256];
    let used = describe(&mut line, number);
    // SAFETY: 2 is stderr; that it may be closed only loses the line.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let _ = nix::unistd::write(stderr, line.get(..used).unwrap_or(&[]));
    // Makes syscalls that no policy permits. Now that SIGSYS is blocked, being trapped again ends the process, by SIGSYS.
    std::process::abort();
}

/// The event's line, in the form of the supervisor's other events; returns its length.
fn describe(line: &mut [u8], number: i32) -> usize {
    let space = line.len();
    let mut rest = line;
    let name = crate::syscall_name(number).unwrap_or("unknown");
    let _ = writeln!(
        rest,
        "{{\"event\":\"violation\",\"syscall\":\"{name}\",\"message\":\"this process made the syscall {name} ({number}), \
         which its policy forbids, and ends; please report this\"}}"
    );
    space - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_whole_for_the_longest_name_and_an_unknown_number() {
        let longest = crate::SYSCALLS.iter().max_by_key(|(_, name)| name.len()).unwrap();
        for (number, name) in [*longest, (0x4000_0000, "unknown")] {
            let mut line = [0; 256];
            let used = describe(&mut line, number);
            let json: serde_json::Value = serde_json::from_slice(&line[..used]).unwrap();
            assert_eq!(json["syscall"], name);
        }
    }
}
