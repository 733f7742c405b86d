//! Connects unix sockets.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// How long the other side may take to accept connections that wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to a stream socket.
pub fn stream(path: &Path) -> Result<OwnedFd, String> {
    connected(path, SockType::Stream, PATIENCE)
}

/// Connects to a SOCK_SEQPACKET socket.
pub fn seqpacket(path: &Path) -> Result<OwnedFd, String> {
    connected(path, SockType::SeqPacket, PATIENCE)
}

fn connected(path: &Path, kind: SockType, patience: Duration) -> Result<OwnedFd, String> {
    let at = |errno: Errno| explain(path, &errno.into());
    let address = UnixAddr::new(path).map_err(at)?;
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).map_err(at)?;
    let until = Instant::now() + patience;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(fd),
            // Too many others wait to be accepted.
            Err(Errno::EAGAIN) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            Err(Errno::EAGAIN) => return Err(format!("{} accepts no connection: it may be busy", path.display())),
            Err(errno) => return Err(at(errno)),
        }
    }
}

/// Binds a SOCK_DGRAM socket and connects it.
pub fn dgram(local: &Path, peer: &Path) -> Result<OwnedFd, String> {
    if is_left_over(local) {
        std::fs::remove_file(local).map_err(|error| format!("{}: {error}", local.display()))?;
    }
    let socket = UnixDatagram::bind(local).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => format!("{} exists: remove it, or choose another path", local.display()),
        _ => format!("{}: {error}", local.display()),
    })?;
    socket.connect(peer).map_err(|error| {
        let _ = std::fs::remove_file(local);
        explain(peer, &error)
    })?;
    Ok(socket.into())
}

/// Whether it is a datagram socket that nobody has any more, as a port leaves it when it ends.
fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    is_socket && UnixDatagram::unbound().and_then(|socket| socket.connect(path)).is_err_and(refused)
}

fn explain(path: &Path, error: &std::io::Error) -> String {
    let shown = path.display();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ECONNREFUSED) => format!("nobody listens at {shown}: start the other side first"),
        Some(libc::EPROTOTYPE) => format!("{shown} is a socket of another type: try stream, seqpacket or dgram"),
        _ => format!("{shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_problem_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("s"), folder.path().join("d"));
        assert!(stream(&path).unwrap_err().contains("start the other side first"));
        let _listener = UnixListener::bind(&path).unwrap();
        stream(&path).unwrap();
        assert!(seqpacket(&path).unwrap_err().contains("another type"));
        assert!(dgram(&other, &path).unwrap_err().contains("another type"));
        assert!(!other.exists());
        let _peer = UnixDatagram::bind(folder.path().join("p")).unwrap();
        dgram(&other, &folder.path().join("p")).unwrap();
        assert!(is_left_over(&other), "its owner is gone");
        let held = dgram(&other, &folder.path().join("p")).unwrap();
        assert!(dgram(&other, &folder.path().join("p")).unwrap_err().contains("exists"));
        drop(held);
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(dgram(&file, &folder.path().join("p")).unwrap_err().contains("exists"));
    }

    #[test]
    fn a_peer_that_accepts_nobody_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _waits = stream(&path).unwrap();
        let refused = connected(&path, SockType::Stream, Duration::from_millis(60)).unwrap_err();
        assert!(refused.contains("accepts no connection"), "{refused}");
    }
}
