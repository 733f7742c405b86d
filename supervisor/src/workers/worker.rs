//! One worker's life, from the request to the spawner until its death is known.
//!
//! Each task of a worker has a time limit. A worker is killed for being late only if it has also run for that time,
//! because it is not at fault if the host does not let it run. After [`STARVED`] it is killed in any case, because
//! clients wait.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use sv3::foreign::ForeignFd;
use sv3::ipc::{Command, PortKind};
use sv3_policy::WorkerRole;

use crate::fd_inventory::OpenFile;
use crate::workers::breach::Breach;
use crate::workers::command::WorkerCommand;
use crate::workers::cpu_time::{STARVED, of_process};
use crate::workers::idle_reports::IdleReports;
use crate::workers::link::Link;
use crate::workers::pending_unmap::UnmapQueue;
use crate::workers::spawner::{Program, Spawner};
use crate::workers::told_ports::ToldPorts;

/// Time, and processor time, that a worker has until it is ready.
const START_TIME: Duration = Duration::from_secs(5);
/// Time, and processor time, that a worker has to execute commands.
const COMMAND_TIME: Duration = Duration::from_secs(1);
/// How long a worker may live after its link has closed, whether or not it runs: guests are not served meanwhile, and
/// no client is blamed.
const DEATH_TIME: Duration = Duration::from_millis(100);
/// How long the kernel may take to report the death of a killed worker. After that the worker is handled as dead: the
/// kernel may still hold it (for a disk, or in a frozen control group), but it never runs again.
const BURIAL_TIME: Duration = Duration::from_millis(100);
/// Time between two looks at the processor time of a worker that is late.
const LOOK: Duration = Duration::from_millis(100);
/// Most lines that a worker may write to stderr in its life, and the longest of them in octets.
const LINES_MAX: usize = 20;
const LINE_MAX: usize = 400;

/// A worker.
pub struct Worker {
    /// Its area of the ledger.
    pub area: u8,
    /// What it runs.
    pub program: Program,
    /// What it may have: its seccomp policy has what that needs.
    pub role: WorkerRole,
    /// Since when it serves; `None` on standby.
    pub serving: Option<Instant>,
    /// Number of the command that promoted it: reports about earlier commands do not count.
    pub promoted: u64,
    /// It has reached the barrier after its promotion.
    pub took_over: bool,
    /// The link to it.
    pub link: Link,
    /// The events that epoll waits for on the link.
    pub interest: EpollFlags,
    /// Its stderr.
    pub stderr: File,
    /// Its pid, once the spawner has answered.
    pub pid: Option<Pid>,
    /// When the spawner was asked for it.
    pub asked: Instant,
    /// Landlock ABI that it achieved, once it is ready.
    pub ready: Option<u32>,
    /// Digest of the seccomp policy that it put on, once it is ready.
    pub policy: u32,
    /// Virtio features that it serves, once it is ready.
    pub offers: u64,
    kill_reason: Option<String>,
    killed: Option<Instant>,
    hung_up: Option<Instant>,
    /// When to look again, because it is late and did not run.
    excused: Option<Instant>,
    told: ToldPorts,
    barriers: VecDeque<Barrier>,
    letting_go: UnmapQueue,
    reached: u64,
    said: Vec<u8>,
    last_line: Option<String>,
    lines: usize,
    idle_reports: IdleReports,
}

/// What a worker is started with. The fds stay open until the spawner has answered.
pub struct StartingWorker {
    /// The worker's area of the ledger.
    pub area: u8,
    stdin: OwnedFd,
    stderr: OwnedFd,
    given: Vec<Rc<ForeignFd>>,
}

impl StartingWorker {
    /// Asks the spawner for the worker.
    pub fn ask(&self, spawner: &mut Spawner, program: Program, role: WorkerRole) -> io::Result<()> {
        spawner.give(self.given.iter().map(|fd| fd.as_fd()))?;
        spawner.request(program, self.fds(), role)
    }

    /// Its stdin and stderr.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.stdin.as_fd(), self.stderr.as_fd()]
    }
}

struct Barrier {
    seq: u64,
    waiter: Waiter,
    due: Instant,
    /// Processor time that the worker had used when the command was sent.
    cpu: Duration,
}

/// What a barrier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The session of the port in this slot.
    Session(u16),
    /// The slot of a client that is gone.
    Leaving(u16),
    /// The card of the port in this slot, which was closed.
    Retired(u16),
    /// Nothing: the worker is on standby, and another worker's report counts.
    Nobody,
    /// The end of a take-over, whose length is measured.
    TakeOver,
    /// The end of a trace.
    Trace,
    /// The planned handover to this standby.
    Planned,
    /// Those who wait until the serving worker has obeyed what they asked for: a configuration, a mirror, a capture.
    Obeyed,
}

impl Worker {
    /// A worker that the spawner was not asked for yet, and its ends of the link and of stderr.
    pub fn not_started(program: Program, area: u8) -> io::Result<(Worker, StartingWorker)> {
        let (link, stdin) = Link::pair()?;
        let (read, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Worker::new(program, area, link, read.into()), StartingWorker { area, stdin, stderr, given: Vec::new() }))
    }

    /// Queues commands whose fds the worker will inherit.
    pub fn queue_inherited(
        &mut self,
        commands: impl IntoIterator<Item = WorkerCommand>,
        starting: &mut StartingWorker,
    ) {
        for next in commands {
            if !self.passes(&next.command) {
                continue;
            }
            let pushed = self.link.push_inherited(&next);
            self.note(&next.command, pushed, Waiter::Nobody);
            starting.given.extend(next.fd);
        }
    }

    /// A worker that the spawner was asked for just now.
    pub fn new(program: Program, area: u8, link: Link, stderr: File) -> Worker {
        Worker {
            area,
            program,
            role: WorkerRole::Plain,
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
            kill_reason: None,
            killed: None,
            hung_up: None,
            excused: None,
            told: ToldPorts::default(),
            barriers: VecDeque::new(),
            letting_go: UnmapQueue::default(),
            reached: 0,
            said: Vec::new(),
            last_line: None,
            lines: 0,
            idle_reports: IdleReports::default(),
        }
    }

    /// Promotes a standby.
    pub fn promote(&mut self) {
        self.serving = Some(Instant::now());
        self.promoted = self.link.last_seq() + 1;
        self.send([Command::Promote.into(), Command::Barrier.into()], Waiter::TakeOver);
    }

    /// Queues commands, except those about ports that the worker goes on without. A barrier among them is for `waiter`.
    pub fn send(&mut self, commands: impl IntoIterator<Item = WorkerCommand>, waiter: Waiter) {
        for next in commands {
            if !self.passes(&next.command) {
                continue;
            }
            let (command, takes) = (next.command.clone(), next.removes.clone());
            let pushed = self.link.push(next);
            if let (Ok(seq), Some(taken)) = (&pushed, takes) {
                self.letting_go.push(*seq, taken);
            }
            self.note(&command, pushed, waiter);
        }
    }

    /// Whether the worker is to get this command.
    fn passes(&mut self, command: &Command) -> bool {
        let seq = self.link.last_seq() + 1;
        if let Command::PortAdd { port, kind: PortKind::Files, .. } = command
            && self.role < WorkerRole::Files
        {
            self.told.strike(*port, seq, "its policy has no syscalls for open files".to_string());
            return false;
        }
        self.told.passes(command, seq)
    }

    fn note(&mut self, command: &Command, pushed: io::Result<u64>, waiter: Waiter) {
        match pushed {
            Ok(seq) if *command == Command::Barrier => {
                let cpu = of_process(self.pid);
                self.barriers.push_back(Barrier { seq, waiter, due: Instant::now() + COMMAND_TIME, cpu });
            }
            Ok(_) => {}
            Err(error) => self.kill(&format!("commands cannot be sent to it: {error}")),
        }
    }

    /// Sends queued commands. While the kernel has no room for them, the time limit does not run.
    pub fn flush(&mut self) -> io::Result<()> {
        let was_refused = self.link.refused_until().is_some();
        self.link.flush()?;
        if was_refused || self.link.refused_until().is_some() {
            self.restart_clocks();
        }
        Ok(())
    }

    /// The worker reports that it is ready. Returns false if it did so before.
    pub fn became_ready(&mut self, landlock_abi: u32, offers: u64) -> bool {
        self.offers = offers;
        self.restart_clocks();
        self.ready.replace(landlock_abi).is_none()
    }

    /// Starts the time limit of queued commands now.
    fn restart_clocks(&mut self) {
        let (due, cpu) = (Instant::now() + COMMAND_TIME, of_process(self.pid));
        self.barriers.iter_mut().for_each(|barrier| (barrier.due, barrier.cpu) = (due, cpu));
    }

    /// The worker reports a barrier. Returns what the barrier was for, if it was the next one.
    pub fn reached(&mut self, seq: u64) -> Option<Waiter> {
        let next = self.barriers.front().filter(|barrier| barrier.seq == seq).map(|barrier| barrier.waiter)?;
        self.barriers.pop_front();
        self.reached = seq;
        Some(next)
    }

    /// The worker reports as unmapped all that the commands up to `seq` took away.
    pub fn unmapped(&mut self, seq: u64) -> Result<(), Breach> {
        self.letting_go.unmapped(seq, self.link.last_seq())
    }

    /// The worker is dead. Returns the files that it was told to unmap.
    pub fn let_go(&mut self) -> UnmapQueue {
        std::mem::take(&mut self.letting_go)
    }

    /// The supervisor's files of this worker.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let pid = self.pid.map_or("that is being started".to_string(), |pid| pid.to_string());
        let own = [
            OpenFile::new(&self.link, "socket", format!("worker {pid}")),
            OpenFile::new(&self.stderr, "pipe", format!("stderr of worker {pid}")),
        ];
        let taken = self.letting_go.files().map(move |file| {
            let purpose = format!("memory that was removed from worker {pid} and is still mapped there");
            OpenFile::borrowed(file.as_fd(), "memory", purpose)
        });
        own.into_iter().chain(taken)
    }

    /// Whether the command of this number was sent after the last barrier that the worker has reported.
    pub fn is_under_way(&self, seq: u64) -> bool {
        (self.reached + 1..=self.link.last_seq()).contains(&seq)
    }

    /// Whether a report on a command of this number is about the slot's present client.
    pub fn is_about(&self, slot: u16, seq: u64) -> bool {
        self.told.is_about(slot, seq)
    }

    /// Makes the worker forget a port and go on without it.
    pub fn leave_out(&mut self, slot: u16, why: String) {
        self.send([Command::PortRemove { port: slot }.into()], Waiter::Nobody);
        self.told.strike(slot, self.link.last_seq(), why);
    }

    /// Why it goes on without a port, if it does.
    pub fn lacks(&self, slot: u16) -> Option<&str> {
        self.told.lacks(slot)
    }

    /// When the worker must have finished its next task, or when to look again.
    pub fn due(&self) -> Option<Instant> {
        let due = match (&self.kill_reason, self.hung_up, self.ready) {
            (Some(_), _, _) => return self.killed.map(|since| since + BURIAL_TIME),
            (None, Some(since), _) => Some(since + DEATH_TIME),
            (None, None, None) => Some(self.asked + START_TIME),
            (None, None, Some(_)) => self.barriers.front().map(|barrier| barrier.due),
        };
        due.map(|due| self.excused.map_or(due, |again| due.max(again)))
    }

    /// Whether it is ready and has executed all that it was asked to report.
    pub fn is_settled(&self) -> bool {
        self.ready.is_some() && self.pid.is_some() && self.barriers.is_empty() && self.kill_reason.is_none()
    }

    /// Since when the oldest barrier waits.
    pub fn waits_since(&self) -> Option<Instant> {
        let ready = self.ready.is_some() && self.kill_reason.is_none();
        self.barriers.front().filter(|_| ready).and_then(|barrier| barrier.due.checked_sub(COMMAND_TIME))
    }

    /// Kills a worker that is late, unless it did not run.
    pub fn is_overdue(&mut self, now: Instant) {
        let (since, time, before, late) = match (self.hung_up, self.ready, self.barriers.front()) {
            (Some(_), _, _) => return self.kill("it closed its link"),
            (None, None, _) => (Some(self.asked), START_TIME, Duration::ZERO, "it was not ready in time"),
            (None, Some(_), Some(next)) => {
                (self.waits_since(), COMMAND_TIME, next.cpu, "it did not execute a command in time")
            }
            (None, Some(_), None) => return,
        };
        let ran = of_process(self.pid).saturating_sub(before) >= time;
        match ran || since.is_none_or(|since| now >= since + STARVED) {
            true => self.kill(late),
            false => self.excused = Some(now + LOOK),
        }
    }

    /// Notes that the link is closed. Mostly this is the first sign of the worker's death, and the kernel will soon
    /// report why it died.
    pub fn hang_up(&mut self) {
        self.hung_up.get_or_insert_with(Instant::now);
    }

    /// Whether the link is closed.
    pub fn has_hung_up(&self) -> bool {
        self.hung_up.is_some()
    }

    /// Its pid, once it is ready, for status.
    pub fn ready_pid(&self) -> Option<u32> {
        self.ready.and(self.pid).and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// Counts a report without news. Kills the worker after too many.
    pub fn count_idle_report(&mut self) {
        if self.idle_reports.add(Instant::now()) {
            self.kill("it floods the supervisor with reports");
        }
    }

    /// Kills the worker. The first reason counts. The kernel reports the death later.
    pub fn kill(&mut self, why: &str) {
        self.kill_reason.get_or_insert_with(|| why.to_string());
        if let Some(pid) = self.pid {
            self.end(pid);
        }
    }

    fn end(&mut self, pid: Pid) {
        let _ = kill(pid, Signal::SIGKILL);
        self.killed.get_or_insert_with(Instant::now);
    }

    /// Why the supervisor killed it, if it did.
    pub fn kill_reason(&self) -> Option<&str> {
        self.kill_reason.as_deref()
    }

    /// Sets the pid that the spawner answered.
    pub fn set_pid(&mut self, pid: Pid) {
        self.pid = Some(pid);
        if self.kill_reason.is_some() {
            self.end(pid);
        }
    }

    /// Complete lines that it has written to stderr, made printable, and at most [`LINES_MAX`] in its life. An error
    /// means that the worker has closed stderr.
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

    /// The last line that it wrote to stderr.
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
