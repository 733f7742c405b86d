//! The signals that the supervisor reads from a signalfd, and what each of them means.
//!
//! All signals that end a process by default and can be blocked are among them, so that none ends the supervisor and
//! leaves its sockets behind. (SIGKILL, the supervisor's own faults, and real-time signals still do; nobody sends the
//! last by accident.) A signal that was ignored at the start, as `nohup` ignores SIGHUP, stays ignored.

use nix::sys::signal::{SigSet, Signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reap children: some have ended.
    Reap,
    /// End the switch in order.
    End,
    /// Open the log anew; if there is no log, end the switch.
    Reopen,
    /// Do nothing.
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

/// The signals to block before the spawner is cloned, and to read.
pub fn taken() -> SigSet {
    // The signalfd returns a blocked signal even if the signal is ignored.
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
        // From the kernel: the terminal is closed. From a process: mostly a program that has renamed the log.
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
