//! The spawner: a process that starts workers for a supervisor that may no longer do so itself.
//!
//! # Theory of operation
//!
//! Seccomp filters and landlock domains are inherited over exec, and a worker needs more than the supervisor's policy
//! grants. So the supervisor forks the spawner before it confines itself. The spawner does one thing: for each request,
//! a packet with the worker's end of its control socket and its stderr, it starts one worker and answers with its pid or
//! with an errno. It reads nothing from clients and nothing from workers, and ends with the supervisor.
//!
//! The worker is cloned with `CLONE_PARENT`, so that the supervisor is its parent: it gets the `SIGCHLD`, it waits for
//! it, and its death takes the worker along. The worker's binary is opened once, so that one supervisor always starts
//! the same program, whatever is installed meanwhile.
//!
//! Each of these processes has one thread. The spawner leads a session of its own: Ctrl-C is the supervisor's affair.
#![allow(unsafe_code)] // fork, clone, close_range have no safe form

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::ancillary;

/// The supervisor's end.
pub struct Spawner {
    socket: OwnedFd,
    pid: Pid,
}

impl Spawner {
    /// Forks the spawner. To be called before anything else is opened, and before confinement.
    pub fn fork(worker: &Path) -> Result<Spawner, String> {
        let binary = File::options()
            .read(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(worker)
            .map_err(|error| format!("cannot open the worker's binary {}: {error}", worker.display()))?;
        let null = File::options().write(true).open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| format!("cannot make the spawner's socket: {error}"))?;
        let supervisor = nix::unistd::getpid();
        // SAFETY: this process has one thread, so no lock is held by another and all of Rust may be used in the child.
        match unsafe { nix::unistd::fork() } {
            Err(error) => Err(format!("cannot fork the spawner: {error}")),
            Ok(ForkResult::Parent { child }) => Ok(Spawner { socket: ours, pid: child }),
            Ok(ForkResult::Child) => {
                drop(ours);
                std::process::exit(serve(&theirs, &binary, &null, supervisor))
            }
        }
    }

    /// Asks for a worker.
    pub fn request(&self, stdin: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
        ancillary::send(&self.socket, &[1], [stdin, stderr])
    }

    /// The answer to a request, if it is here: the worker's pid, or why there is none.
    pub fn answer(&self) -> io::Result<Option<Result<Pid, Errno>>> {
        let mut answer = [0; 4];
        match ancillary::receive(&self.socket, &mut answer) {
            Ok(received) if received.count == answer.len() => match i32::from_ne_bytes(answer) {
                pid @ 1.. => Ok(Some(Ok(Pid::from_raw(pid)))),
                errno => Ok(Some(Err(Errno::from_raw(errno.saturating_neg())))),
            },
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

/// The spawner's life; returns its exit status.
fn serve(socket: &OwnedFd, binary: &File, null: &File, supervisor: Pid) -> i32 {
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"sv3-spawner");
    let guarded = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    if !guarded || nix::unistd::getppid() != supervisor {
        return 1;
    }
    loop {
        let mut request = [0; 1];
        if wait_readable(socket).is_err() {
            return 1;
        }
        let received = match ancillary::receive(socket, &mut request) {
            Ok(received) if received.count > 0 => received,
            _ => return 0,
        };
        let answer = match <[OwnedFd; 2]>::try_from(received.fds) {
            Ok([stdin, stderr]) => start([stdin.as_fd(), null.as_fd(), stderr.as_fd()], binary, supervisor),
            Err(_) => Err(Errno::EBADMSG),
        };
        let answer = answer.map_or_else(|errno| -(errno as i32), Pid::as_raw);
        if nix::unistd::write(socket, &answer.to_ne_bytes()).is_err() {
            return 0;
        }
    }
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
fn start(stdio: [BorrowedFd<'_>; 3], binary: &File, supervisor: Pid) -> Result<Pid, Errno> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: with these flags, and 0 for the stack, clone is fork with another parent; this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let errno = become_worker(stdio, binary, supervisor);
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
fn become_worker([stdin, stdout, stderr]: [BorrowedFd<'_>; 3], binary: &File, supervisor: Pid) -> Errno {
    let turn = || -> Result<std::convert::Infallible, Errno> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != supervisor {
            return Err(Errno::ESRCH);
        }
        nix::unistd::dup2_stdin(stdin)?;
        nix::unistd::dup2_stdout(stdout)?;
        nix::unistd::dup2_stderr(stderr)?;
        SigSet::empty().thread_set_mask()?;
        // SAFETY: only marks fds; none is closed before exec.
        Errno::result(unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) })?;
        nix::unistd::fexecve::<_, &CStr, &CStr>(binary, &[c"sv3-worker"], &[])
    };
    match turn() {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}
