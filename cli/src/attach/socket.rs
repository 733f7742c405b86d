//! Connects unix sockets.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Connects to a stream socket.
pub fn stream(path: &Path) -> Result<OwnedFd, String> {
    UnixStream::connect(path).map(OwnedFd::from).map_err(|error| explain(path, &error))
}

/// Connects to a SOCK_SEQPACKET socket.
pub fn seqpacket(path: &Path) -> Result<OwnedFd, String> {
    let at = |errno: nix::errno::Errno| explain(path, &errno.into());
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(at)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(at)?).map_err(at)?;
    Ok(fd)
}

/// Binds a SOCK_DGRAM socket and connects it.
pub fn dgram(local: &Path, peer: &Path) -> Result<OwnedFd, String> {
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
        assert!(dgram(&other, &folder.path().join("p")).unwrap_err().contains("exists"));
    }
}
