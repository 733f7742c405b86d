//! A listening Unix socket with a name in the file system: how it comes there and how it goes.
//!
//! A socket that a dead switch left behind is replaced when nobody else can have put it there or take its place: it
//! is the user's own, in a folder that nobody else can write to. Two that start at once look and bind one after the
//! other, since each holds a lock on the folder meanwhile; so the second finds a live socket and not the one that the
//! first has found.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{Backlog, getsockopt, listen, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
};
use sv3::foreign::ForeignFd;

/// How long nobody is let in when that failed, mostly for want of fds.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Most callers that wait to be let in; who comes then waits in connect(2).
const QUEUE: i32 = 1024;

/// Most octets of a socket's path (unix(7): 108 with the 0 behind it).
const PATH_MAX: usize = 107;
/// How long another switch may take to bind its sockets in the same folder.
const LOCK_TIME: Duration = Duration::from_secs(2);

/// The socket. Only its owner may connect (mode 0600).
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    owner: u32,
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

impl Drop for Peer {
    /// The peer hears at once that the connection is over: the close may wait behind other files that are closed slowly.
    fn drop(&mut self) {
        let _ = shutdown(&self.stream, Shutdown::Both);
    }
}

/// ClientId comes to the door.
pub enum Caller {
    /// A client.
    Peer(Peer),
    /// One that had to be turned away.
    TurnedAway(io::Error),
    /// One that has closed its end already and left nothing.
    Gone,
    /// Somebody may be there and cannot be let in now, since the kernel is short of something. It is to be tried again
    /// after [`PAUSE`].
    Later(io::Error),
    /// Nobody.
    Nobody,
}

impl Listener {
    /// Binds and listens. A live socket at `path` is never replaced; a stale one is if that is safe, or if `force`.
    pub fn bind(path: &Path, force: bool) -> Result<Listener, String> {
        let fail = |error: io::Error| format!("cannot listen at {}: {}", path.display(), advice(path, &error));
        if path.as_os_str().len() > PATH_MAX {
            let octets = path.as_os_str().len();
            return Err(fail(io::Error::other(format!(
                "it has {octets} octets, and a socket's path {PATH_MAX} at most"
            ))));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _lock = lock(folder)?;
        let listener = match bind_private(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                check_stale(path)?;
                if let (false, Err(why)) = (force, is_safe_to_replace(path, folder)) {
                    return Err(format!(
                        "{} is a socket that nobody listens at any more; {why}, so only --force replaces it",
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
        let owner = nix::unistd::geteuid().as_raw();
        Ok(Listener { listener, path: path.to_path_buf(), inode, owner })
    }

    /// The user who may come in beside root.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether a caller is the switch's own user, or root, whatever the socket's mode has become. Where a user
    /// namespace makes strangers look like the user (whose own number is unmapped), the mode alone keeps them out.
    pub fn knows(&self, caller: &Peer) -> bool {
        [0, self.owner].contains(&caller.uid)
    }

    /// The next connection.
    pub fn accept(&mut self) -> Caller {
        match self.listener.accept() {
            Ok((stream, _)) => match peer(stream) {
                Ok(mut peer) if self.knows(&peer) && has_left(&peer.stream) => {
                    peer.stream.has_ended();
                    Caller::Gone
                }
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

/// Whether a caller has closed its end and left nothing behind. Then nothing is under way in the socket either, and
/// its close waits for nobody.
fn has_left(stream: &ForeignFd) -> bool {
    let looked = rustix::net::recv(stream, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    looked.is_ok_and(|(count, _)| count == 0)
}

fn peer(stream: UnixStream) -> io::Result<Peer> {
    let flagged = stream.set_nonblocking(true);
    let stream = ForeignFd::from(OwnedFd::from(stream));
    flagged?;
    let credentials = getsockopt(&stream, PeerCredentials)?;
    Ok(Peer { stream, pid: credentials.pid(), uid: credentials.uid() })
}

/// An error with what may be done about it.
fn advice(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().unwrap_or(path).display();
    match error.kind() {
        ErrorKind::NotFound => format!("the folder {folder} does not exist; make it, or choose another place"),
        ErrorKind::PermissionDenied => format!("this user may not write to {folder}; choose another place"),
        _ => error.to_string(),
    }
}

/// Keeps other switches from binding in a folder until it is dropped. Nothing where the folder cannot be opened: what
/// follows will say why.
fn lock(folder: &Path) -> Result<Option<Flock<File>>, String> {
    let open = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(folder);
    let Ok(mut file) = open else { return Ok(None) };
    let due = Instant::now() + LOCK_TIME;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((again, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < due => {
                file = again;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, Errno::EAGAIN)) => {
                let folder = folder.display();
                return Err(format!(
                    "somebody holds a lock on {folder} for long; choose another place for the sockets"
                ));
            }
            // A file system without locks.
            Err(_) => return Ok(None),
        }
    }
}

/// Whether a stale socket can be nobody's but our own, and its name nobody's but ours in a moment.
fn is_safe_to_replace(path: &Path, folder: &Path) -> Result<(), &'static str> {
    let me = nix::unistd::geteuid().as_raw();
    let (socket, folder) = match (fs::symlink_metadata(path), fs::metadata(folder)) {
        (Ok(socket), Ok(folder)) => (socket, folder),
        _ => return Err("it cannot be seen whose it is"),
    };
    match (socket.uid() == me, [0, me].contains(&folder.uid()) && folder.mode() & 0o022 == 0) {
        (false, _) => Err("it is another user's"),
        (true, false) => Err("others may write to its folder"),
        (true, true) => Ok(()),
    }
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
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_live_socket_is_refused_with_its_owner_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = Listener::bind(&path, false).unwrap();
        let owner = format!("in use by process {}", std::process::id());
        assert!(Listener::bind(&path, true).err().unwrap().contains(&owner));
        drop(live);
        let replaced = Listener::bind(&path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        replaced.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_connection_is_over_before_its_socket_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = Listener::bind(&path, false).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(b"x").unwrap();
        let Caller::Peer(peer) = listener.accept() else { panic!("nobody came") };
        let _open = peer.stream.as_fd().try_clone_to_owned().unwrap();
        drop(peer);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_stale_socket_in_a_folder_of_others_is_replaced_by_force_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(Listener::bind(&path, false).unwrap());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let why = Listener::bind(&path, false).err().unwrap();
        assert!(why.contains("--force") && why.contains("others may write"), "{why}");
        drop(Listener::bind(&path, true).unwrap());
    }

    #[test]
    fn of_those_who_find_a_stale_socket_at_once_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..20 {
            drop(Listener::bind(&path, true).unwrap());
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| Listener::bind(&path, false))).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_place_that_cannot_be_is_told_with_what_to_do() {
        let long = PathBuf::from("/tmp").join("x".repeat(120));
        assert!(Listener::bind(&long, false).err().unwrap().contains("107 at most"));
        let none = Listener::bind(Path::new("/nonexistent/folder/s"), false).err().unwrap();
        assert!(none.contains("/nonexistent/folder does not exist"), "{none}");
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
