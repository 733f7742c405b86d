//! The closers: processes that close clients' files.
//!
//! # Theory of operation
//!
//! The last close of a file may wait in the kernel for as long as the client that opened it likes ([`sv3::foreign`]),
//! and the supervisor must not wait. So each [`ForeignFd`](sv3::foreign::ForeignFd) that it drops is put aside
//! ([`keep_for_later`]), and its fd number is written to a pipe. A closer reads a number from the pipe and closes the
//! file, and does nothing else. Closers share the supervisor's table of files (`CLONE_FILES`), as the spawner does. So
//! no fd is sent, nothing counts against the kernel's limit of fds in flight, and the number is free as soon as
//! close(2) has begun, however long the close takes.
//!
//! Several closers ([`CLOSERS`]) read from one pipe, so a closer that waits does not delay the others. When all wait
//! for longer than [`STALL`] and more files wait, the supervisor stops and continues each closer, which ends the wait
//! for a socket that lingers. Some waits do not end by a signal, such as that for a FUSE server, or for the kernel to
//! free much memory. Then the supervisor adds one closer at a time, up to [`CLOSERS_MAX`]. It dismisses the extra
//! closers when all files are closed.
//!
//! Files that wait to be closed take fd numbers. While too many wait, the supervisor does not read from the clients
//! that dropped them ([`Closers::is_behind`]).
//!
//! A new worker begins with a copy of the table of files. Until it has closed the copies, closers close nothing, so that
//! a copy is never the last reference to a file: the supervisor takes the numbers in the pipe back ([`Closers::pause`]).
//! A close that has begun does not matter: its number is no longer in the table.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2, read, write};

/// Number of closers, and the largest number while some wait.
const CLOSERS: usize = 3;
const CLOSERS_MAX: usize = 16;
/// How long all of them may wait while more files wait to be closed.
const STALL: Duration = Duration::from_millis(100);
/// After this many signals in a row without effect, one closer is added.
const FUTILE: u32 = 10;
/// After a closer has ended by itself, no other is asked for during this time.
const PAUSE: Duration = Duration::from_millis(100);
/// Signals that end a wait that a signal can end. They need no handler, and the process then continues where it was.
const NUDGE: [Signal; 2] = [Signal::SIGSTOP, Signal::SIGCONT];
/// Instead of an fd number: the closer that reads it ends.
const DISMISSED: RawFd = -1;
/// While more files than this wait to be closed, the supervisor does not read from the clients that dropped them.
const BEHIND: usize = 64;
/// Most numbers that are written at a time: as many as a pipe takes in one piece.
const PIECE: usize = 1024;
/// Octets of a number.
const NUMBER: usize = size_of::<RawFd>();

thread_local! {
    /// Files that were dropped since the loop's last turn. The process never closes them itself: when it ends, the
    /// kernel does, and no process waits.
    static DROPPED: RefCell<Vec<Rc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// Puts a dropped file aside; a [`sv3::foreign::Closer`].
pub fn keep_for_later(fd: Rc<OwnedFd>) {
    let _ = DROPPED.try_with(|dropped| dropped.borrow_mut().push(fd));
}

/// Takes the files that were dropped since the last call.
pub fn dropped() -> Vec<Rc<OwnedFd>> {
    DROPPED.take()
}

/// The fds that a closer uses.
#[derive(Clone, Copy)]
pub struct Tools {
    /// The pipe from which it reads fd numbers.
    pub numbers: RawFd,
    /// The eventfd that counts closed files.
    pub closed: RawFd,
}

/// The supervisor's side.
pub struct Closers {
    numbers: [OwnedFd; 2],
    /// The same pipe, for the supervisor's own reads, which do not wait.
    taken_back: OwnedFd,
    closed: EventFd,
    /// Files whose numbers are not yet in the pipe.
    waiting: VecDeque<Rc<OwnedFd>>,
    /// Files whose numbers are in the pipe or with a closer, those in the pipe last. The closers close them.
    told: VecDeque<Rc<OwnedFd>>,
    /// When the last of these was closed, or the first was written.
    progress: Instant,
    /// A worker is being started, so nothing may be closed.
    paused: bool,
    pids: Vec<Pid>,
    /// How many closers there should be.
    wanted: usize,
    /// Closers that the spawner was asked for and has not started.
    asked: usize,
    /// Closers that have been told to end and still exist.
    dismissed: usize,
    /// How often all files were closed.
    rounds: u64,
    /// Signals since a file was closed.
    nudges: u32,
    /// No closer is asked for before, because one ended by itself or could not be started.
    pause_until: Option<Instant>,
}

impl Closers {
    /// No closers yet.
    pub fn new() -> io::Result<Closers> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Opened anew: closers that read wait, and the flag belongs to the open file.
        let same = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs));
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let taken_back = open(same.as_str(), flags, Mode::empty())?;
        Ok(Closers {
            numbers: [theirs, ours],
            taken_back,
            closed: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            waiting: VecDeque::new(),
            told: VecDeque::new(),
            progress: Instant::now(),
            paused: false,
            pids: Vec::new(),
            wanted: CLOSERS,
            asked: 0,
            dismissed: 0,
            rounds: 0,
            nudges: 0,
            pause_until: None,
        })
    }

    /// How many closers must be asked for now.
    pub fn missing(&mut self, now: Instant) -> usize {
        self.pause_until.take_if(|until| *until <= now);
        if self.pause_until.is_some() {
            return 0;
        }
        let missing = self.wanted.saturating_sub(self.pids.len() - self.dismissed.min(self.pids.len()) + self.asked);
        self.asked += missing;
        missing
    }

    /// The fds that a closer is started with.
    pub fn tools(&self) -> Tools {
        use std::os::fd::AsRawFd;
        Tools { numbers: self.numbers[0].as_raw_fd(), closed: self.closed.as_fd().as_raw_fd() }
    }

    /// The spawner has started a closer, or could not.
    pub fn started(&mut self, pid: Option<Pid>) {
        self.asked = self.asked.saturating_sub(1);
        self.pids.extend(pid);
        if pid.is_none() {
            self.pause_until = Some(Instant::now() + PAUSE);
        }
    }

    /// A process has ended. Returns whether it was a closer.
    pub fn ended(&mut self, pid: Pid) -> bool {
        let Some(at) = self.pids.iter().position(|other| *other == pid) else { return false };
        self.pids.swap_remove(at);
        match self.dismissed.checked_sub(1) {
            Some(left) => self.dismissed = left,
            None => {
                // Another process killed it, and it may have been closing a file.
                self.let_go(1);
                self.pause_until = Some(Instant::now() + PAUSE);
            }
        }
        true
    }

    /// The closers' pids.
    pub fn pids(&self) -> &[Pid] {
        &self.pids
    }

    /// The fds that it owns: each with its kind and purpose.
    pub fn fds(&self) -> [(BorrowedFd<'_>, &'static str, &'static str); 4] {
        let [theirs, ours] = &self.numbers;
        [
            (theirs.as_fd(), "pipe", "numbers of files to close, for the closers"),
            (ours.as_fd(), "pipe", "the same, to write them"),
            (self.taken_back.as_fd(), "pipe", "the same, to take them back"),
            (self.closed.as_fd(), "eventfd", "what the closers have closed"),
        ]
    }

    /// Files that wait to be closed and are not in the pipe.
    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting.iter().map(|fd| fd.as_fd())
    }

    /// Pauses or continues closing. A pause begins before the spawner is asked for a worker.
    pub fn pause(&mut self, paused: bool) {
        if paused && !self.paused {
            self.take_back();
        }
        self.paused = paused;
    }

    /// Takes the numbers back that no closer has read.
    fn take_back(&mut self) {
        let (mut octets, mut unread) = ([0; PIECE * NUMBER], HashMap::<RawFd, usize>::new());
        while let Ok(count @ 1..) = read(&self.taken_back, &mut octets) {
            let (numbers, _) = octets.get(..count).unwrap_or(&[]).as_chunks::<NUMBER>();
            for number in numbers {
                match RawFd::from_ne_bytes(*number) {
                    // That closer stays.
                    DISMISSED => {
                        self.wanted += 1;
                        self.dismissed = self.dismissed.saturating_sub(1);
                    }
                    number => *unread.entry(number).or_default() += 1,
                }
            }
        }
        // The last file of a number: an earlier one may be closed and not counted yet, so that the number was free.
        for at in (0..self.told.len()).rev() {
            let number = self.told.get(at).map(|fd| std::os::fd::AsRawFd::as_raw_fd(&**fd));
            if let Some(left) = number.and_then(|number| unread.get_mut(&number)).filter(|left| **left > 0) {
                *left -= 1;
                self.waiting.extend(self.told.remove(at));
            }
        }
    }

    /// So many files are closed. A closer has closed each of them.
    fn let_go(&mut self, count: usize) {
        for fd in self.told.drain(..count.min(self.told.len())) {
            let _ = Rc::try_unwrap(fd).map(IntoRawFd::into_raw_fd);
        }
    }

    /// Takes a file to be closed. No other [`Rc`] of it may exist.
    pub fn take(&mut self, fd: Rc<OwnedFd>) {
        self.waiting.push_back(fd);
    }

    /// Writes as many numbers to the pipe as it has room for.
    pub fn tell(&mut self) {
        while !self.paused && !self.waiting.is_empty() {
            let count = self.waiting.len().min(PIECE);
            let raw = |fd: &Rc<OwnedFd>| std::os::fd::AsRawFd::as_raw_fd(&**fd).to_ne_bytes();
            let octets: Vec<u8> = self.waiting.iter().take(count).flat_map(raw).collect();
            // A pipe takes a piece of this size whole or not at all.
            let Ok(written) = write(&self.numbers[1], &octets) else { return };
            if self.told.is_empty() {
                self.progress = Instant::now();
            }
            // From here on a closer closes the number, unless it is taken back.
            self.told.extend(self.waiting.drain(..written / NUMBER));
        }
    }

    /// Reads how many files closers have closed.
    pub fn read_closed(&mut self) {
        let Ok(count) = self.closed.read() else { return };
        self.let_go(usize::try_from(count).unwrap_or(usize::MAX));
        (self.progress, self.nudges) = (Instant::now(), 0);
        self.rounds += u64::from(self.backlog() == 0);
        while self.backlog() == 0 && self.wanted > CLOSERS {
            if write(&self.numbers[1], &DISMISSED.to_ne_bytes()).is_err() {
                return;
            }
            self.wanted -= 1;
            self.dismissed += 1;
        }
    }

    /// How many files wait to be closed.
    pub fn backlog(&self) -> usize {
        self.told.len() + self.waiting.len()
    }

    /// A number that changes whenever all files are closed. It tells which clients have dropped files since then.
    pub fn round(&self) -> u64 {
        self.rounds
    }

    /// Whether so many files wait that the clients that dropped them must wait too.
    pub fn is_behind(&self) -> bool {
        self.backlog() > BEHIND
    }

    /// When to look whether all closers wait, or to ask for more closers.
    pub fn due(&self) -> Option<Instant> {
        let stall = (self.told.len() > self.pids.len()).then(|| self.progress + STALL);
        stall.into_iter().chain(self.pause_until).min()
    }

    /// Signals the closers if all wait while more files wait. Returns true if that does not help, so that one more
    /// closer is started.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.told.len() <= self.pids.len() || self.progress + STALL > now {
            return false;
        }
        for pid in &self.pids {
            for signal in NUDGE {
                let _ = kill(*pid, signal);
            }
        }
        self.progress = now;
        self.nudges += 1;
        let grows = self.nudges.is_multiple_of(FUTILE) && self.wanted < CLOSERS_MAX;
        self.wanted += usize::from(grows);
        grows
    }

    /// Ends all closers. The kernel closes the remaining files when the last process that shares the table ends.
    pub fn end(&mut self) {
        self.told.append(&mut self.waiting);
        self.let_go(usize::MAX);
        for pid in self.pids.drain(..) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl AsFd for Closers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.closed.as_fd()
    }
}

/// The loop of a closer: closes files until it is killed. No other process of this table uses these numbers any more.
pub fn work(numbers: BorrowedFd<'_>, closed: BorrowedFd<'_>) {
    let mut octets = [0; NUMBER];
    loop {
        match read(numbers, &mut octets) {
            Ok(NUMBER) => {}
            Err(Errno::EINTR) => continue,
            _ => return,
        }
        match RawFd::from_ne_bytes(octets) {
            DISMISSED => return,
            number => drop(nix::unistd::close(number)),
        }
        let _ = write(closed, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn file() -> Rc<OwnedFd> {
        Rc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))
    }

    /// Reads a number as a closer does.
    fn next(closers: &Closers) -> RawFd {
        let mut octets = [0; NUMBER];
        assert_eq!(read(&closers.numbers[0], &mut octets), Ok(NUMBER));
        RawFd::from_ne_bytes(octets)
    }

    #[test]
    fn what_no_closer_has_begun_is_taken_back_before_a_worker_starts() {
        let mut closers = Closers::new().unwrap();
        let files: Vec<_> = (0..2000).map(|_| file()).collect();
        let numbers: Vec<_> = files.iter().map(|fd| fd.as_raw_fd()).collect();
        files.into_iter().for_each(|fd| closers.take(fd));
        closers.tell();
        let begun = [next(&closers), next(&closers)];
        closers.pause(true);
        closers.tell();
        let mut kept: Vec<_> = closers.waiting.iter().map(|fd| fd.as_raw_fd()).collect();
        kept.sort_unstable();
        let mut rest: Vec<_> = numbers.into_iter().filter(|number| !begun.contains(number)).collect();
        rest.sort_unstable();
        assert_eq!((kept, closers.told.len(), closers.backlog()), (rest, 2, 2000));
        // The closers close theirs, and one number is used again and waits behind the others.
        nix::unistd::close(begun[1]).unwrap();
        // Closed and opened again in one step: other tests open files meanwhile.
        // SAFETY: the test plays the closer, which owns this number now.
        #[allow(unsafe_code)]
        let again = Rc::new(unsafe { nix::unistd::dup2_raw(&closers.numbers[0], begun[0]) }.unwrap());
        closers.closed.write(2).unwrap();
        closers.take(again);
        closers.pause(false);
        closers.tell();
        assert_eq!((closers.waiting.len(), closers.told.len()), (0, 2001));
        closers.pause(true);
        assert_eq!((closers.waiting.len(), closers.told.len()), (1999, 2), "two are closed and not counted yet");
        closers.read_closed();
        assert_eq!(closers.backlog(), 1999);
    }
}
