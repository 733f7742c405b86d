//! The life of a worker: it is started, told what its predecessor was told, watched, and its death is explained.
//!
//! [`Workers`] owns the worker that serves, the one on standby, and what outlives both. It does not know what a
//! client is: ports come to it as [`Replay`](crate::ports::port::Replay)s, and what follows for others from what
//! happens here is returned.

pub mod breach;
pub mod chaos;
pub mod children;
pub mod closers;
pub mod command;
pub mod cpu_time;
pub mod death;
pub mod handover;
pub mod link;
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
use children::Children;
use closers::Closers;
use command::WorkerCommand;
use handover::Handover;
use spawner::Spawner;
use succession::Succession;
use watch::Watch;
use worker::{Waiter, Worker};

/// How workers are started.
pub struct WorkerConfig {
    /// How they run.
    pub settings: Settings,
    /// What they run at first, for a message.
    pub path: PathBuf,
    /// How many threads each has.
    pub threads: u16,
    /// Where they run, for status, if that was said.
    pub cpus: Option<String>,
    /// Whether a second one waits to take over.
    pub standby: bool,
    /// One with less of landlock is not let near a guest.
    pub require_landlock: u32,
}

/// The workers, and what outlives each of them.
pub struct Workers {
    /// The worker that serves.
    pub serving: Option<Worker>,
    /// The worker that waits to take over.
    pub standby: Option<Worker>,
    /// ClientId follows whom.
    pub succession: Succession,
    /// What is planned.
    pub handover: Handover,
    /// The watch over the worker that serves.
    pub watch: Watch,
    /// The processes.
    pub children: Children,
    /// Starts workers.
    pub spawner: Spawner,
    /// Closes what strangers opened.
    pub closers: Closers,
    /// What workers write.
    pub ledger: LedgerMap,
    ledger_fd: Rc<ForeignFd>,
    /// How they are started.
    pub config: WorkerConfig,
}

/// What becomes due of workers.
#[derive(Clone, Copy)]
pub enum Timer {
    /// There may be more children that have ended.
    Reap,
    /// It is to be looked whether a client blocks the worker. To be done before the watchdog has looked.
    StallLook,
    /// The watchdog is to look.
    Watchdog,
    /// Chaos mode kills.
    Chaos,
    /// A worker is late.
    Late,
    /// A worker is to be started that serves.
    Start,
    /// A worker is to be started that waits.
    Standby,
    /// A new binary has passed its trial.
    Trial,
    /// It is to be looked whether all closers wait, or one is to be asked for.
    Closers,
    /// The kernel had no room for what a worker is told; each turn of the loop tries that again.
    Retry,
}

impl Workers {
    /// No worker yet.
    pub fn new(config: WorkerConfig, spawner: Spawner, chaos: Option<Duration>) -> io::Result<Workers> {
        let (ledger_fd, ledger) = LedgerMap::create()?;
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
            ledger_fd: Rc::new(ForeignFd::from(ledger_fd).prompt()),
            config,
        })
    }

    /// Listens to the spawner and to the closers.
    pub fn listen(&self, reactor: &Reactor) -> io::Result<()> {
        reactor.watch(&self.spawner, Token::Spawner, EpollFlags::EPOLLIN)?;
        reactor.watch(&self.closers, Token::Closers, EpollFlags::EPOLLIN)
    }

    /// The workers that there are.
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

    /// Gives commands to every worker; only the one that serves answers `waiter`. False: no worker serves.
    pub fn send(&mut self, commands: Vec<WorkerCommand>, waiter: Waiter) -> bool {
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

    /// Whether much waits for a worker, some of it about this slot.
    pub fn is_filled_by(&self, slot: u16) -> bool {
        self.both().any(|worker| !worker.has_hung_up() && worker.link.is_filled_by(slot))
    }

    /// Sends the workers what waits for them.
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

    /// Waits no more for something of a worker that is at its end, which epoll would report again and again.
    pub fn deafen(&self, area: u8, fd: impl Fn(&Worker) -> BorrowedFd<'_>, reactor: &Reactor) {
        if let Some(worker) = self.both().find(|worker| worker.area == area) {
            reactor.forget(fd(worker));
        }
    }

    /// Has files closed that were put aside, and sees to it that there is somebody to do so. An error says that the
    /// spawner is gone.
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

    /// Lets both go, since all ends. False: no worker serves, and nobody is to be waited for.
    pub fn let_go(&mut self) -> bool {
        self.standby = None;
        let Some(Worker { pid, .. }) = self.serving.take() else { return false };
        self.children.expect_end(pid);
        true
    }

    /// The files that it owns.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let tools = self.spawner.fds().chain(self.closers.fds());
        let tools = tools.map(|(fd, kind, purpose)| OpenFile::borrowed(fd, kind, purpose));
        let closing = self.closers.files().map(|fd| OpenFile::borrowed(fd, "file", "given by a client, to be closed"));
        let ledger = OpenFile::borrowed(self.ledger_fd.as_fd(), "memory", "the ledger");
        let workers = self.both().flat_map(Worker::files);
        tools.chain(closing).chain(self.children.files()).chain([ledger]).chain(workers)
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
