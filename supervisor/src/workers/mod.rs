//! The life of a worker: the supervisor starts it, tells it all that its predecessor was told, watches it, and explains
//! its death.
//!
//! [`Workers`] owns the serving worker, the standby, and what outlives both. It does not know clients: it sees ports as
//! [`Replay`](crate::ports::port::Replay)s. Where an event here concerns clients, the method returns it.

pub mod addresses;
pub mod breach;
pub mod chaos;
pub mod children;
pub mod closers;
pub mod command;
pub mod cpu_time;
pub mod death;
pub mod handover;
pub mod idle_reports;
pub mod link;
pub mod observers;
pub mod pending_unmap;

pub mod spawner;
pub mod starts;
pub mod succession;

pub mod told_ports;
pub mod watch;
pub mod watchdog;
pub mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::foreign::ForeignFd;
use sv3::ipc::Settings;
use sv3::ledger::{LedgerMap, WorkerArea};

use crate::fd_inventory::OpenFile;
use crate::reactor::Reactor;
use crate::timers::Timers;
use crate::token::Token;
use addresses::Addresses;
use children::Children;
use closers::Closers;
use command::WorkerCommand;
use handover::Handover;
use observers::Observers;
use spawner::Spawner;
use succession::Succession;
use sv3_policy::WorkerRole;
use watch::Watch;
use worker::{Waiter, Worker};

/// How workers are started.
pub struct WorkerConfig {
    /// The settings that workers get.
    pub settings: Settings,
    /// The binary that they run at first, for a message.
    pub path: PathBuf,
    /// Threads of each worker.
    pub threads: u16,
    /// Processors that they run on, for status, if `--cpus` was given.
    pub cpus: Option<String>,
    /// Whether there is a standby.
    pub standby: bool,
    /// What a worker that is started from now on may have. It never becomes less.
    pub role: WorkerRole,
    /// A worker with a lower landlock ABI is not used.
    pub require_landlock: u32,
}

/// The workers, and what outlives each of them.
pub struct Workers {
    /// The worker that serves.
    pub serving: Option<Worker>,
    /// The standby.
    pub standby: Option<Worker>,
    /// Which worker follows which.
    pub succession: Succession,
    /// The planned handover.
    pub handover: Handover,
    /// The watch over the serving worker.
    pub watch: Watch,
    /// The child processes.
    pub children: Children,
    /// Starts workers.
    pub spawner: Spawner,
    /// Closes clients' files.
    pub closers: Closers,
    /// The static addresses that workers are told of.
    pub addresses: Addresses,
    /// The captures and mirrors that workers are told of.
    pub observers: Observers,
    /// The ledger, which workers write.
    pub ledger: LedgerMap,
    ledger_fd: Rc<ForeignFd>,
    /// The area of the ledger that a worker of another supervisor has.
    spared: Option<u8>,
    /// How they are started.
    pub config: WorkerConfig,
}

/// The deadlines of workers.
#[derive(Clone, Copy)]
pub enum Timer {
    /// More children may have ended.
    Reap,
    /// Look whether a client blocks the worker. Must be done before the watchdog looks.
    StallLook,
    /// The watchdog looks.
    Watchdog,
    /// Chaos mode kills.
    Chaos,
    /// A worker is late.
    Late,
    /// Start a worker to serve.
    Start,
    /// Start a standby.
    Standby,
    /// A new binary has passed its trial.
    Trial,
    /// Look whether all closers wait, or ask for another closer.
    Closers,
    /// The kernel had no room for commands; each turn of the loop tries again.
    Retry,
}

impl Workers {
    /// No worker yet.
    pub fn new(
        config: WorkerConfig,
        spawner: Spawner,
        (ledger_fd, ledger): (ForeignFd, LedgerMap),
        chaos: Option<Duration>,
    ) -> io::Result<Workers> {
        Ok(Workers {
            serving: None,
            standby: None,
            succession: Succession::new(),
            handover: Handover::default(),
            watch: Watch::new(config.threads, chaos),
            children: Children::default(),
            spawner,
            closers: Closers::new()?,
            ledger,
            ledger_fd: Rc::new(ledger_fd.prompt()),
            spared: None,
            addresses: Addresses::default(),
            observers: Observers::default(),
            config,
        })
    }

    /// Watches the spawner and the closers from now on.
    pub fn listen(&self, reactor: &Reactor) -> io::Result<()> {
        reactor.watch(&self.spawner, Token::Spawner, EpollFlags::EPOLLIN)?;
        reactor.watch(&self.closers, Token::Closers, EpollFlags::EPOLLIN)
    }

    /// Uses one area of the ledger no more, until [`Workers::spare_none`].
    pub fn spare(&mut self, area: u8) {
        self.spared = Some(area);
    }

    /// Uses all areas of the ledger.
    pub fn spare_none(&mut self) {
        self.spared = None;
    }

    /// The ledger's file.
    pub fn ledger_fd(&self) -> BorrowedFd<'_> {
        self.ledger_fd.as_fd()
    }

    /// The existing workers.
    pub fn both(&self) -> impl Iterator<Item = &Worker> {
        [&self.serving, &self.standby].into_iter().flatten()
    }

    /// The same.
    pub fn both_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        [&mut self.serving, &mut self.standby].into_iter().flatten()
    }

    /// The worker of an area of the ledger.
    pub fn in_area(&mut self, area: u8) -> Option<&mut Worker> {
        self.both_mut().find(|worker| worker.area == area)
    }

    /// Whether the worker of an area serves.
    pub fn serves(&self, area: u8) -> bool {
        self.serving.as_ref().is_some_and(|worker| worker.area == area)
    }

    /// An area of the ledger.
    pub fn area(&self, number: u8) -> Option<&WorkerArea> {
        self.ledger.workers.get(usize::from(number))
    }

    /// Sends commands to every worker. Only the serving worker's barrier answers `waiter`. Returns false if no worker
    /// serves.
    pub fn send(&mut self, commands: Vec<WorkerCommand>, waiter: Waiter) -> bool {
        let commands = self.observers.accompany(commands);
        if let Some(standby) = &mut self.standby {
            standby.send(commands.iter().cloned(), Waiter::Nobody);
        }
        match &mut self.serving {
            Some(worker) => {
                worker.send(commands, waiter);
                true
            }
            None => false,
        }
    }

    /// Whether many commands wait for a worker, and some of them are about this slot.
    pub fn is_filled_by(&self, slot: u16) -> bool {
        self.both().any(|worker| !worker.has_hung_up() && worker.link.is_filled_by(slot))
    }

    /// Sends waiting commands to the workers.
    pub fn flush_links(&mut self, reactor: &Reactor) {
        for worker in self.both_mut().filter(|worker| !worker.has_hung_up()) {
            if worker.flush().is_err() {
                worker.hang_up();
                continue;
            }
            let mut wanted = EpollFlags::EPOLLIN;
            wanted.set(EpollFlags::EPOLLOUT, worker.link.is_backed_up() && worker.link.refused_until().is_none());
            if std::mem::replace(&mut worker.interest, wanted) != wanted {
                reactor.change(&worker.link, Token::Link(worker.area), wanted);
            }
        }
    }

    /// Stops watching a file of a worker that has reached its end: epoll would report it again and again.
    pub fn deafen(&self, area: u8, fd: impl Fn(&Worker) -> BorrowedFd<'_>, reactor: &Reactor) {
        if let Some(worker) = self.both().find(|worker| worker.area == area) {
            reactor.forget(fd(worker));
        }
    }

    /// Tells the closers which files to close, and asks for missing closers. An error means that the spawner is gone.
    pub fn close_files(&mut self, reactor: &Reactor) -> io::Result<()> {
        self.closers.pause(self.children.starts_a_worker());
        self.closers.tell();
        for _ in 0..self.closers.missing(Instant::now()) {
            match self.spawner.start_closer(self.closers.tools()) {
                Ok(()) => self.children.asked_for_closer(),
                Err(_) => self.closers.started(None),
            }
        }
        let flushed = self.spawner.flush();
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, self.spawner.is_backed_up());
        if std::mem::replace(&mut self.spawner.interest, wanted) != wanted {
            reactor.change(&self.spawner, Token::Spawner, wanted);
        }
        flushed
    }

    /// Lets both workers end, because the switch ends. Returns false if no worker serves, so that there is none to wait
    /// for.
    pub fn let_go(&mut self) -> bool {
        self.standby = None;
        let Some(Worker { pid, .. }) = self.serving.take() else { return false };
        self.children.expect_end(pid);
        true
    }

    /// The files that workers' owners hold.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let tools = self.spawner.fds().chain(self.closers.fds());
        let tools = tools.map(|(fd, kind, purpose)| OpenFile::borrowed(fd, kind, purpose));
        let closing = self.closers.files().map(|fd| OpenFile::borrowed(fd, "file", "a client's file, to be closed"));
        let ledger = OpenFile::borrowed(self.ledger_fd.as_fd(), "memory", "the ledger");
        let workers = self.both().flat_map(Worker::files);
        let observers = self.observers.files();
        tools.chain(closing).chain(self.children.files()).chain([ledger]).chain(observers).chain(workers)
    }
}

impl Timers for Workers {
    type Timer = Timer;
    const TIMERS: &'static [Timer] = &[
        Timer::Reap,
        Timer::StallLook,
        Timer::Watchdog,
        Timer::Chaos,
        Timer::Late,
        Timer::Start,
        Timer::Standby,
        Timer::Trial,
        Timer::Closers,
        Timer::Retry,
    ];

    fn when(&self, timer: Timer) -> Option<Instant> {
        match timer {
            Timer::Reap => self.children.unreaped.then(Instant::now),
            Timer::StallLook => self.stall_due().into_iter().chain(self.watch.dog.due()).min(),
            Timer::Watchdog => self.serving.as_ref().and(self.watch.dog.due()),
            Timer::Chaos => self.serving.as_ref().and(self.watch.next_kill()),
            Timer::Late => self.both().filter_map(Worker::due).min(),
            Timer::Start => self.succession.next_start(),
            Timer::Standby => self.succession.next_standby(),
            Timer::Trial => self.handover.due(),
            Timer::Closers => self.closers.due(),
            Timer::Retry => self.both().filter_map(|worker| worker.link.refused_until()).min(),
        }
    }
}
