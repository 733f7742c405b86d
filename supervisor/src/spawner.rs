//! The spawner: a process that starts workers for a supervisor that may no longer do so itself.
//!
//! # Theory of operation
//!
//! Seccomp filters and landlock domains are inherited over exec, and a worker needs more than the supervisor's policy
//! grants. So the supervisor forks the spawner before it confines itself. A request is a packet of two octets, what to do
//! and with which [`Program`], and fds. [`START`], with the worker's end of its control socket and its stderr, starts one
//! worker and is answered with its pid or with an errno. [`KEEP`], with an open binary, makes that the program from now
//! on. [`REOPEN`], without fds, opens the log once more, by the name that it was given at the start, and is answered with the
//! file. The spawner reads nothing from clients and nothing from workers, and ends with the supervisor.
//!
//! The worker is cloned with `CLONE_PARENT`, so that the supervisor is its parent: it gets the `SIGCHLD`, it waits for
//! it, and its death takes the worker along. The first binary is opened once, so that a supervisor goes on to start
//! the same program, whatever is installed meanwhile, until a person upgrades it. A program that is handed over must have
//! a name in the file system and belong to root or to our user: memory that a client shared with the supervisor is no
//! program, even if the supervisor says so.
//!
//! Each of these processes has one thread. The spawner leads a session of its own: Ctrl-C is the supervisor's affair.
#![allow(unsafe_code)] // fork, clone, close_range have no safe form

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sv3::slice::Slice;

use crate::{ancillary, event};

/// linux/close_range.h; not every C library's.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Starts a worker; with its stdin and stderr.
const START: u8 = 1;
/// Keeps a program; with its binary.
const KEEP: u8 = 2;
/// Opens the log.
const REOPEN: u8 = 3;

/// What it answers.
pub enum Answer {
    /// A worker's pid, or why there is none.
    Worker(Result<Pid, Errno>),
    /// The log, or why it cannot be opened.
    Log(Result<File, Errno>),
}

/// One of the two programs that can be started: that of old, and that of an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Program(bool);

impl Program {
    /// The other one.
    pub fn other(self) -> Program {
        Program(!self.0)
    }
}

/// Closes what whoever started this process left open by mistake, beyond standard input, output and error. To be called
/// before anything is opened.
pub fn close_inherited() -> Result<(), String> {
    close_range(0).map_err(|error| format!("cannot close inherited file descriptors: {error}"))
}

/// For all fds but stdin, stdout and stderr.
fn close_range(flags: libc::c_uint) -> nix::Result<()> {
    // SAFETY: is called before anything was opened, when no fd that is closed has an owner in this process, and before
    // exec, to mark fds only.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) }).map(drop)
}

/// The supervisor's end.
pub struct Spawner {
    socket: OwnedFd,
    pid: Pid,
}

impl Spawner {
    /// Forks the spawner, which gives `arguments` to every worker and opens `log` when it is asked to. To be called before anything else is opened, and before
    /// confinement.
    pub fn fork(worker: &Path, arguments: &[String], log: Option<&Path>) -> Result<Spawner, String> {
        let words = [c"sv3-worker".to_owned()].into_iter().map(Ok);
        let words: Result<Vec<_>, _> = words.chain(arguments.iter().map(|word| CString::new(word.as_str()))).collect();
        let words = words.map_err(|error| format!("an argument for workers: {error}"))?;
        let binary = File::options()
            .read(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(worker)
            .map_err(|error| format!("cannot open the worker's binary {}: {error}", worker.display()))?;
        let null = File::options().write(true).open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| format!("cannot make the spawner's socket: {error}"))?;
        let (supervisor, log) = (nix::unistd::getpid(), log.map(Path::to_path_buf));
        // SAFETY: this process has one thread, so no lock is held by another and all of Rust may be used in the child.
        match unsafe { nix::unistd::fork() } {
            Err(error) => Err(format!("cannot fork the spawner: {error}")),
            Ok(ForkResult::Parent { child }) => Ok(Spawner { socket: ours, pid: child }),
            Ok(ForkResult::Child) => {
                drop(ours);
                std::process::exit(serve(&theirs, binary, &Setting { null, words, supervisor, log }))
            }
        }
    }

    /// Asks for a worker.
    pub fn request(&self, program: Program, stdin: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
        ancillary::send(&self.socket, &[START, program.0.into()], &[stdin, stderr])
    }

    /// Makes `binary` the program. If it cannot be one, starting it will fail.
    pub fn keep(&self, program: Program, binary: BorrowedFd<'_>) -> io::Result<()> {
        ancillary::send(&self.socket, &[KEEP, program.0.into()], &[binary])
    }

    /// Asks for the log.
    pub fn reopen(&self) -> io::Result<()> {
        ancillary::send(&self.socket, &[REOPEN, 0], &[])
    }

    /// The answer to a request, if it is here. That with the log has an octet more.
    pub fn answer(&self) -> io::Result<Option<Answer>> {
        let mut answer = [0; 5];
        match ancillary::receive(&self.socket, &mut answer) {
            Ok(received) if received.count >= 4 => {
                let [a, b, c, d, _] = answer;
                let number = i32::from_ne_bytes([a, b, c, d]);
                let outcome = if number < 0 { Err(Errno::from_raw(number.saturating_neg())) } else { Ok(number) };
                Ok(Some(match received.count {
                    4 => Answer::Worker(outcome.map(Pid::from_raw)),
                    _ => Answer::Log(outcome.and(received.fds.into_iter().next().map(File::from).ok_or(Errno::EMFILE))),
                }))
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the spawner and waits until it is gone.
    pub fn end(&self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }

    /// The spawner's process.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl AsFd for Spawner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What is alike for all workers.
struct Setting {
    /// Where their standard output goes.
    null: File,
    /// Their command line.
    words: Vec<CString>,
    /// Their parent.
    supervisor: Pid,
    /// Where events go.
    log: Option<PathBuf>,
}

/// The spawner's life; returns its exit status.
fn serve(socket: &OwnedFd, binary: File, setting: &Setting) -> i32 {
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"sv3-spawner");
    let guarded = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    if !guarded || nix::unistd::getppid() != setting.supervisor {
        return 1;
    }
    let mut programs = [Ok(binary), Err(Errno::ENOENT)];
    loop {
        let mut request = [0; 2];
        if wait_readable(socket).is_err() {
            return 1;
        }
        let received = match ancillary::receive(socket, &mut request) {
            Ok(received) if received.count > 0 => received,
            _ => return 0,
        };
        let [kind, program] = request;
        let Some(program) = programs.get_mut(usize::from(program)) else { return 1 };
        if kind == REOPEN {
            if send_log(socket, setting.log.as_deref()).is_err() {
                return 0;
            }
            continue;
        }
        if kind == KEEP {
            *program = <[OwnedFd; 1]>::try_from(received.fds).map_err(|_| Errno::EBADMSG).and_then(admit);
            continue;
        }
        let answer = match (program, <[OwnedFd; 2]>::try_from(received.fds)) {
            (Ok(binary), Ok([stdin, stderr])) => start([stdin.as_fd(), stderr.as_fd()], binary, setting),
            (Err(errno), _) => Err(*errno),
            (Ok(_), Err(_)) => Err(Errno::EBADMSG),
        };
        let answer = answer.map_or_else(|errno| -(errno as i32), Pid::as_raw);
        if nix::unistd::write(socket, &answer.to_ne_bytes()).is_err() {
            return 0;
        }
    }
}

/// Opens the log and sends it, or why it cannot be opened.
fn send_log(socket: &OwnedFd, log: Option<&Path>) -> io::Result<()> {
    let log = log
        .ok_or(Errno::ENOENT)
        .and_then(|log| event::open(log).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))));
    let [a, b, c, d] = log.as_ref().map_or_else(|errno| -(*errno as i32), |_| 0).to_ne_bytes();
    let fds: Vec<BorrowedFd<'_>> = log.iter().map(AsFd::as_fd).collect();
    ancillary::send(socket, &[a, b, c, d, 0], &fds)
}

/// Takes a binary as a program if it may be one.
fn admit([binary]: [OwnedFd; 1]) -> Result<File, Errno> {
    let binary = File::from(binary);
    let meta = binary.metadata().map_err(|_| Errno::EBADF)?;
    let owned = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    if meta.is_file() && meta.nlink() > 0 && owned { Ok(binary) } else { Err(Errno::EPERM) }
}

fn wait_readable(socket: &OwnedFd) -> nix::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Starts a worker. That the pipe closes without a word says that exec succeeded.
fn start(stdio: [BorrowedFd<'_>; 2], binary: &File, setting: &Setting) -> Result<Pid, Errno> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: with these flags, and 0 for the stack, clone is fork with another parent; this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let errno = become_worker(stdio, binary, setting);
        let _ = File::from(write).write_all(&(errno as i32).to_ne_bytes());
        std::process::exit(127);
    }
    let pid = Pid::from_raw(i32::try_from(Errno::result(pid)?).map_err(|_| Errno::ERANGE)?);
    drop(write);
    let mut errno = [0; 4];
    match File::from(read).read_exact(&mut errno) {
        Ok(()) => Err(Errno::from_raw(i32::from_ne_bytes(errno))),
        Err(_) => Ok(pid),
    }
}

/// Turns this process into a worker; returns only if that fails.
fn become_worker([stdin, stderr]: [BorrowedFd<'_>; 2], binary: &File, setting: &Setting) -> Errno {
    let turn = || -> Result<std::convert::Infallible, Errno> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != setting.supervisor {
            return Err(Errno::ESRCH);
        }
        nix::unistd::dup2_stdin(stdin)?;
        nix::unistd::dup2_stdout(&setting.null)?;
        nix::unistd::dup2_stderr(stderr)?;
        SigSet::empty().thread_set_mask()?;
        close_range(CLOSE_RANGE_CLOEXEC)?;
        Slice::LONG.ask_for();
        nix::unistd::fexecve::<_, CString, &CStr>(binary, &setting.words, &[])
    };
    match turn() {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}
