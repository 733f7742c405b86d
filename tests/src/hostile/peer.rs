//! The back-end's process, as seen from outside.

use std::fs;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// A process that listens at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id; 0 if it is not in a pid namespace that we see.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub program: String,
    /// When it started, in clock ticks since boot: the kernel reuses process ids.
    start: Option<u64>,
}

/// Open fds and memory of a process; 0 for what cannot be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Open fds.
    pub fds: Option<u64>,
    /// Private memory, in octets.
    pub memory: Option<u64>,
}

impl Peer {
    /// The process that listens where this connection was made.
    pub fn of(stream: &UnixStream) -> Peer {
        let pid = getsockopt(stream, PeerCredentials).map_or(0, |credentials| credentials.pid());
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Peer { pid, program: name.trim().to_string(), start: stat(pid).map(|(_, start)| start) }
    }

    /// Whether it is known to have ended.
    pub fn is_gone(&self) -> bool {
        match (stat(self.pid), self.start) {
            (Some((state, start)), Some(before)) => matches!(state, 'Z' | 'X') || start != before,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// Its open fds and memory now.
    pub fn holdings(&self) -> Holdings {
        if self.start.is_none() {
            return Holdings::default();
        }
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok().map(|entries| entries.count() as u64);
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Holdings { fds, memory: kib.map(|kib| kib * 1024) }
    }
}

/// State and start of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets; the third is the state, the 22nd the start.
    let (_, behind) = text.rsplit_once(") ")?;
    let state = behind.chars().next()?;
    Some((state, behind.split(' ').nth(19)?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen_though_its_number_remains() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        let peer = Peer { pid, program: String::new(), start: stat(pid).map(|(_, start)| start) };
        assert!(!peer.is_gone());
        assert!(peer.holdings().fds.is_some_and(|fds| fds >= 3));
        child.kill().unwrap();
        // Not waited for: it is a zombie.
        while !peer.is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(peer.is_gone());
        assert!(!Peer { start: None, ..peer }.is_gone(), "one that was never seen");
    }
}
