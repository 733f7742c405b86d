//! Listening sockets that a service manager passed (socket activation): which door each of them is, by where it is bound.
//!
//! Doors of declared ports are among them. `sv3 run` has found these by itself and declares the ports with them, so here
//! they are only known to be the manager's ([`PassedSockets::of_ports`]).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sv3::foreign::ForeignFd;
use sv3::passed::Passed;

use super::http::Http;
use super::listener::Listener;

/// The sockets, each until it is taken.
#[derive(Default)]
pub struct PassedSockets {
    named: Vec<(PathBuf, OwnedFd)>,
    others: Vec<OwnedFd>,
}

impl PassedSockets {
    /// Looks where each one is bound.
    pub fn new(passed: Vec<Passed>) -> PassedSockets {
        let mut sockets = PassedSockets::default();
        for Passed { fd, .. } in passed {
            match Listener::place_of(&fd) {
                Some(path) => sockets.named.push((path, fd)),
                None => sockets.others.push(fd),
            }
        }
        sockets
    }

    /// The door at a path, if its socket was passed. `serves_all`: whoever its permissions let in is a client.
    pub fn take(&mut self, path: &Path, serves_all: bool) -> Option<Result<Listener, String>> {
        let at = self.named.iter().position(|(place, _)| place == path)?;
        let (_, socket) = self.named.swap_remove(at);
        Some(Listener::passed(ForeignFd::from(socket).prompt(), path, serves_all))
    }

    /// The socket for metrics at an address, if it was passed.
    pub fn take_http(&mut self, address: SocketAddr) -> Option<Http> {
        let http = |fd: &OwnedFd| Http::inherited(&ForeignFd::from(fd.try_clone().ok()?).prompt()).ok();
        let is_it = |fd: &OwnedFd| http(fd).filter(|http| http.address() == address);
        let (at, http) = self.others.iter().enumerate().find_map(|(at, fd)| Some((at, is_it(fd)?)))?;
        self.others.swap_remove(at);
        Some(http)
    }

    /// Where the rest is bound, all of it in this folder of declared ports' doors. The error is for people.
    pub fn of_ports(self, folder: &Path) -> Result<Vec<PathBuf>, String> {
        let what = |what: &str| {
            format!(
                "the service manager passes {what}, where this switch has no door: ListenStream= of its socket unit \
                 must be the path of --socket, --control, --stream, or a declared port's, or the address of --metrics"
            )
        };
        if !self.others.is_empty() {
            return Err(what("a socket that is no Unix socket"));
        }
        let paths: Vec<PathBuf> = self.named.into_iter().map(|(path, _)| path).collect();
        match paths.iter().find(|path| path.parent() != Some(folder)) {
            Some(path) => Err(what(&path.display().to_string())),
            None => Ok(paths),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn passed(fd: impl Into<OwnedFd>) -> Passed {
        Passed { name: "sv3.socket".to_string(), fd: fd.into() }
    }

    #[test]
    fn a_socket_is_the_door_at_its_path_and_one_without_a_door_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let bind = |name: &str| passed(UnixListener::bind(at(name)).unwrap());
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = metrics.local_addr().unwrap();
        let mut sockets = PassedSockets::new(vec![bind("front"), bind("port"), passed(metrics), bind("control")]);
        assert!(sockets.take(&at("elsewhere"), true).is_none());
        let front = sockets.take(&at("front"), true).unwrap().unwrap();
        front.remove();
        assert!(at("front").exists(), "the service manager keeps the name");
        assert!(sockets.take(&at("control"), false).unwrap().is_ok());
        assert!(sockets.take_http("127.0.0.1:1".parse().unwrap()).is_none());
        assert_eq!(sockets.take_http(address).unwrap().address(), address);
        assert_eq!(sockets.of_ports(folder.path()), Ok(vec![at("port")]));
        let stranger = PassedSockets::new(vec![bind("stranger")]);
        assert!(stranger.of_ports(&at("ports")).unwrap_err().contains("stranger, where this switch has no door"));
    }

    #[test]
    fn what_does_not_listen_is_no_door() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let mut sockets = PassedSockets::new(vec![passed(datagrams)]);
        let told = sockets.take(&path, true).unwrap().err().unwrap();
        assert!(told.contains("no stream socket that listens"), "{told}");
    }
}
