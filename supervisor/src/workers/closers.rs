//! The closers: processes that close what strangers opened.
//!
//! # Theory of operation
//!
//! The last close of a file may wait in the kernel for as long as whoever opened it likes ([`sv3::foreign`]), and the
//! supervisor must wait for nobody. So each [`ForeignFd`](sv3::foreign::ForeignFd) that it drops is put aside
//! ([`keep_for_later`]), and its number is written to a pipe. Closers have no other work than to read a number from
//! it and to close the file. They share the supervisor's table of files (`CLONE_FILES`), as the spawner does that
//! starts them: nothing is sent, so nothing counts against the kernel's limit of files under way, and the number is
//! free as soon as close(2) has begun, however long it takes.
//!
//! Several closers ([`CLOSERS`]) read from one pipe, so one that waits holds up no other. When all wait for longer
//! than [`STALL`] and there is more to do, they are stopped and let go on, which ends the wait for a socket that
//! lingers. A wait that no signal ends (a FUSE server's, or work such as giving back much memory) makes the crew
//! grow, one by one, up to [`CLOSERS_MAX`]; the others are dismissed when all is done.
//!
//! What waits to be closed takes up fd numbers, so the supervisor does not listen to those who add to it while there is
//! too much of it ([`Closers::is_behind`]).
//!
//! A worker begins as a copy of the table. While one does ([`Closers::pause`]) nothing is closed, so that the copy is
//! never the last one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2, read, write};

/// How many closers there are, and how many at most while some wait.
const CLOSERS: usize = 3;
const CLOSERS_MAX: usize = 16;
/// How long all of them may wait while there is more to do.
const STALL: Duration = Duration::from_millis(100);
/// Signals in a row that change nothing, after which the crew grows.
const FUTILE: u32 = 10;
/// How long none is asked for after one ended by itself.
const PAUSE: Duration = Duration::from_millis(100);
/// What ends a wait that can be ended. Needs no handler, and leaves a process as it was, wherever it is.
const NUDGE: [Signal; 2] = [Signal::SIGSTOP, Signal::SIGCONT];
/// In place of a number: the closer that reads it ends.
const DISMISSED: RawFd = -1;
/// Files that may wait to be closed until those who add to them are not listened to any more.
const BEHIND: usize = 64;
/// Most files that are told of at a time: as many numbers as a pipe takes in one piece.
const PIECE: usize = 1024;
/// Octets of a number.
const NUMBER: usize = size_of::<RawFd>();

thread_local! {
    /// Dropped since the loop's last turn. Nothing here is closed when the process ends: the kernel then waits for
    /// nobody.
    static DROPPED: RefCell<Vec<Rc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// Puts a file aside that was dropped; a [`sv3::foreign::Closer`].
pub fn keep_for_later(fd: Rc<OwnedFd>) {
    let _ = DROPPED.try_with(|dropped| dropped.borrow_mut().push(fd));
}

/// The files that were dropped since this was asked last.
pub fn dropped() -> Vec<Rc<OwnedFd>> {
    DROPPED.take()
}

/// What a closer needs to know: where numbers come from, and where it says that one is closed.
#[derive(Clone, Copy)]
pub struct Tools {
    /// A pipe of numbers.
    pub numbers: RawFd,
    /// An eventfd, which counts.
    pub closed: RawFd,
}

/// The supervisor's side.
pub struct Closers {
    numbers: [OwnedFd; 2],
    closed: EventFd,
    /// Files that no closer was told of.
    waiting: VecDeque<Rc<OwnedFd>>,
    /// Files that closers were told of and have not closed.
    told: usize,
    /// When the last of them was closed, or the first was told.
    progress: Instant,
    /// A worker is being started.
    paused: bool,
    crew: Vec<Pid>,
    /// How many there should be.
    wanted: usize,
    /// Closers that the spawner was asked for.
    asked: usize,
    /// Those among the crew that have been told to end.
    dismissed: usize,
    /// How often all was closed.
    rounds: u64,
    /// Signals since something was closed.
    nudges: u32,
    /// One ended by itself or could not be started: none is asked for before.
    pause_until: Option<Instant>,
}

impl Closers {
    /// No closers yet.
    pub fn new() -> io::Result<Closers> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Closers {
            numbers: [theirs, ours],
            closed: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            waiting: VecDeque::new(),
            told: 0,
            progress: Instant::now(),
            paused: false,
            crew: Vec::new(),
            wanted: CLOSERS,
            asked: 0,
            dismissed: 0,
            rounds: 0,
            nudges: 0,
            pause_until: None,
        })
    }

    /// How many closers the spawner is to start now.
    pub fn missing(&mut self, now: Instant) -> usize {
        self.pause_until.take_if(|until| *until <= now);
        if self.pause_until.is_some() {
            return 0;
        }
        let missing = self.wanted.saturating_sub(self.crew.len() - self.dismissed.min(self.crew.len()) + self.asked);
        self.asked += missing;
        missing
    }

    /// What a closer is started with.
    pub fn tools(&self) -> Tools {
        use std::os::fd::AsRawFd;
        Tools { numbers: self.numbers[0].as_raw_fd(), closed: self.closed.as_fd().as_raw_fd() }
    }

    /// The spawner has started one, or not.
    pub fn started(&mut self, pid: Option<Pid>) {
        self.asked = self.asked.saturating_sub(1);
        self.crew.extend(pid);
        if pid.is_none() {
            self.pause_until = Some(Instant::now() + PAUSE);
        }
    }

    /// A process has ended. True: it was a closer.
    pub fn ended(&mut self, pid: Pid) -> bool {
        let Some(at) = self.crew.iter().position(|other| *other == pid) else { return false };
        self.crew.swap_remove(at);
        match self.dismissed.checked_sub(1) {
            Some(left) => self.dismissed = left,
            None => {
                // Somebody killed it, and it may have been closing one.
                self.told = self.told.saturating_sub(1);
                self.pause_until = Some(Instant::now() + PAUSE);
            }
        }
        true
    }

    /// The closers' processes.
    pub fn crew(&self) -> &[Pid] {
        &self.crew
    }

    /// The fds that it holds, and what they are for.
    pub fn fds(&self) -> [(BorrowedFd<'_>, &'static str, &'static str); 3] {
        let [theirs, ours] = &self.numbers;
        [
            (theirs.as_fd(), "pipe", "numbers of files to close, for the closers"),
            (ours.as_fd(), "pipe", "the same, to write them"),
            (self.closed.as_fd(), "eventfd", "what the closers have closed"),
        ]
    }

    /// Files that wait to be closed.
    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.waiting.iter().map(|fd| fd.as_fd())
    }

    /// Nothing is closed until this is taken back.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Takes a file to be closed, of which nobody else has the [`Rc`].
    pub fn take(&mut self, fd: Rc<OwnedFd>) {
        self.waiting.push_back(fd);
    }

    /// Tells the closers of as many files as there is room for.
    pub fn tell(&mut self) {
        while !self.paused && !self.waiting.is_empty() {
            let count = self.waiting.len().min(PIECE);
            let raw = |fd: &Rc<OwnedFd>| std::os::fd::AsRawFd::as_raw_fd(&**fd).to_ne_bytes();
            let octets: Vec<u8> = self.waiting.iter().take(count).flat_map(raw).collect();
            // A pipe takes a piece of this size whole or not at all.
            let Ok(written) = write(&self.numbers[1], &octets) else { return };
            for fd in self.waiting.drain(..written / NUMBER) {
                // From here on the number is a closer's.
                let _ = Rc::try_unwrap(fd).map(IntoRawFd::into_raw_fd);
            }
            if self.told == 0 {
                self.progress = Instant::now();
            }
            self.told += written / NUMBER;
        }
    }

    /// Closers have closed some.
    pub fn hear(&mut self) {
        let Ok(count) = self.closed.read() else { return };
        self.told = self.told.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
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
        self.told + self.waiting.len()
    }

    /// A number that changes whenever all is closed: who has added files since then is told by it from who had before.
    pub fn round(&self) -> u64 {
        self.rounds
    }

    /// So many files wait that who adds to them has to wait too.
    pub fn is_behind(&self) -> bool {
        self.backlog() > BEHIND
    }

    /// When to look whether all closers wait, or to ask for others.
    pub fn due(&self) -> Option<Instant> {
        let stall = (self.told > self.crew.len()).then(|| self.progress + STALL);
        stall.into_iter().chain(self.pause_until).min()
    }

    /// Wakes closers that all wait while there is more to do. True: that does not help, and there will be one more.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.told <= self.crew.len() || self.progress + STALL > now {
            return false;
        }
        for pid in &self.crew {
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

    /// Ends all. What was not closed the kernel closes with the last of us, and waits for nobody then.
    pub fn end(&mut self) {
        for fd in self.waiting.drain(..) {
            let _ = Rc::try_unwrap(fd).map(IntoRawFd::into_raw_fd);
        }
        for pid in self.crew.drain(..) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl AsFd for Closers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.closed.as_fd()
    }
}

/// A closer's life: closes what it is told to, until it is killed. The numbers are of files that nobody else in this
/// table uses any more.
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
