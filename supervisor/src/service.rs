//! The service manager that has started this process, if one has (sd_notify(3)).
//!
//! It is told when clients are served, that the switch ends, and, as long as the loop turns, that it does
//! (`WatchdogSec=`). Each message is a datagram to a socket
//! that is connected before this process confines itself; nothing is read, and nothing waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::ancillary;
use crate::fd_inventory::OpenFile;

/// The manager.
#[derive(Default)]
pub struct Service {
    socket: Option<OwnedFd>,
    watchdog: Option<Watchdog>,
}

struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Service {
    /// The manager that the environment names. The error is for people.
    pub fn of_environment() -> Result<Service, String> {
        let Ok(place) = std::env::var("NOTIFY_SOCKET") else { return Ok(Service::default()) };
        let socket = dial(&place).map_err(|error| format!("the service manager cannot be told at {place}: {error}"))?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        // Twice as often as it asks for, as sd_watchdog_enabled(3) advises.
        let every = number("WATCHDOG_USEC").filter(|us| is_ours && *us > 1).map(|us| Duration::from_micros(us / 2));
        let watchdog = every.map(|every| Watchdog { every, next: Instant::now() + every });
        Ok(Service { socket: Some(socket), watchdog })
    }

    /// Clients are served.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The switch ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// When the loop must turn at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|dog| dog.next)
    }

    /// The loop turns.
    pub fn turns(&mut self, now: Instant) {
        if let Some(dog) = self.watchdog.as_mut().filter(|dog| dog.next <= now) {
            dog.next = now + dog.every;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // If it does not hear this, it is about to end, or takes the switch for hung, which is for it to decide.
            let _ = ancillary::send(socket, message.as_bytes());
        }
    }

    /// Its file.
    pub fn file(&self) -> Option<OpenFile<'_>> {
        self.socket.as_ref().map(|socket| OpenFile::borrowed(socket.as_fd(), "socket", "the service manager"))
    }
}

/// A socket that is connected to the manager's: a path, or a name of the abstract namespace behind an `@`.
fn dial(place: &str) -> io::Result<OwnedFd> {
    let address = match place.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(place)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_manager_hears_what_it_is_told_and_the_watchdog_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("notify");
        let manager = UnixDatagram::bind(&place).unwrap();
        let every = Duration::from_secs(10);
        let start = Instant::now();
        let watchdog = Some(Watchdog { every, next: start + every });
        let mut service = Service { socket: Some(dial(place.to_str().unwrap()).unwrap()), watchdog };
        service.ready("clients are served");
        service.turns(start);
        service.turns(start + every);
        assert_eq!(service.due(), Some(start + every * 2));
        service.stopping();
        let heard = || {
            let mut octets = [0; 200];
            let count = manager.recv(&mut octets).unwrap();
            String::from_utf8_lossy(&octets[..count]).into_owned()
        };
        let told = [heard(), heard(), heard()];
        assert_eq!(told, ["READY=1\nSTATUS=clients are served", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn without_a_manager_nothing_is_told() {
        let service = Service::default();
        service.ready("");
        assert!(service.due().is_none() && service.file().is_none());
        assert!(dial("/nonexistent/notify").is_err());
    }
}
