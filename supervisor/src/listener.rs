//! A listening Unix socket with a name in the file system: how it comes there and how it goes.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{Backlog, getsockopt, listen, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sv3::foreign::ForeignFd;

/// How long nobody is let in when that failed, mostly for want of fds.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Most callers that wait to be let in; who comes then waits in connect(2).
const QUEUE: i32 = 128;

/// The socket. Only its owner may connect (mode 0600).
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

/// A connection and whose it is.
pub struct Peer {
    /// A stream socket that does not block. Its last close closes the files that are under way in it as well.
    pub stream: ForeignFd,
    /// Process that connected; 0 if it is in a pid namespace that we do not see.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Who comes to the door.
pub enum Caller {
    /// A client.
    Peer(Peer),
    /// One that had to be turned away.
    TurnedAway(io::Error),
    /// Somebody may be there and cannot be let in now, since the kernel is short of something. It is to be tried again
    /// after [`PAUSE`].
    Later(io::Error),
    /// Nobody.
    Nobody,
}

impl Listener {
    /// Binds and listens. A stale socket at `path` is replaced if `force`, a live one never.
    pub fn bind(path: &Path, force: bool) -> Result<Listener, String> {
        let fail = |error: io::Error| format!("cannot listen at {}: {error}", path.display());
        let listener = match bind_private(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                check_stale(path)?;
                if !force {
                    return Err(format!(
                        "{} is a socket that nobody listens at any more; --force replaces it",
                        path.display()
                    ));
                }
                fs::remove_file(path).map_err(fail)?;
                bind_private(path).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        listener.set_nonblocking(true).map_err(fail)?;
        // As long as the queue is, so long may one wait behind others who come and go without pause.
        listen(&listener, Backlog::new(QUEUE).map_err(|errno| fail(errno.into()))?)
            .map_err(|errno| fail(errno.into()))?;
        let inode = inode(path).map_err(fail)?;
        Ok(Listener { listener, path: path.to_path_buf(), inode })
    }

    /// The next connection.
    pub fn accept(&mut self) -> Caller {
        match self.listener.accept() {
            Ok((stream, _)) => match peer(stream) {
                Ok(peer) => Caller::Peer(peer),
                Err(error) => Caller::TurnedAway(error),
            },
            // One who left while waiting (ECONNABORTED) is nobody; there may be others behind.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                Caller::Nobody
            }
            Err(error) => Caller::Later(error),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the name, if it is still ours.
    pub fn remove(&self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The name appears with its final mode: there is no moment at which others may connect.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Which file it is. By the same syscall whatever the C library is; the policy has no other.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn peer(stream: UnixStream) -> io::Result<Peer> {
    let flagged = stream.set_nonblocking(true);
    let stream = ForeignFd::from(OwnedFd::from(stream));
    flagged?;
    let credentials = getsockopt(&stream, PeerCredentials)?;
    Ok(Peer { stream, pid: credentials.pid(), uid: credentials.uid() })
}

/// Errs if something else than a dead socket is at `path`.
fn check_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let meta = fs::symlink_metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    if !meta.file_type().is_socket() {
        return Err(format!("{shown} exists and is not a socket; choose another path"));
    }
    let probe = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    match probe() {
        Err(rustix::io::Errno::CONNREFUSED) => Ok(()),
        Ok(socket) => {
            let owner = getsockopt(&socket, PeerCredentials).map_or(0, |credentials| credentials.pid());
            Err(format!("{shown} is in use by process {owner}; stop that, or choose another path"))
        }
        Err(error) => Err(format!("{shown} is in use (connecting to it says: {error}); choose another path")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_live_socket_is_refused_with_its_owner_and_a_stale_one_replaced_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = Listener::bind(&path, false).unwrap();
        let owner = format!("in use by process {}", std::process::id());
        assert!(Listener::bind(&path, true).err().unwrap().contains(&owner));
        drop(live);
        assert!(Listener::bind(&path, false).err().unwrap().contains("--force"));
        let replaced = Listener::bind(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        replaced.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&path, true).err().unwrap().contains("not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_name_that_is_no_longer_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::bind(&path, false).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path, false).unwrap();
        first.remove();
        assert!(path.exists());
    }

    #[test]
    fn callers_are_known_by_their_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = Listener::bind(&path, false).unwrap();
        assert!(matches!(listener.accept(), Caller::Nobody));
        let _client = UnixStream::connect(&path).unwrap();
        let Caller::Peer(peer) = listener.accept() else { panic!("nobody") };
        assert_eq!(peer.pid, std::process::id() as i32);
    }
}
