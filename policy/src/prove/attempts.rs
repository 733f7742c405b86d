//! What an intruder would try, with arguments that mean something.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::Subject;
use super::trial::{self, Declared, Entry, Layers, Trial};
use crate::Verdict;
use crate::steps::Achieved;

const FULL: &str = "attempts";
const LANDLOCK: &str = "the same under landlock alone";
const FAMILIES: &str = "sockets of every family";
/// Above the last address family that the kernel has.
const FAMILIES_END: u64 = 64;
const AT_CWD: u64 = libc::AT_FDCWD as u64;
const READ: u64 = libc::O_RDONLY as u64;
const CREATE: u64 = (libc::O_CREAT | libc::O_WRONLY) as u64;
const READ_EXECUTE: u64 = (libc::PROT_READ | libc::PROT_EXEC) as u64;

/// The objects of the attempts.
pub struct Targets {
    folder: PathBuf,
    memory: OwnedFd,
    tcp: OwnedFd,
    unix: OwnedFd,
    server: TcpListener,
    abstract_name: String,
    _abstract_server: UnixListener,
    /// A process of the same user outside of the confinement.
    outsider: Pid,
}

/// An attempt: name, syscall, arguments, and how landlock answers it, since which ABI.
struct Attempt {
    what: String,
    number: i64,
    args: [u64; 6],
    under_landlock: Option<(u32, Declared)>,
}

impl Targets {
    /// Makes the targets.
    pub fn new() -> Result<Targets, String> {
        let words = |e: std::io::Error| format!("cannot prepare the trials: {e}");
        let folder = std::env::temp_dir().join(format!("sv3-prove-{}", std::process::id()));
        fs::create_dir(&folder).map_err(words)?;
        let make = || -> std::io::Result<Targets> {
            let memory = memfd_create(c"sv3-prove", MFdFlags::MFD_ALLOW_SEALING)?;
            File::from(memory.try_clone()?).set_len(4096)?;
            let (tcp, unix) = (stream(AddressFamily::Inet)?, stream(AddressFamily::Unix)?);
            let abstract_name = format!("sv3-prove-{}", std::process::id());
            let _abstract_server = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&abstract_name)?)?;
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let outsider = outsider()?;
            let folder = folder.clone();
            Ok(Targets { folder, memory, tcp, unix, server, abstract_name, _abstract_server, outsider })
        };
        make().map_err(words)
    }

    /// The trials.
    pub fn trials(&self, subject: &Subject<'_>, achieved: Achieved) -> impl Iterator<Item = Trial> {
        let policy = subject.policy;
        let removable = subject.removable.map(Path::to_path_buf);
        let (mut full, mut alone) = (Vec::new(), Vec::new());
        for Attempt { what, number, args, under_landlock } in self.attempts(removable.as_deref(), subject.live) {
            let (entry, verdict) = (Entry::Native, policy.verdict(number as i32, &args));
            let by_landlock = under_landlock.filter(|(since, _)| *since <= achieved.landlock_abi).map(|(_, by)| by);
            // Landlock answers what seccomp allows, in full confinement as well.
            let declared = match (verdict, by_landlock) {
                (Verdict::Allow, Some(by)) => by,
                _ => Declared::Verdict(verdict),
            };
            let what_again = what.clone();
            full.push(Trial { group: FULL, what, layers: Layers::All, entry, number, args, declared });
            if let Some(declared) = by_landlock {
                let (what, layers) = (what_again, Layers::ButSeccomp);
                alone.push(Trial { group: LANDLOCK, what, layers, entry, number, args, declared });
            }
        }
        let families = (0..FAMILIES_END).flat_map(move |family| {
            [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW].map(|kind| {
                let (number, args) = (libc::SYS_socket, [family, kind as u64, 0, 0, 0, 0]);
                let declared = Declared::Verdict(policy.verdict(number as i32, &args));
                let what = format!("socket of family {family}, type {kind}");
                Trial { group: FAMILIES, what, layers: Layers::All, entry: Entry::Native, number, args, declared }
            })
        });
        full.into_iter().chain(families).chain(alone)
    }

    /// All attempts. The last one removes a file that earlier ones need.
    fn attempts(&self, removable: Option<&Path>, live: Option<u32>) -> Vec<Attempt> {
        let signal_live = live.map(|pid| {
            let what = "signal the live supervisor";
            attempt(what, libc::SYS_kill, &[pid.into(), 0], fails(6, Errno::EPERM))
        });
        let all =
            [self.on_files(), self.on_the_network(), self.on_processes(), self.on_guest_memory(), on_the_kernel()];
        all.into_iter().flatten().chain(signal_live).chain(removable.into_iter().flat_map(in_own_folder)).collect()
    }

    fn on_files(&self) -> Vec<Attempt> {
        let file = |name: &str| make_file(&self.folder.join(name));
        let parent = u64::from(std::process::id());
        let sub = text(self.folder.join("sub").as_os_str().as_bytes());
        let program = text(b"/proc/self/exe");
        vec![
            attempt("open /etc/passwd", libc::SYS_openat, &[AT_CWD, text(b"/etc/passwd"), READ], denied()),
            attempt("open a folder", libc::SYS_openat, &[AT_CWD, text(b"/"), READ], denied()),
            attempt("open a file of its user", libc::SYS_open, &[file("mine"), READ], denied()),
            attempt("open another's memory", libc::SYS_openat, &[AT_CWD, of_process(parent, "mem"), READ], denied()),
            attempt("make a file", libc::SYS_openat, &[AT_CWD, file("new"), CREATE, 0o600], denied()),
            attempt("make a folder", libc::SYS_mkdir, &[sub, 0o700], denied()),
            attempt("truncate a file by name", libc::SYS_truncate, &[file("long"), 0], fails(3, Errno::EACCES)),
            attempt("remove a file", libc::SYS_unlink, &[file("other")], denied()),
            attempt("execute a program", libc::SYS_execve, &[program], denied()),
        ]
    }

    fn on_the_network(&self) -> Vec<Attempt> {
        let tcp = fd(&self.tcp);
        let (server, tcp_len) = tcp_address(&self.server);
        let (any, _) = tcp_any();
        let (name, name_len) = abstract_address(&self.abstract_name);
        let unix = [fd(&self.unix), name, name_len];
        vec![
            attempt("connect to a TCP server", libc::SYS_connect, &[tcp, server, tcp_len], fails(4, Errno::EACCES)),
            attempt("bind a TCP port", libc::SYS_bind, &[tcp, any, tcp_len], fails(4, Errno::EACCES)),
            attempt("connect to an abstract socket", libc::SYS_connect, &unix, fails(6, Errno::EPERM)),
        ]
    }

    fn on_processes(&self) -> Vec<Attempt> {
        let outsider = self.outsider.as_raw() as u64;
        let parent = u64::from(std::process::id());
        let (kill, seize) = (libc::SIGKILL as u64, libc::PTRACE_SEIZE as u64);
        vec![
            attempt("signal its parent", libc::SYS_kill, &[parent, 0], fails(6, Errno::EPERM)),
            attempt("kill an outsider", libc::SYS_kill, &[outsider, kill], fails(6, Errno::EPERM)),
            attempt("trace an outsider", libc::SYS_ptrace, &[seize, outsider, 0, 0], fails(1, Errno::EPERM)),
            attempt("read its parent's memory", libc::SYS_process_vm_readv, &[parent, 0, 0, 0, 0, 0], None),
        ]
    }

    fn on_guest_memory(&self) -> Vec<Attempt> {
        let memory = fd(&self.memory);
        let executable = [0, 4096, READ_EXECUTE, libc::MAP_SHARED as u64, memory];
        vec![
            attempt("truncate a guest's memory", libc::SYS_ftruncate, &[memory, 0], None),
            attempt("punch a hole into a guest's memory", libc::SYS_fallocate, &[memory, 3, 0, 4096], None),
            attempt("seal a guest's memory", libc::SYS_fcntl, &[memory, libc::F_ADD_SEALS as u64, 2], None),
            attempt("map a guest's memory executable", libc::SYS_mmap, &executable, None),
        ]
    }
}

fn on_the_kernel() -> Vec<Attempt> {
    vec![
        attempt("make memory executable", libc::SYS_mprotect, &[0, 4096, READ_EXECUTE], None),
        attempt("start a thread or a process", libc::SYS_clone, &[libc::SIGCHLD as u64], None),
        attempt("enter a user namespace", libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64], None),
        attempt("load a program into the kernel", libc::SYS_bpf, &[5], None),
        attempt("set up an io_uring", libc::SYS_io_uring_setup, &[1], None),
        attempt("become dumpable", libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1], None),
    ]
}

/// Attempts in the folder in which the process may remove files.
fn in_own_folder(folder: &Path) -> [Attempt; 2] {
    let (beside, own) = (make_file(&folder.join("beside")), make_file(&folder.join("socket")));
    [
        attempt("open a file beside its socket", libc::SYS_openat, &[AT_CWD, beside, READ], denied()),
        // One trial of this removes the socket, so it is the last one.
        attempt("remove its socket", libc::SYS_unlink, &[own], None),
    ]
}

fn attempt(what: &str, number: i64, args: &[u64], under_landlock: Option<(u32, Declared)>) -> Attempt {
    let mut all = [0; 6];
    all.iter_mut().zip(args).for_each(|(to, from)| *to = *from);
    Attempt { what: what.to_string(), number, args: all, under_landlock }
}

/// Landlock of ABI `since` makes the syscall fail by `errno`.
fn fails(since: u32, errno: Errno) -> Option<(u32, Declared)> {
    Some((since, Declared::Fails(errno)))
}

fn denied() -> Option<(u32, Declared)> {
    fails(1, Errno::EACCES)
}

/// Makes an empty file. Returns the address of its name.
fn make_file(path: &Path) -> u64 {
    let _ = fs::write(path, "");
    text(path.as_os_str().as_bytes())
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = kill(self.outsider, Signal::SIGKILL);
        let _ = waitpid(self.outsider, None);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A process that waits to be signalled.
fn outsider() -> nix::Result<Pid> {
    trial::spawn(|| {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        loop {
            nix::unistd::pause();
        }
    })
}

/// A socket that is not connected yet.
fn stream(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn fd(of: &impl AsRawFd) -> u64 {
    of.as_raw_fd() as u64
}

/// The address of a C string that lives as long as the process.
fn text(octets: &[u8]) -> u64 {
    address([octets, &[0]].concat())
}

fn of_process(pid: u64, file: &str) -> u64 {
    text(format!("/proc/{pid}/{file}").as_bytes())
}

fn address(octets: Vec<u8>) -> u64 {
    Box::leak(octets.into_boxed_slice()).as_ptr() as u64
}

fn tcp_address(server: &TcpListener) -> (u64, u64) {
    let port = server.local_addr().as_ref().map_or(0, SocketAddr::port);
    sockaddr_in(port)
}

fn tcp_any() -> (u64, u64) {
    sockaddr_in(0)
}

/// `struct sockaddr_in` of loopback, and its length.
fn sockaddr_in(port: u16) -> (u64, u64) {
    let family = (libc::AF_INET as u16).to_ne_bytes();
    let octets = [&family[..], &port.to_be_bytes(), &Ipv4Addr::LOCALHOST.octets(), &[0; 8]].concat();
    (address(octets), 16)
}

/// `struct sockaddr_un` of an abstract name, and its length.
fn abstract_address(name: &str) -> (u64, u64) {
    let octets = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], &[0], name.as_bytes()].concat();
    let length = octets.len() as u64;
    (address(octets), length)
}
