//! Which signals the supervisor takes from a signalfd, and what each of them means.
//!
//! All that end a process by default and can be blocked are among them: none may be a death that leaves sockets
//! behind. (Faults of its own and SIGKILL are; so are real-time signals, which nobody sends by accident.) What
//! whoever started it had made ignored, as `nohup` does with SIGHUP, stays ignored.

use nix::sys::signal::{SigSet, Signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Children have ended.
    Reap,
    /// The end, in order.
    End,
    /// The log is to be opened anew, where there is one; otherwise the end.
    Reopen,
    /// Nothing.
    Nothing,
}

const ALL: [Signal; 16] = [
    Signal::SIGCHLD,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGXCPU,
    Signal::SIGPWR,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPIPE,
    Signal::SIGSTKFLT,
    Signal::SIGXFSZ,
];

/// The signals to block, before the spawner is cloned, and to read.
pub fn taken() -> SigSet {
    // A signal that is blocked comes by the signalfd although it is ignored.
    let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
    let is_ignored = |signal: &Signal| ignored >> (*signal as i32 - 1) & 1 == 1;
    ALL.into_iter().filter(|signal| *signal == Signal::SIGCHLD || !is_ignored(signal)).collect()
}

/// The set of ignored signals in a `/proc/PID/status`.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// What a signal asks for; `code` says who sent it (`si_code`).
pub fn action(signal: Signal, code: i32) -> Action {
    match signal {
        Signal::SIGCHLD => Action::Reap,
        // By the kernel: the terminal is gone. By somebody: mostly a program that has renamed the log.
        Signal::SIGHUP if code != libc::SI_KERNEL => Action::Reopen,
        Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGXCPU | Signal::SIGPWR => {
            Action::End
        }
        _ => Action::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_is_read_from_the_kernels_words() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("nothing of the kind"), 0);
    }

    #[test]
    fn a_closed_terminal_is_the_end_and_a_hang_up_of_a_person_is_for_the_log() {
        assert_eq!(action(Signal::SIGHUP, libc::SI_KERNEL), Action::End);
        assert_eq!(action(Signal::SIGHUP, libc::SI_USER), Action::Reopen);
        assert_eq!(action(Signal::SIGTERM, libc::SI_USER), Action::End);
        assert_eq!(action(Signal::SIGUSR1, libc::SI_USER), Action::Nothing);
        assert!(taken().contains(Signal::SIGCHLD));
    }
}
