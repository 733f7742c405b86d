//! A listening Unix socket with a name in the file system: how it is made and removed.
//!
//! A socket that a dead switch left behind is replaced only if no other user can have put it there or can put another
//! in its place: the socket belongs to this user, and only this user can write to its folder. Two switches that start
//! at once look and bind one after the other, because each holds a lock on the folder meanwhile. So the second switch
//! finds the first one's live socket, not the stale one.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{Backlog, getsockopt, listen, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, shutdown,
    socket_with, sockopt,
};
use sv3::foreign::ForeignFd;

/// After accept(2) has failed, mostly for lack of fds, no connection is accepted for this long.
pub const PAUSE: Duration = Duration::from_millis(100);

/// Most connections that wait to be accepted. Further clients wait in connect(2).
const QUEUE: i32 = 1024;

/// Most octets of a socket's path (unix(7): 108 with the 0 behind it).
const PATH_MAX: usize = 107;
/// How long another switch may take to bind its sockets in the same folder.
const LOCK_TIME: Duration = Duration::from_secs(2);

/// The socket. Only its owner may connect (mode 0600), unless an operator says otherwise ([`Listener::given`]).
pub struct Listener {
    listener: ForeignFd,
    path: PathBuf,
    inode: (u64, u64),
    owner: u32,
    /// Whoever the socket's permissions let in may connect.
    serves_all: bool,
    /// The service manager has it too, and keeps its name.
    is_lent: bool,
}

/// A connection, its process and its user.
#[derive(Debug)]
pub struct Peer {
    /// A non-blocking stream socket. Its last close also closes the files that are in flight in it. A stream client's is
    /// shared with the commands that give it to workers.
    pub stream: Rc<ForeignFd>,
    /// Process that connected; 0 if its pid namespace is not visible from here.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The connection is still another supervisor's: it goes on when this is dropped.
    pub is_lent: bool,
}

impl Peer {
    /// The peer of a non-blocking socket.
    pub fn of(stream: Rc<ForeignFd>) -> io::Result<Peer> {
        let credentials = getsockopt(&*stream, PeerCredentials)?;
        Ok(Peer { stream, pid: credentials.pid(), uid: credentials.uid(), is_lent: false })
    }
}

impl Peer {
    /// The socket was read to its end.
    pub fn has_ended(&mut self) {
        if let Some(stream) = Rc::get_mut(&mut self.stream) {
            stream.has_ended();
        }
    }
}

impl Drop for Peer {
    /// The peer hears at once that the connection is over: the close may wait behind other files that are closed slowly.
    fn drop(&mut self) {
        if !self.is_lent {
            let _ = shutdown(&*self.stream, Shutdown::Both);
        }
    }
}

/// The result of accepting one connection.
pub enum Incoming {
    /// A client.
    Peer(Peer),
    /// A client that had to be turned away, for this reason.
    TurnedAway(io::Error),
    /// A client that has closed its end already and sent nothing.
    Gone,
    /// A connection may wait, but the kernel is short of something. Try again after [`PAUSE`].
    Later(io::Error),
    /// No connection waits.
    Nobody,
}

impl Listener {
    /// Binds and listens. A live socket at `path` is never replaced. A stale one is replaced if that is safe, or if
    /// `force` is set.
    pub fn bind(path: &Path, force: bool) -> Result<Listener, String> {
        let fail = |error: io::Error| format!("cannot listen at {}: {}", path.display(), advice(path, &error));
        if path.as_os_str().len() > PATH_MAX {
            let octets = path.as_os_str().len();
            return Err(fail(io::Error::other(format!(
                "the path has {octets} octets, and a socket's path may have {PATH_MAX} at most"
            ))));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _lock = lock(folder)?;
        let listener = match bind_private(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                check_stale(path)?;
                if let (false, Err(why)) = (force, is_safe_to_replace(path, folder)) {
                    return Err(format!(
                        "{} is a socket at which no process listens, but {why}; remove it, or replace it by --force",
                        path.display()
                    ));
                }
                fs::remove_file(path).map_err(fail)?;
                bind_private(path).map_err(fail)?
            }
            other => other.map_err(fail)?,
        };
        listener.set_nonblocking(true).map_err(fail)?;
        // A longer queue would let a client wait longer behind others that connect and close without pause.
        listen(&listener, Backlog::new(QUEUE).map_err(|errno| fail(errno.into()))?)
            .map_err(|errno| fail(errno.into()))?;
        let inode = inode(path).map_err(fail)?;
        let owner = nix::unistd::geteuid().as_raw();
        let listener = OwnedFd::from(listener).into();
        Ok(Listener { listener, path: path.to_path_buf(), inode, owner, serves_all: false, is_lent: false })
    }

    /// The socket of a declared port, which somebody else has bound to this path: the operator's process, or the last
    /// supervisor. Who may connect is in the permissions of its name.
    pub fn given(socket: ForeignFd, path: &Path) -> Result<Listener, String> {
        let fail = |why: &str| format!("the socket of {}: {why}", path.display());
        if !listens(&socket) {
            return Err(fail("it is no stream socket that listens"));
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| fail(&io::Error::from(error).to_string()))?;
        let inode = inode(path).map_err(|error| fail(&error.to_string()))?;
        Ok(Listener { listener: socket, path: path.to_path_buf(), inode, owner: 0, serves_all: true, is_lent: false })
    }

    /// The same, whose name may have been removed.
    pub fn left(socket: ForeignFd, path: &Path) -> Result<Listener, String> {
        match inode(path) {
            Ok(_) => Listener::given(socket, path),
            Err(_) => {
                let path = path.to_path_buf();
                Ok(Listener { listener: socket, path, inode: (0, 0), owner: 0, serves_all: true, is_lent: false })
            }
        }
    }

    /// A socket that the service manager passed, bound to this path. The permissions of its name, which its unit sets,
    /// say who may connect; if it is not for all of these, then nobody but the switch's own user and root.
    pub fn passed(socket: ForeignFd, path: &Path, serves_all: bool) -> Result<Listener, String> {
        let listener = Listener::given(socket, path)?;
        // From now on, who connects finds this user at the other end (SO_PEERCRED), and not the service manager's.
        let again = Backlog::new(QUEUE).and_then(|queue| listen(&listener.listener, queue));
        again.map_err(|errno| format!("cannot listen at {}: {errno}", path.display()))?;
        Ok(Listener { owner: nix::unistd::geteuid().as_raw(), serves_all, is_lent: true, ..listener })
    }

    /// Where a listening stream socket is bound in the file system.
    pub fn place_of(socket: impl AsFd) -> Option<PathBuf> {
        let is_unix = sockopt::socket_domain(&socket).is_ok_and(|family| family == AddressFamily::UNIX);
        let listener = UnixListener::from(socket.as_fd().try_clone_to_owned().ok().filter(|_| is_unix)?);
        let address = listener.local_addr().ok()?;
        address.as_pathname().map(Path::to_path_buf)
    }

    /// The last supervisor had it, from the service manager or not. If so, its permissions say who may connect, unless
    /// it is for this user alone.
    pub fn of_last(self, is_lent: bool, serves_all: bool) -> Listener {
        Listener { is_lent, serves_all: self.serves_all || is_lent && serves_all, ..self }
    }

    /// The service manager keeps the name.
    pub fn lend(&mut self) {
        self.is_lent = true;
    }

    /// Whether the service manager keeps the name.
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// A listening socket that the last supervisor has bound to this path.
    pub fn inherited(socket: ForeignFd, path: &Path) -> Result<Listener, String> {
        let fail = |error: io::Error| format!("the socket of {}: {error}", path.display());
        let listener = UnixListener::from(socket.as_fd().try_clone_to_owned().map_err(fail)?);
        let address = listener.local_addr().map_err(fail)?;
        if address.as_pathname() != Some(path) {
            return Err(fail(io::Error::other("it is bound to another path")));
        }
        let inode = inode(path).map_err(fail)?;
        let (listener, owner) = (OwnedFd::from(listener).into(), nix::unistd::geteuid().as_raw());
        Ok(Listener { listener, path: path.to_path_buf(), inode, owner, serves_all: false, is_lent: false })
    }

    /// The user that may connect, besides root.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether a connection may be: of the switch's own user or of root, whatever the socket's mode is by now, or of
    /// anybody at the socket of a declared port. In a user
    /// namespace where this user's id is not mapped, other unmapped users look the same, and only the mode keeps them
    /// out.
    pub fn permits(&self, peer: &Peer) -> bool {
        self.serves_all || [0, self.owner].contains(&peer.uid)
    }

    /// The next connection.
    pub fn accept(&mut self) -> Incoming {
        match accept_with(&self.listener, SocketFlags::CLOEXEC).map_err(io::Error::from) {
            Ok(stream) => match peer(stream.into()) {
                Ok(mut peer) if self.permits(&peer) && has_left(&peer.stream) => {
                    peer.has_ended();
                    Incoming::Gone
                }
                Ok(peer) => Incoming::Peer(peer),
                Err(error) => Incoming::TurnedAway(error),
            },
            // ECONNABORTED: the client closed while it waited. Others may wait behind it.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                Incoming::Nobody
            }
            Err(error) => Incoming::Later(error),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the name, if it still names this socket and is nobody else's to keep.
    pub fn remove(&self) {
        if !self.is_lent && inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn listens(socket: &ForeignFd) -> bool {
    let is_unix = sockopt::socket_domain(socket).is_ok_and(|family| family == AddressFamily::UNIX);
    let is_stream = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM);
    is_unix && is_stream && sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// Binds with mode 0600 from the beginning: at no moment may other users connect.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Device and inode. Uses the one syscall that the policy permits, whatever the C library would use.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::lstat(path)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Whether a client has closed its end and sent nothing. Then no file is in flight in the socket, and closing it never
/// waits.
fn has_left(stream: &ForeignFd) -> bool {
    let looked = rustix::net::recv(stream, &mut [0u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    looked.is_ok_and(|(count, _)| count == 0)
}

fn peer(stream: UnixStream) -> io::Result<Peer> {
    let flagged = stream.set_nonblocking(true);
    let stream = Rc::new(ForeignFd::from(OwnedFd::from(stream)));
    flagged?;
    Peer::of(stream)
}

/// An error, and what the user can do about it.
fn advice(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().unwrap_or(path).display();
    match error.kind() {
        ErrorKind::NotFound => format!("the folder {folder} does not exist; make it, or choose another folder"),
        ErrorKind::PermissionDenied => format!("this user may not write to {folder}; choose another folder"),
        _ => error.to_string(),
    }
}

/// Locks a folder, so that other switches do not bind in it until the lock is dropped. Returns no lock if the folder
/// cannot be opened: bind(2) will then say why.
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
                    "another process holds a lock on {folder} for too long; choose another folder for the sockets"
                ));
            }
            // The file system has no locks.
            Err(_) => return Ok(None),
        }
    }
}

/// Errs unless the stale socket belongs to this user, and only this user can write to its folder.
fn is_safe_to_replace(path: &Path, folder: &Path) -> Result<(), &'static str> {
    let me = nix::unistd::geteuid().as_raw();
    let (socket, folder) = match (fs::symlink_metadata(path), fs::metadata(folder)) {
        (Ok(socket), Ok(folder)) => (socket, folder),
        _ => return Err("its owner cannot be read"),
    };
    match (socket.uid() == me, [0, me].contains(&folder.uid()) && folder.mode() & 0o022 == 0) {
        (false, _) => Err("it belongs to another user"),
        (true, false) => Err("other users may write to its folder"),
        (true, true) => Ok(()),
    }
}

/// Errs if something other than a stale socket is at `path`.
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
            Err(format!("{shown} is in use by process {owner}; stop that process, or choose another path"))
        }
        Err(error) => Err(format!("{shown} may be in use (connect: {error}); choose another path")),
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
        let Incoming::Peer(peer) = listener.accept() else { panic!("nobody came") };
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
        assert!(why.contains("--force") && why.contains("other users may write"), "{why}");
        drop(Listener::bind(&path, true).unwrap());
    }

    #[test]
    fn of_several_switches_at_one_stale_socket_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = dir.path().join(round.to_string());
            drop(Listener::bind(&path, true).unwrap());
            // It listens on, although this thread goes.
            let bind = || Listener::bind(&path, false).map(std::mem::forget).is_ok();
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(outcomes.iter().filter(|outcome| **outcome).count(), 1);
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
    fn connections_are_known_by_their_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut listener = Listener::bind(&path, false).unwrap();
        assert!(matches!(listener.accept(), Incoming::Nobody));
        let _client = UnixStream::connect(&path).unwrap();
        let Incoming::Peer(peer) = listener.accept() else { panic!("nobody") };
        assert_eq!(peer.pid, std::process::id() as i32);
    }
}
