//! The supervisor: one epoll, one thread, and no blocking calls.
//!
//! # Theory of operation
//!
//! Each client speaks vhost-user to its [`Session`](crate::clients::protocol::Session). The session's commands go to
//! the worker, the worker's reports go back to the session, and the session's replies go to the client ([`clients`]).
//! One worker serves. A second worker, the standby, gets the same commands and takes over when the first dies
//! ([`succession`]). A new worker first gets a replay of every port, and then each new command.
//!
//! Four owners hold all state: [`Doors`], [`Clients`], [`Workers`], [`Telemetry`]. Each knows its deadlines
//! ([`Timers`]) and its open files, and none knows the supervisor. This module does what concerns more than one of
//! them; each file of the folder holds one such concern.
//!
//! All sockets are non-blocking, and all waits have a deadline. When nothing is due, the process sleeps.

mod addresses;
mod answers;
mod audit;
mod captures;
mod cards;
mod clients;
mod closing;
mod configure;
mod deaths;
mod declared;
mod file_blame;
mod files;
mod flaps;
mod handing_over;
mod handover;
#[cfg(any(test, feature = "fuzzing"))]
pub mod live;
mod mirrors;
mod quarantine;
mod reports;
mod shortage;
mod snooping;
mod stalled;
mod streams;
mod succession;
pub mod taking_over;
mod tracing;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sv3::config::Change;
use sv3::foreign::ForeignFd;
use sv3::ledger::LedgerMap;

use crate::clients::registry::Clients;
use crate::clients::registry::Timer as ClientTimer;
use crate::doors::control::Ticket;
use crate::doors::http::Http;
use crate::doors::listener::Listener;
use crate::doors::stream::StreamForm;
use crate::doors::{DoorAt, Doors};
use crate::ports::file_kernel;
use crate::reactor::{Reactor, Wait};
use crate::service::Service;
use crate::signals::{self, Action};
use crate::telemetry::Telemetry;
use crate::telemetry::event::Events;
use crate::timers::Timers;
use crate::token::Token;
use crate::workers::closers;
use crate::workers::spawner::Spawner;
use crate::workers::{Timer as WorkerTimer, WorkerConfig, Workers};
use captures::Captures;
use flaps::Flaps;
use handing_over::HandingOver;
use mirrors::Mirrors;
use taking_over::{Inherited, TakingOver};
use tracing::Tracing;

/// Most signals that are read in one turn. Each kind is pending at most once, but more may come meanwhile.
const SIGNALS_MAX: usize = 8;
/// How long the worker may take to end when the switch ends.
const END_TIME: Duration = Duration::from_millis(500);
/// Why the supervisor ends when the spawner has ended.
const SPAWNER_GONE: &str = "the spawner has ended, so no worker can be started; start the switch again";

/// The supervisor.
pub struct Supervisor {
    reactor: Reactor,
    signals: SignalFd,
    doors: Doors,
    clients: Clients,
    workers: Workers,
    telemetry: Telemetry,
    captures: Captures,
    mirrors: Mirrors,
    /// The handover to the next supervisor.
    handing_over: Option<HandingOver>,
    /// The next supervisor serves.
    is_handed_over: bool,
    /// The taking over from the last supervisor.
    taking_over: Option<TakingOver>,
    /// Those who wait until the serving worker has obeyed what they asked for, and their answers.
    awaiting_worker: Vec<(Ticket, serde_json::Value)>,
    /// The trace that the serving worker was asked for.
    tracing: Option<Tracing>,
    flaps: Flaps,
    service: Service,
    ending: Option<Ending>,
    over: Option<Result<(), String>>,
}

/// The switch is ending.
struct Ending {
    since: Instant,
    /// The signal that ended the switch.
    by: Signal,
}

/// What [`Supervisor::new`] is made of.
pub struct Parts {
    /// The front door.
    pub door: Listener,
    /// The doors for streams, and what the frames of their clients are like.
    pub streams: Vec<(Listener, StreamForm)>,
    /// The control socket.
    pub control: Listener,
    /// The HTTP socket for metrics.
    pub http: Option<Http>,
    /// The signals that are blocked and must be read.
    pub signals: SigSet,
    /// Starts workers.
    pub spawner: Spawner,
    /// How workers are started.
    pub workers: WorkerConfig,
    /// Kill the worker at random times; this is the mean time between two kills.
    pub chaos: Option<Duration>,
    /// Deaths of workers in ten seconds that put a client in quarantine; 0: none do.
    pub blame: usize,
    /// The event log.
    pub events: Events,
    /// Printed to stdout when clients can be served.
    pub announcement: Option<String>,
    /// The ledger and its file.
    pub ledger: (ForeignFd, LedgerMap),
    /// All else that the last supervisor left.
    pub inherited: Option<Inherited>,
    /// What the command line declares, and the sockets that belong to it.
    pub given: Option<(Change, Vec<ForeignFd>)>,
    /// Doors of declared ports whose names the service manager keeps.
    pub lent: Vec<PathBuf>,
    /// The service manager.
    pub service: Service,
}

impl Parts {
    /// The names of sockets that this switch has made.
    pub fn own_names(&self) -> impl Iterator<Item = &Path> {
        let listeners = [&self.door, &self.control].into_iter().chain(self.streams.iter().map(|(door, _)| door));
        listeners.filter(|listener| !listener.is_lent()).map(Listener::path)
    }
}

impl Supervisor {
    /// Makes the supervisor. It serves no client before [`Supervisor::run`].
    pub fn new(parts: Parts) -> io::Result<Supervisor> {
        let mut supervisor = Supervisor {
            reactor: Reactor::new()?,
            signals: SignalFd::with_flags(&parts.signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            doors: Doors::new(parts.door, parts.control, parts.http),
            clients: Clients::new(parts.blame),
            workers: Workers::new(parts.workers, parts.spawner, parts.ledger, parts.chaos)?,
            telemetry: Telemetry::new(parts.events, parts.announcement),
            captures: Captures::default(),
            mirrors: Mirrors::default(),
            handing_over: None,
            is_handed_over: false,
            taking_over: None,
            awaiting_worker: Vec::new(),
            tracing: None,
            flaps: Flaps::default(),
            service: parts.service,
            ending: None,
            over: None,
        };
        parts.streams.iter().for_each(|(door, _)| file_kernel::refuse_files(door.as_fd()));
        supervisor.doors.add_streams(parts.streams);
        match parts.inherited {
            Some(inherited) => supervisor.inherit(inherited).map_err(|why| io::Error::other(why.to_string()))?,
            None => supervisor.doors.open_control(&supervisor.reactor)?,
        }
        if let Some((change, fds)) = parts.given {
            supervisor.declare(change, fds).map_err(io::Error::other)?;
        }
        supervisor.doors.lend(&parts.lent);
        supervisor.reactor.watch(supervisor.signals.as_fd(), Token::Signals, EpollFlags::EPOLLIN)?;
        supervisor.workers.listen(&supervisor.reactor)?;
        Ok(supervisor)
    }

    /// Runs until a signal ends it. The error says why it could not go on.
    pub fn run(mut self, landlock_abi: u32) -> Result<(), String> {
        sv3::foreign::close_by(closers::keep_for_later);
        let limits = (self.clients.budget.files(), self.clients.budget.ports());
        self.telemetry.say_start(landlock_abi, limits);
        match self.taking_over {
            Some(_) => self.prepare_to_take_over(),
            None => {
                self.open_http();
                self.start_worker();
            }
        }
        let outcome = loop {
            if let Some(outcome) = self.over.take() {
                break outcome;
            }
            if let Err(error) = self.turn(true) {
                break Err(format!("epoll: {error}"));
            }
        };
        self.remove_names();
        self.workers.closers.end();
        self.workers.spawner.end();
        if self.is_handed_over {
            std::mem::forget(self);
            return outcome;
        }
        let by = self.ending.as_ref().map_or(String::new(), |ending| format!(" by {}", ending.by));
        let reason = outcome.as_ref().err().cloned().unwrap_or(format!("asked to end{by}"));
        self.telemetry.events.say("stop", reason);
        // The kernel closes clients' files when the process ends. Closing them here might wait.
        std::mem::forget(self);
        outcome
    }

    /// One turn of the loop: sends what is queued, waits for events if `may_wait`, handles them, and does what is due.
    fn turn(&mut self, may_wait: bool) -> nix::Result<()> {
        self.tend_observers();
        self.workers.flush_links(&self.reactor);
        self.close_files();
        self.listen_again();
        let wait = if may_wait { self.until_due() } else { Wait::Not };
        let ready = self.reactor.wait(wait)?;
        self.doors.begin_turn();
        for (token, flags) in ready {
            self.dispatch(token, flags);
        }
        self.expire(Instant::now());
        self.go_on_handing_over(Instant::now());
        Ok(())
    }

    /// Removes the names of the sockets, unless they are another supervisor's.
    fn remove_names(&self) {
        if !self.is_handed_over && self.taking_over.as_ref().is_none_or(TakingOver::is_told) {
            self.doors.remove();
        }
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signals => self.read_signals(),
            Token::Spawner => self.read_spawner(),
            Token::Closers => self.workers.closers.read_closed(),
            Token::Link(area) => self.read_reports(area),
            Token::Stderr(area) => self.read_stderr(area),
            Token::FrontDoor => self.accept_clients(DoorAt::Front),
            Token::StreamDoor(at) => self.accept_clients(DoorAt::Stream(at)),
            Token::DeclaredDoor(slot) => self.accept_clients(DoorAt::Declared(slot)),
            Token::ControlDoor => self.accept_control(),
            Token::Control(place) => self.serve_control(place),
            Token::HttpDoor => self.doors.accept_http(&self.reactor),
            Token::Http(place) => self.serve_http(place),
            Token::Card(slot) => self.card_is_wanted_back(slot),
            Token::Client(slot) if self.files_hung_up(slot, flags) => {}
            Token::Client(slot) => self.serve_client(slot, flags),
            Token::Pending(serial) => {
                if let Some(number) = self.clients.slots.pending_number_of(serial) {
                    self.serve_client(number, flags);
                }
            }
            Token::Capture(number) => self.end_capture(number),
            Token::Heir if self.handing_over.is_some() => self.hear_successor(),
            Token::Heir => self.hear_predecessor(),
        }
    }

    /// The wait until the next deadline; without end if there is none.
    fn until_due(&self) -> Wait {
        let ending = self.ending.as_ref().map(|ending| ending.since + END_TIME);
        let clients = self.clients.deadline().filter(|_| !self.is_frozen());
        let handing = self.handing_over.as_ref().and_then(HandingOver::due);
        let taking = self.taking_over.as_ref().filter(|taking| !taking.is_told()).map(TakingOver::due);
        let owners = [self.doors.deadline(), clients, self.workers.deadline(), handing, taking, self.service.due()];
        owners.into_iter().chain([ending]).flatten().min().map_or(Wait::Forever, Wait::Until)
    }

    /// Does all that is due.
    fn expire(&mut self, now: Instant) {
        self.service.turns(now);
        self.doors.expire(now, &self.reactor);
        self.expire_taking_over(now);
        for timer in Clients::TIMERS {
            if !self.is_frozen() && self.clients.is_due(*timer, now) {
                match timer {
                    ClientTimer::Message => self.refuse_late(now),
                    ClientTimer::Quarantine => self.end_quarantines(now),
                    ClientTimer::Loops => self.probe_for_loops(now),
                    ClientTimer::End => self.end_hung_up(now),
                    ClientTimer::Taps => self.check_taps(now),
                }
            }
        }
        for timer in Workers::TIMERS {
            if self.workers.is_due(*timer, now) {
                self.expire_worker(*timer, now);
            }
        }
        if self.ending.as_ref().is_some_and(|ending| ending.since + END_TIME <= now) {
            self.over = Some(Ok(()));
        }
    }

    fn expire_worker(&mut self, timer: WorkerTimer, now: Instant) {
        match timer {
            WorkerTimer::Reap => self.reap(),
            WorkerTimer::StallLook => self.look_for_stalled(now),
            WorkerTimer::Watchdog => self.workers.look_after(),
            WorkerTimer::Chaos => self.workers.kill_at_random(),
            WorkerTimer::Late => {
                if let Some(pid) = self.workers.expire_late(now) {
                    self.is_dead(pid);
                }
            }
            WorkerTimer::Start => self.replace_worker(),
            WorkerTimer::Standby => {
                self.workers.succession.end_standby_pause();
                self.start_standby();
            }
            WorkerTimer::Trial => self.end_trial(),
            WorkerTimer::Closers => self.expire_closers(now),
            // Each turn tries again anyway.
            WorkerTimer::Retry => {}
        }
    }

    fn read_signals(&mut self) {
        for _ in 0..SIGNALS_MAX {
            let Ok(Some(info)) = self.signals.read_signal() else { return };
            let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
            match signals::action(signal, info.ssi_code) {
                Action::Nothing => {}
                Action::Reap => self.reap(),
                Action::Reopen if self.telemetry.events.can_reopen() => self.reopen_log(),
                Action::End | Action::Reopen if self.ending.is_some() => self.over = Some(Ok(())),
                Action::End | Action::Reopen => self.end(signal),
            }
        }
    }

    /// Asks the spawner to open the log anew, because its file may have been renamed. The supervisor can open no file
    /// itself.
    fn reopen_log(&mut self) {
        if let Err(error) = self.workers.spawner.reopen() {
            let message = format!("the log cannot be opened anew; events go to the old file: {error}");
            self.telemetry.events.say("log", message);
        }
    }

    /// Begins to end: accepts no new clients, and lets the worker end.
    fn end(&mut self, by: Signal) {
        match (&self.handing_over, &self.taking_over) {
            // Another supervisor is about to have the switch.
            (Some(handing), _) if handing.is_committing() => return,
            (Some(_), _) => self.handing_over_fails("the switch was asked to end"),
            (None, Some(taking)) if !taking.is_told() => {
                return self.over = Some(Err(format!("asked to end by {by}, before it took over")));
            }
            _ => {}
        }
        self.service.stopping();
        self.ending = Some(Ending { since: Instant::now(), by });
        self.remove_names();
        self.doors.close_clients(&self.reactor);
        if !self.workers.let_go() {
            self.over = Some(Ok(()));
        }
    }
}
