//! One worker's life, from the request to the spawner until its death is known.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use sv3::ipc::Command;

use crate::lingering::LettingGo;
use crate::link::Link;
use crate::record::Order;
use crate::session::Breach;
use crate::spawner::{Program, Spawner};

/// How long a worker may take until it is ready.
const START_TIME: Duration = Duration::from_secs(5);
/// How long a worker may take to obey.
const OBEY_TIME: Duration = Duration::from_secs(1);
/// How long a worker may outlive its link.
const DEATH_TIME: Duration = Duration::from_millis(100);
/// Lines that a worker may write to stderr in its life, and the longest of them in octets.
const LINES_MAX: usize = 20;
const LINE_MAX: usize = 400;
/// Reports without news that a worker may send in its life.
const IDLE_REPORTS_MAX: u32 = 65536;

/// A worker.
pub struct Worker {
    /// Its lane of the ledger.
    pub lane: u8,
    /// What it runs.
    pub program: Program,
    /// Since when it serves; a worker on standby does not.
    pub serving: Option<Instant>,
    /// Number of the order that promoted it: what it did before then counts for nothing.
    pub promoted: u64,
    /// It has reached the barrier behind its promotion.
    pub took_over: bool,
    /// The wire to it.
    pub link: Link,
    /// The events that epoll is asked for on the link.
    pub interest: EpollFlags,
    /// Its stderr.
    pub stderr: File,
    /// Its process, once the spawner has told.
    pub pid: Option<Pid>,
    /// When it was asked for.
    pub asked: Instant,
    /// Landlock ABI that it achieved, once it is ready.
    pub ready: Option<u32>,
    /// Digest of the seccomp policy that it put on, once it is ready.
    pub policy: u32,
    /// Virtio features that it serves, once it is ready.
    pub offers: u64,
    doom: Option<String>,
    hung_up: Option<Instant>,
    barriers: VecDeque<Barrier>,
    letting_go: LettingGo,
    reached: u64,
    said: Vec<u8>,
    last_line: Option<String>,
    lines: usize,
    idle_reports: u32,
}

struct Barrier {
    seq: u64,
    waiter: Waiter,
    due: Instant,
}

/// Who waits for a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The session of the port in this slot.
    Session(u16),
    /// The slot of a client that is gone.
    Leaving(u16),
    /// Nobody: the worker is on standby, another one's word counts.
    Nobody,
    /// Those who ask how long a take-over took.
    TakeOver,
    /// Who planned that this worker, on standby, takes over.
    Planned,
}

impl Worker {
    /// Asks the spawner for a worker.
    pub fn ask_for(spawner: &Spawner, program: Program, lane: u8) -> io::Result<Worker> {
        let (link, stdin) = Link::pair()?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        spawner.request(program, stdin.as_fd(), write.as_fd())?;
        Ok(Worker::new(program, lane, link, read.into()))
    }

    /// A worker that was asked for just now.
    pub fn new(program: Program, lane: u8, link: Link, stderr: File) -> Worker {
        Worker {
            lane,
            program,
            serving: None,
            promoted: 0,
            took_over: false,
            link,
            interest: EpollFlags::EPOLLIN,
            stderr,
            pid: None,
            asked: Instant::now(),
            ready: None,
            policy: 0,
            offers: 0,
            doom: None,
            hung_up: None,
            barriers: VecDeque::new(),
            letting_go: LettingGo::default(),
            reached: 0,
            said: Vec::new(),
            last_line: None,
            lines: 0,
            idle_reports: 0,
        }
    }

    /// Makes a worker on standby serve.
    pub fn promote(&mut self) {
        self.serving = Some(Instant::now());
        self.promoted = self.link.last_seq() + 1;
        self.order([Command::Promote.into(), Command::Barrier.into()], Waiter::TakeOver);
    }

    /// Queues orders. A barrier among them is for `waiter`.
    pub fn order(&mut self, orders: impl IntoIterator<Item = Order>, waiter: Waiter) {
        for order in orders {
            let (is_barrier, takes) = (order.command == Command::Barrier, order.takes.clone());
            match self.link.push(order) {
                Ok(seq) => {
                    if is_barrier {
                        self.barriers.push_back(Barrier { seq, waiter, due: Instant::now() + OBEY_TIME });
                    }
                    if let Some(taken) = takes {
                        self.letting_go.ordered(seq, taken);
                    }
                }
                Err(error) => self.kill(&format!("it cannot be told: {error}")),
            }
        }
    }

    /// The worker says that it is ready. Returns whether that was due.
    pub fn became_ready(&mut self, landlock_abi: u32, offers: u64) -> bool {
        self.offers = offers;
        let due = Instant::now() + OBEY_TIME;
        self.barriers.iter_mut().for_each(|barrier| barrier.due = due);
        self.ready.replace(landlock_abi).is_none()
    }

    /// The worker says that it has reached a barrier. Returns who waited, if it was the next one.
    pub fn reached(&mut self, seq: u64) -> Option<Waiter> {
        let next = self.barriers.front().filter(|barrier| barrier.seq == seq).map(|barrier| barrier.waiter)?;
        self.barriers.pop_front();
        self.reached = seq;
        Some(next)
    }

    /// The worker says that all which the orders up to this one took away is unmapped.
    pub fn unmapped(&mut self, seq: u64) -> Result<(), Breach> {
        self.letting_go.unmapped(seq, self.link.last_seq())
    }

    /// It is dead: what it was ordered to let go of.
    pub fn let_go(&mut self) -> LettingGo {
        std::mem::take(&mut self.letting_go)
    }

    /// Memory files that it was ordered to let go of and has mapped still.
    pub fn taken_files(&self) -> impl Iterator<Item = &Rc<OwnedFd>> {
        self.letting_go.files()
    }

    /// Whether the worker has been given an order of this number and has not said yet that it is past it.
    pub fn is_under_way(&self, seq: u64) -> bool {
        (self.reached + 1..=self.link.last_seq()).contains(&seq)
    }

    /// When the worker must have done what it has to do next.
    pub fn due(&self) -> Option<Instant> {
        match (&self.doom, self.hung_up, self.ready) {
            (Some(_), _, _) => None,
            (None, Some(since), _) => Some(since + DEATH_TIME),
            (None, None, None) => Some(self.asked + START_TIME),
            (None, None, Some(_)) => self.barriers.front().map(|barrier| barrier.due),
        }
    }

    /// Since when somebody waits for it to obey.
    pub fn waits_since(&self) -> Option<Instant> {
        let ready = self.ready.is_some() && self.doom.is_none();
        self.barriers.front().filter(|_| ready).and_then(|barrier| barrier.due.checked_sub(OBEY_TIME))
    }

    /// What is due has not been done: kills it.
    pub fn is_overdue(&mut self) {
        self.kill(match (self.hung_up, self.ready) {
            (Some(_), _) => "it closed its control socket",
            (None, None) => "it did not start in time",
            (None, Some(_)) => "it did not obey in time",
        });
    }

    /// The link is broken. Mostly this is the first sign of its death, and the kernel will soon say why it died.
    pub fn hang_up(&mut self) {
        self.hung_up.get_or_insert_with(Instant::now);
    }

    /// Whether the link is broken.
    pub fn has_hung_up(&self) -> bool {
        self.hung_up.is_some()
    }

    /// Its process, once it is ready, for status.
    pub fn ready_pid(&self) -> Option<u32> {
        self.ready.and(self.pid).and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// Counts a report without news; too many are a reason to die.
    pub fn count_idle_report(&mut self) {
        self.idle_reports += 1;
        if self.idle_reports > IDLE_REPORTS_MAX {
            self.kill("it floods the supervisor with reports");
        }
    }

    /// Kills it, for this reason; the first one counts. Its death is known when the kernel says so.
    pub fn kill(&mut self, why: &str) {
        self.doom.get_or_insert_with(|| why.to_string());
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Why we killed it, if we did.
    pub fn doom(&self) -> Option<&str> {
        self.doom.as_deref()
    }

    /// The spawner has told the process.
    pub fn is_born(&mut self, pid: Pid) {
        self.pid = Some(pid);
        if self.doom.is_some() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Whole lines that it has written to stderr, made printable. Nothing more after [`LINES_MAX`] of them, and an error
    /// when it has closed it.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut octets = [0; 4096];
        match self.stderr.read(&mut octets) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.said.extend_from_slice(octets.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut lines = Vec::new();
        while let Some(end) = self.said.iter().position(|octet| *octet == b'\n').or_else(|| self.overlong()) {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            self.lines += 1;
            if self.lines <= LINES_MAX {
                lines.push(printable(&line));
            }
        }
        if let Some(line) = lines.last() {
            self.last_line = Some(line.clone());
        }
        Ok(lines)
    }

    /// What it wrote to stderr last.
    pub fn last_line(&self) -> Option<&str> {
        self.last_line.as_deref()
    }

    fn overlong(&self) -> Option<usize> {
        (self.said.len() > LINE_MAX).then_some(LINE_MAX)
    }
}

fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().take(LINE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
