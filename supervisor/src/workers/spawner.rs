//! The spawner: a process that starts workers for a supervisor that may no longer do so itself.
//!
//! # Theory of operation
//!
//! Seccomp filters and landlock domains are inherited over exec, and a worker needs more than the supervisor's policy
//! grants. So the supervisor clones the spawner before it confines itself. The two have separate memory and *one table
//! of files* (`CLONE_FILES`): a request is a packet of numbers, some of which are fds, and no fd is ever sent. Sent fds
//! count against a kernel limit that any process of the same user can use up (`ETOOMANYREFS`), and the switch must be
//! able to start the next worker whatever its clients do.
//!
//! [`START`] starts one worker; the answer is its pid or an errno. The worker begins as a copy of the spawner with a
//! copy of the table. It keeps its stdin, its stderr, and the files that [`Spawner::give`] named since the last start,
//! under their numbers. The supervisor closes none of them before the answer comes. [`KEEP`] makes an open file the
//! program from now on. [`CLOSER`] starts a closer ([`crate::workers::closers`]), which still shares the table.
//! [`REOPEN`] opens the log again by its name; the answer is the fd's number. The spawner reads nothing from clients or
//! workers, and ends with the supervisor.
//!
//! Workers and closers are cloned with `CLONE_PARENT`, so the supervisor is their parent: it gets their `SIGCHLD`, it
//! waits for them, and they die with it. The first binary is opened once, so the supervisor starts the same program
//! until a person upgrades it, whatever is installed meanwhile. A new program must have a name in the file system and
//! belong to root or to this user: so memory that a client shared cannot become a program, even if the supervisor asks
//! for it. The spawner records the file's identity. The worker checks it again in its own table of files before it
//! becomes that program.
//!
//! Each of these processes has one thread. The spawner is in a session of its own, so Ctrl-C reaches only the
//! supervisor.
#![allow(unsafe_code)] // clone, close_range and fds by number have no safe form

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
use sv3::passed::{self, Passed};
use sv3::timeslice::TimeSlice;
use sv3_policy::WorkerRole;

use crate::ancillary;
use crate::confine;
use crate::telemetry::event;
use crate::workers::closers::{self, Tools};

/// From linux/close_range.h; not every C library has it.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Starts a worker: a program, its stdin, its stderr, and its role, as its place in [`WorkerRole::ALL`].
const START: i32 = 1;
/// Keeps a program: which of them, its binary.
const KEEP: i32 = 2;
/// The next worker that is started gets these files.
const GIVE: i32 = 3;
/// Starts a closer: its pipe and its eventfd.
const CLOSER: i32 = 4;
/// Opens the log.
const REOPEN: i32 = 5;

/// When the kernel is short of something, the next try comes after this time.
const RETRY: Duration = Duration::from_millis(10);
/// Most numbers of one packet.
const NUMBERS: usize = 4096;
/// The nice value of closers (nice(2)).
const NICE: i32 = 10;
/// An answer of the spawner.
pub enum Answer {
    /// A worker's or closer's pid, or why there is none.
    Worker(Result<Pid, Errno>),
    /// The log, or why it cannot be opened.
    Log(Result<File, Errno>),
}

/// One of the two programs that can be started: the old one, and the one of an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Program(bool);

impl Program {
    /// The other one.
    pub fn other(self) -> Program {
        Program(!self.0)
    }
}

/// Takes the files that a service manager passed, and closes all other inherited fds except stdin, stdout and stderr.
/// Must be called before any file is opened.
pub fn take_inherited() -> Result<Vec<Passed>, String> {
    let fail = |error: io::Error| format!("the files that the service manager passed: {error}");
    let count = passed::count();
    let behind = passed::FIRST as libc::c_uint + count as libc::c_uint;
    let closed = close_range(behind, libc::c_uint::MAX, 0);
    closed.map_err(|error| match error {
        Errno::ENOSYS => {
            "this kernel has no close_range(2): boot Linux 5.9 or newer, or allow it in the seccomp profile of \
                          the container"
                .to_string()
        }
        error => format!("cannot close inherited file descriptors: {error}"),
    })?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let files = passed::duplicates().map_err(fail)?;
    close_range(passed::FIRST as libc::c_uint, behind - 1, 0).map_err(|errno| fail(errno.into()))?;
    Ok(files)
}

/// Calls close_range(2).
fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> nix::Result<()> {
    // SAFETY: called before any file was opened, so no fd that it closes has an owner in this process; or, for what the
    // service manager passed, when nothing refers to these numbers any more; or before exec, where it only sets
    // close-on-exec.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// The supervisor's end.
pub struct Spawner {
    socket: OwnedFd,
    pid: Pid,
    /// The events that epoll is asked for.
    pub interest: EpollFlags,
    /// Packets that wait for room.
    unsent: VecDeque<Vec<u8>>,
    /// The spawner's own fds, in the shared table.
    theirs: [OwnedFd; 2],
    binaries: [Option<ForeignFd>; 2],
}

impl Spawner {
    /// Clones the spawner. It gives `arguments` to every worker, and opens `log` when it is asked to. Must be called
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
            // This process must not close any fd here, because it shares the table with the supervisor.
            None => std::process::exit(serve(socket, identity, &setting)),
        }
    }

    /// A spawner without a process, for tests, and its end of the socket.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn without_process(pid: Pid) -> io::Result<(Spawner, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let null = || File::open("/dev/null").map(OwnedFd::from);
        let own = [theirs.try_clone()?, null()?];
        let (interest, unsent) = (EpollFlags::EPOLLIN, VecDeque::new());
        Ok((Spawner { socket: ours, pid, interest, unsent, theirs: own, binaries: [None, None] }, theirs))
    }

    /// The next worker gets these files under their present numbers. They must stay open until that start is answered.
    pub fn give<'f>(&mut self, files: impl IntoIterator<Item = BorrowedFd<'f>>) -> io::Result<()> {
        let files: Vec<i32> = files.into_iter().map(|file| file.as_raw_fd()).collect();
        files.chunks(NUMBERS - 1).try_for_each(|files| self.tell(&[&[GIVE], files].concat()))
    }

    /// Asks for a worker with this stdin, stderr and role.
    pub fn request(
        &mut self,
        program: Program,
        [stdin, stderr]: [BorrowedFd<'_>; 2],
        role: WorkerRole,
    ) -> io::Result<()> {
        let number = usize::from(program.0);
        let binary = self.binaries.get(number).and_then(Option::as_ref);
        let binary = binary.map_or(-1, |binary| binary.as_fd().as_raw_fd());
        self.tell(&[START, program.0.into(), binary, stdin.as_raw_fd(), stderr.as_raw_fd(), role as i32])
    }

    /// Makes `binary` the program. If it cannot be one, the next start of it fails.
    pub fn keep(&mut self, program: Program, binary: ForeignFd) -> io::Result<()> {
        self.tell(&[KEEP, program.0.into(), binary.as_fd().as_raw_fd()])?;
        if let Some(place) = self.binaries.get_mut(usize::from(program.0)) {
            *place = Some(binary);
        }
        Ok(())
    }

    /// Asks for a closer. The answer is as for a worker.
    pub fn start_closer(&mut self, Tools { numbers, closed }: Tools) -> io::Result<()> {
        self.tell(&[CLOSER, numbers, closed])
    }

    fn tell(&mut self, numbers: &[i32]) -> io::Result<()> {
        self.unsent.push_back(numbers.iter().flat_map(|number| number.to_ne_bytes()).collect());
        self.flush()
    }

    /// Sends waiting packets while the socket has room. An error means that the spawner is gone.
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

    /// Whether packets wait for room.
    pub fn is_backed_up(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Asks the spawner to open the log.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.tell(&[REOPEN])
    }

    /// The next answer, if one has come. An answer about the log has one more octet.
    pub fn answer(&self) -> io::Result<Option<Answer>> {
        let mut answer = [0; 5];
        match ancillary::receive(&self.socket, &mut answer) {
            Ok(received) if received.count >= 4 => {
                let [a, b, c, d, _] = answer;
                let number = i32::from_ne_bytes([a, b, c, d]);
                let outcome = if number < 0 { Err(Errno::from_raw(number.saturating_neg())) } else { Ok(number) };
                Ok(Some(match received.count {
                    4 => Answer::Worker(outcome.map(Pid::from_raw)),
                    // SAFETY: the spawner opened the fd just now in the shared table, and gave up ownership of it.
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

    /// The fds that it owns: each with its kind and purpose. (It also makes a pipe for each worker that it starts.)
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &'static str, &'static str)> {
        let [socket, null] = &self.theirs;
        let own = [
            (self.socket.as_fd(), "socket", "the spawner"),
            (socket.as_fd(), "socket", "the spawner's end of that socket"),
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

/// Forks. Returns the child's pid, and `None` in the child, which has a copy of this process's memory.
fn clone(flags: libc::c_int) -> nix::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM and with stack 0, clone is fork. This process has one thread, so no other thread holds a
    // lock, and the child may use all of Rust.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    let pid = i32::try_from(pid).map_err(|_| Errno::ERANGE)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Identifies a file for as long as it is open.
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

/// A file of the table that this process shares with the supervisor, or of its copy.
fn in_table<'f>(number: RawFd) -> Result<BorrowedFd<'f>, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: the supervisor owns the fd, and keeps it open until the spawner has answered. This process closes only
    // what it opened.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// What is the same for all workers.
struct Setting {
    /// The null device, their stdout.
    null: RawFd,
    /// Their arguments.
    words: Vec<CString>,
    /// Their parent.
    supervisor: Pid,
    /// Path of the log.
    log: Option<PathBuf>,
}

/// What is particular to one worker.
struct NewWorker<'n> {
    binary: RawFd,
    identity: Identity,
    stdin: RawFd,
    stderr: RawFd,
    /// What it may have.
    role: WorkerRole,
    /// Further files that it gets, under their own numbers.
    given: &'n [RawFd],
}

/// The loop of the spawner; returns its exit status. Fds are plain numbers here: only the supervisor closes them, and
/// this process owns only those that it made.
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
            [START, program, binary, stdin, stderr, role] => {
                let Some(program) = usize::try_from(program).ok().and_then(|at| programs.get(at)) else { return 1 };
                let given = std::mem::take(&mut given);
                let role = usize::try_from(role).ok().and_then(|at| WorkerRole::ALL.get(at)).copied();
                let role = role.unwrap_or_default();
                program.and_then(|identity| {
                    start(&NewWorker { binary, identity, stdin, stderr, role, given: &given }, setting)
                })
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

/// Opens the log in the shared table, and answers with its number, or with the errno.
fn answer_log(socket: BorrowedFd<'_>, log: Option<&Path>) -> io::Result<()> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let log = log.ok_or(Errno::ENOENT).and_then(|log| event::open(log).map_err(errno));
    let number = log.map_or_else(|errno| -(errno as i32), IntoRawFd::into_raw_fd);
    let [a, b, c, d] = number.to_ne_bytes();
    answer(socket, &[a, b, c, d, 0])
}

/// Sends an answer, and waits while the socket has no room.
fn answer(socket: BorrowedFd<'_>, octets: &[u8]) -> io::Result<()> {
    loop {
        match ancillary::send(socket, octets) {
            Ok(_) => return Ok(()),
            Err(error) if ancillary::is_later(&error) => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}

/// Checks that a binary may be a program, and returns its identity.
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

/// Starts a worker. If exec succeeds, the pipe closes without data.
fn start(new: &NewWorker<'_>, setting: &Setting) -> Result<Pid, Errno> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let Some(pid) = clone(libc::CLONE_PARENT)? else {
        let errno = become_worker(new, setting);
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

/// Turns this process into a worker; returns only if that fails. The process has its own table of files by now.
fn become_worker(new: &NewWorker<'_>, setting: &Setting) -> Errno {
    let turn = || -> Result<std::convert::Infallible, Errno> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != setting.supervisor {
            return Err(Errno::ESRCH);
        }
        let binary = in_table(new.binary)?;
        if Identity::of(binary)? != new.identity {
            return Err(Errno::EPERM);
        }
        nix::unistd::dup2_stdin(in_table(new.stdin)?)?;
        nix::unistd::dup2_stdout(in_table(setting.null)?)?;
        nix::unistd::dup2_stderr(in_table(new.stderr)?)?;
        SigSet::empty().thread_set_mask()?;
        close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)?;
        for number in new.given {
            fcntl(in_table(*number)?, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        TimeSlice::LONG.request();
        let role = new.role.option().map(CStr::to_owned);
        let words: Vec<CString> = setting.words.iter().cloned().chain(role).collect();
        nix::unistd::fexecve::<_, CString, &CStr>(binary, &words, &[])
    };
    match turn() {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}
