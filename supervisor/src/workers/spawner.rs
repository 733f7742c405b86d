//! The spawner: a process that starts workers for a supervisor that may no longer do so itself.
//!
//! # Theory of operation
//!
//! Seccomp filters and landlock domains are inherited over exec, and a worker needs more than the supervisor's policy
//! grants. So the supervisor clones the spawner before it confines itself. The two have separate memory and *one
//! table of files* (`CLONE_FILES`): a request is a packet of numbers, some of which are fds, and no fd is ever sent.
//! Sending counts against a limit of the kernel's that any process of the same user can use up (`ETOOMANYREFS`), and
//! a switch whose worker died must be able to start the next one whatever its clients do.
//!
//! [`START`] starts one worker and is answered with its pid or with an errno. The worker begins as a copy of the
//! spawner, with a copy of the table, and keeps of it its stdin, its stderr, and the files that [`Spawner::give`]
//! named since the last start, under their numbers. Until the answer comes the supervisor closes none of them.
//! [`KEEP`] makes an open file the program from now on. [`CLOSER`] starts a closer ([`crate::workers::closers`]),
//! which goes on sharing the table. [`REOPEN`] opens the log once more, by the name that it was given at the start,
//! and is answered with its number. The spawner reads nothing from clients and nothing from workers, and ends with
//! the supervisor.
//!
//! Workers and closers are cloned with `CLONE_PARENT`, so that the supervisor is their parent: it gets the `SIGCHLD`,
//! it waits for them, and its death takes them along. The first binary is opened once, so that a supervisor goes on
//! to start the same program, whatever is installed meanwhile, until a person upgrades it. A program that is handed
//! over must have a name in the file system and belong to root or to our user: memory that a client shared with the
//! supervisor is no program, even if the supervisor says so. Which file it is the spawner writes down, and the worker
//! looks once more, in a table that is its own by then, before it becomes that program.
//!
//! Each of these processes has one thread. The spawner leads a session of its own: Ctrl-C is the supervisor's affair.
#![allow(unsafe_code)] // clone, close_range, fds by number have no safe form

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sv3::foreign::ForeignFd;
use sv3::timeslice::TimeSlice;

use crate::ancillary;
use crate::confine;
use crate::telemetry::event;
use crate::workers::closers::{self, Tools};

/// linux/close_range.h; not every C library's.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Starts a worker: a program, its stdin, its stderr.
const START: i32 = 1;
/// Keeps a program: which of them, its binary.
const KEEP: i32 = 2;
/// The next worker that is started gets these files.
const GIVE: i32 = 3;
/// Starts a closer: its pipe and its eventfd.
const CLOSER: i32 = 4;
/// Opens the log.
const REOPEN: i32 = 5;

/// After how long it is tried again what the kernel was too short of something for.
const RETRY: Duration = Duration::from_millis(10);
/// Most numbers of one packet.
const NUMBERS: usize = 4096;
/// How much a closer gives way to others that want the processor (nice(2)).
const NICE: i32 = 10;
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
    /// The events that epoll is asked for.
    pub interest: EpollFlags,
    /// Packets that wait for room.
    unsent: VecDeque<Vec<u8>>,
    /// The spawner's own, in the table that both share.
    theirs: [OwnedFd; 2],
    binaries: [Option<ForeignFd>; 2],
}

impl Spawner {
    /// Makes the spawner, which gives `arguments` to every worker and opens `log` when it is asked to. To be called
    /// before anything else is opened, and before confinement.
    pub fn clone(worker: &Path, arguments: &[String], log: Option<&Path>) -> Result<Spawner, String> {
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
        let supervisor = nix::unistd::getpid();
        let identity = Identity::of(&binary).map_err(|error| format!("{}: {error}", worker.display()))?;
        let setting = Setting { null: null.as_raw_fd(), words, supervisor, log: log.map(Path::to_path_buf) };
        let socket = theirs.as_raw_fd();
        match clone(libc::CLONE_FILES).map_err(|error| format!("cannot make the spawner: {error}"))? {
            Some(pid) => Ok(Spawner {
                socket: ours,
                pid,
                interest: EpollFlags::EPOLLIN,
                unsent: VecDeque::new(),
                theirs: [theirs, null.into()],
                binaries: [Some(ForeignFd::from(OwnedFd::from(binary)).prompt()), None],
            }),
            // Nothing that is open may be dropped here: the table is the supervisor's as well.
            None => std::process::exit(serve(socket, identity, &setting)),
        }
    }

    /// A spawner that is no process; and its end of the socket.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn of_nobody(pid: Pid) -> io::Result<(Spawner, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let null = || File::open("/dev/null").map(OwnedFd::from);
        let own = [theirs.try_clone()?, null()?];
        let (interest, unsent) = (EpollFlags::EPOLLIN, VecDeque::new());
        Ok((Spawner { socket: ours, pid, interest, unsent, theirs: own, binaries: [None, None] }, theirs))
    }

    /// The next worker that is started gets these files under the numbers that they have. They must stay open until the
    /// answer to that start.
    pub fn give<'f>(&mut self, files: impl IntoIterator<Item = BorrowedFd<'f>>) -> io::Result<()> {
        let files: Vec<i32> = files.into_iter().map(|file| file.as_raw_fd()).collect();
        files.chunks(NUMBERS - 1).try_for_each(|files| self.tell(&[&[GIVE], files].concat()))
    }

    /// Asks for a worker.
    pub fn request(&mut self, program: Program, stdin: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> io::Result<()> {
        let number = usize::from(program.0);
        let binary = self.binaries.get(number).and_then(Option::as_ref);
        let binary = binary.map_or(-1, |binary| binary.as_fd().as_raw_fd());
        self.tell(&[START, program.0.into(), binary, stdin.as_raw_fd(), stderr.as_raw_fd()])
    }

    /// Makes `binary` the program. If it cannot be one, starting it will fail.
    pub fn keep(&mut self, program: Program, binary: ForeignFd) -> io::Result<()> {
        self.tell(&[KEEP, program.0.into(), binary.as_fd().as_raw_fd()])?;
        if let Some(place) = self.binaries.get_mut(usize::from(program.0)) {
            *place = Some(binary);
        }
        Ok(())
    }

    /// Asks for a closer. It is answered as a worker is.
    pub fn start_closer(&mut self, Tools { numbers, closed }: Tools) -> io::Result<()> {
        self.tell(&[CLOSER, numbers, closed])
    }

    fn tell(&mut self, numbers: &[i32]) -> io::Result<()> {
        self.unsent.push_back(numbers.iter().flat_map(|number| number.to_ne_bytes()).collect());
        self.flush()
    }

    /// Sends what waits, as far as there is room. An error says that the spawner is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(packet) = self.unsent.front() {
            match ancillary::send(&self.socket, packet) {
                Ok(_) => drop(self.unsent.pop_front()),
                Err(error) if ancillary::is_later(&error) || error.kind() == io::ErrorKind::Interrupted => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether something waits for room.
    pub fn is_backed_up(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Asks for the log.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.tell(&[REOPEN])
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
                    // SAFETY: the spawner opened it just now in the table that both share, and keeps no owner of it.
                    _ => Answer::Log(outcome.map(|number| unsafe { File::from_raw_fd(number) })),
                }))
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if ancillary::is_later(&error) || error.kind() == io::ErrorKind::Interrupted => Ok(None),
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

    /// The fds that are its own, and what they are for. (It makes a pipe for each worker that it starts.)
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &'static str, &'static str)> {
        let [socket, null] = &self.theirs;
        let own = [
            (self.socket.as_fd(), "socket", "the spawner"),
            (socket.as_fd(), "socket", "the spawner's end of it"),
            (null.as_fd(), "null", "stdout of workers, for the spawner"),
        ];
        let binary = |binary| (AsFd::as_fd(binary), "file", "a worker's binary, for the spawner");
        own.into_iter().chain(self.binaries.iter().flatten().map(binary))
    }
}

impl AsFd for Spawner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Forks. The child's pid, or nothing in the child, which runs on in its copy of this process's memory.
fn clone(flags: libc::c_int) -> nix::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM, and with 0 for the stack, clone is fork; this process has one thread, so no lock is
    // held by another and all of Rust may be used in the child.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    let pid = i32::try_from(pid).map_err(|_| Errno::ERANGE)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Which file it is, as long as it is open.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(file: impl AsFd) -> Result<Identity, Errno> {
        let stat = rustix::fs::fstat(file).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
        Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// A file of the table that this process shares with the supervisor, or has a copy of.
fn in_table<'f>(number: RawFd) -> Result<BorrowedFd<'f>, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: it is the supervisor's, who keeps open what it tells the spawner of until that is done with it; this
    // process closes nothing that it did not open.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// What is alike for all workers.
struct Setting {
    /// Where their standard output goes.
    null: RawFd,
    /// Their command line.
    words: Vec<CString>,
    /// Their parent.
    supervisor: Pid,
    /// Where events go.
    log: Option<PathBuf>,
}

/// What one worker is started with.
struct NewWorker<'n> {
    binary: RawFd,
    identity: Identity,
    stdin: RawFd,
    stderr: RawFd,
    /// Files that it gets besides, under their own numbers.
    given: &'n [RawFd],
}

/// The spawner's life; returns its exit status. All fds are numbers here: they are closed by the supervisor alone, and
/// this process never owns one that it did not make.
fn serve(socket: RawFd, binary: Identity, setting: &Setting) -> i32 {
    let Ok(socket) = in_table(socket) else { return 1 };
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"sv3-spawner");
    let guarded = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    if !guarded || nix::unistd::getppid() != setting.supervisor {
        return 1;
    }
    let mut programs = [Ok(binary), Err(Errno::ENOENT)];
    let mut given = Vec::new();
    let mut packet = vec![0; NUMBERS * 4];
    loop {
        if wait_readable(socket).is_err() {
            return 1;
        }
        let count = match ancillary::receive(socket, &mut packet) {
            Ok(received) if received.count > 0 => received.count,
            Err(error) if ancillary::is_later(&error) => {
                std::thread::sleep(RETRY);
                continue;
            }
            _ => return 0,
        };
        let (numbers, _) = packet.get(..count).unwrap_or_default().as_chunks();
        let numbers: Vec<i32> = numbers.iter().map(|number| i32::from_ne_bytes(*number)).collect();
        let outcome = match numbers[..] {
            [GIVE, ref files @ ..] => {
                given.extend_from_slice(files);
                continue;
            }
            [KEEP, program, binary] => {
                let Some(program) = usize::try_from(program).ok().and_then(|at| programs.get_mut(at)) else { return 1 };
                *program = admit(binary);
                continue;
            }
            [START, program, binary, stdin, stderr] => {
                let Some(program) = usize::try_from(program).ok().and_then(|at| programs.get(at)) else { return 1 };
                let given = std::mem::take(&mut given);
                program
                    .and_then(|identity| start(&NewWorker { binary, identity, stdin, stderr, given: &given }, setting))
            }
            [REOPEN] => {
                if answer_log(socket, setting.log.as_deref()).is_err() {
                    return 0;
                }
                continue;
            }
            [CLOSER, numbers, closed] => start_closer(Tools { numbers, closed }, setting.supervisor),
            _ => return 1,
        };
        let number = outcome.map_or_else(|errno| -(errno as i32), Pid::as_raw);
        if answer(socket, &number.to_ne_bytes()).is_err() {
            return 0;
        }
    }
}

/// Opens the log in the table that both share and tells its number, or why it cannot be opened.
fn answer_log(socket: BorrowedFd<'_>, log: Option<&Path>) -> io::Result<()> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let log = log.ok_or(Errno::ENOENT).and_then(|log| event::open(log).map_err(errno));
    let number = log.map_or_else(|errno| -(errno as i32), IntoRawFd::into_raw_fd);
    let [a, b, c, d] = number.to_ne_bytes();
    answer(socket, &[a, b, c, d, 0])
}

/// Answers, and waits while there is no room.
fn answer(socket: BorrowedFd<'_>, octets: &[u8]) -> io::Result<()> {
    loop {
        match ancillary::send(socket, octets) {
            Ok(_) => return Ok(()),
            Err(error) if ancillary::is_later(&error) => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}

/// Takes a binary as a program if it may be one.
fn admit(binary: RawFd) -> Result<Identity, Errno> {
    let binary = in_table(binary)?;
    let stat = rustix::fs::fstat(binary).map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    let owned = stat.st_uid == 0 || stat.st_uid == nix::unistd::geteuid().as_raw();
    if is_file && stat.st_nlink > 0 && owned { Identity::of(binary) } else { Err(Errno::EPERM) }
}

fn wait_readable(socket: BorrowedFd<'_>) -> nix::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Starts a closer.
fn start_closer(Tools { numbers, closed }: Tools, supervisor: Pid) -> Result<Pid, Errno> {
    if let Some(pid) = clone(libc::CLONE_PARENT | libc::CLONE_FILES)? {
        return Ok(pid);
    }
    let _ = nix::sys::prctl::set_name(c"sv3-closer");
    let guarded = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    let _ = rustix::process::nice(NICE);
    if guarded
        && nix::unistd::getppid() == supervisor
        && let (Ok(numbers), Ok(closed)) = (in_table(numbers), in_table(closed))
        && confine::supervisor(&[]).is_ok()
    {
        closers::work(numbers, closed);
    }
    std::process::exit(1)
}

/// Starts a worker. That the pipe closes without a word says that exec succeeded.
fn start(birth: &NewWorker<'_>, setting: &Setting) -> Result<Pid, Errno> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let Some(pid) = clone(libc::CLONE_PARENT)? else {
        let errno = become_worker(birth, setting);
        let _ = File::from(write).write_all(&(errno as i32).to_ne_bytes());
        std::process::exit(127);
    };
    drop(write);
    let mut errno = [0; 4];
    match File::from(read).read_exact(&mut errno) {
        Ok(()) => Err(Errno::from_raw(i32::from_ne_bytes(errno))),
        Err(_) => Ok(pid),
    }
}

/// Turns this process into a worker; returns only if that fails. The table of files is its own by now.
fn become_worker(birth: &NewWorker<'_>, setting: &Setting) -> Errno {
    let turn = || -> Result<std::convert::Infallible, Errno> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != setting.supervisor {
            return Err(Errno::ESRCH);
        }
        let binary = in_table(birth.binary)?;
        if Identity::of(binary)? != birth.identity {
            return Err(Errno::EPERM);
        }
        nix::unistd::dup2_stdin(in_table(birth.stdin)?)?;
        nix::unistd::dup2_stdout(in_table(setting.null)?)?;
        nix::unistd::dup2_stderr(in_table(birth.stderr)?)?;
        SigSet::empty().thread_set_mask()?;
        close_range(CLOSE_RANGE_CLOEXEC)?;
        for number in birth.given {
            fcntl(in_table(*number)?, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        TimeSlice::LONG.request();
        nix::unistd::fexecve::<_, CString, &CStr>(binary, &setting.words, &[])
    };
    match turn() {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}
