//! The supervisor: one epoll, no threads, and never waiting for anybody.
//!
//! # Theory of operation
//!
//! Clients speak vhost-user to their [`Session`](crate::clients::vhost_user::session::Session); what that orders goes to the worker, what the
//! worker reports goes back to the session, and what the session answers goes to the client ([`clients`]). Workers come
//! and go ([`life`]): a new one is told the record of every client, and from there on it is told live what the others
//! were told live. One worker serves; a second one waits on standby, told the same, and takes over when it dies.
//!
//! All sockets are non-blocking, all waits have a deadline, and with nothing to wait for the process sleeps.

mod clients;
mod closing;
mod handover;
mod jam;
mod late;
mod life;
mod quarantine;
mod reactor;
mod reports;
mod shortage;
mod telemetry;
mod testimony;
mod token;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use sv3::foreign::ForeignFd;
use sv3::ipc::Settings;
use sv3::ledger::LedgerMap;
use sv3::status::{PortStatus, Status, SupervisorStatus, WorkerStatus};

use crate::clients::blame::Blames;
use crate::clients::budget::Budget;
use crate::clients::client::Client;
use crate::clients::crowd::Crowds;
use crate::clients::slots::Slots;
use crate::doors::control::Control;
use crate::doors::http::Http;
use crate::doors::listener::{Listener, PAUSE};
use crate::signals::{self, Wish};
use crate::telemetry::crash_log::Chronicle;
use crate::telemetry::event::Events;
use crate::workers::chaos::Chaos;
use crate::workers::spawner::Spawner;
use crate::workers::undertaker::{self, Undertaker};
use crate::workers::watchdog::Watchdog;
use crate::workers::worker::Worker;
use handover::Handover;
use life::Life;
#[cfg(any(test, feature = "fuzzing"))]
pub use life::live;
use reactor::{Reactor, Wait};
use token::Token;

/// Most signals that are read at a time. Each kind is pending once at most, but more may come meanwhile.
const SIGNALS_MAX: usize = 8;

/// How long the worker may take to end when the switch ends.
const END_TIME: Duration = Duration::from_millis(500);

/// Everything.
pub struct Supervisor {
    reactor: Reactor,
    events: Events,
    door: Listener,
    /// Nobody is let in before.
    door_opens: Option<Instant>,
    control: Control,
    signals: SignalFd,
    spawner: Spawner,
    /// The events that epoll is asked for of it.
    spawner_interest: EpollFlags,
    ledger: LedgerMap,
    ledger_fd: Rc<ForeignFd>,
    undertaker: Undertaker,
    /// Slots of clients that are not listened to until what they caused is done.
    halted: BTreeSet<u16>,
    slots: Slots,
    budget: Budget,
    /// The worker that serves.
    worker: Option<Worker>,
    /// The worker that waits to take over.
    standby: Option<Worker>,
    life: Life,
    handover: Handover,
    /// Connections so far.
    connections: u64,
    blames: Blames,
    crowds: Crowds,
    watchdog: Watchdog,
    /// When it was last looked whether a client jams the worker.
    jam_look: Option<Instant>,
    /// A client was sent away then that jams the worker, or is about to.
    jammed: bool,
    /// The worker was killed because this thread of it hung.
    hung: Option<usize>,
    chaos: Option<Chaos>,
    chronicle: Chronicle,
    http: Option<Http>,
    started: Instant,
    landlock_abi: u32,
    /// A worker with less of landlock is not let near a guest.
    require_landlock: u32,
    announcement: Option<String>,
    /// What workers run at first, for a message.
    worker_path: PathBuf,
    /// How many threads a worker has.
    threads: u16,
    /// Where workers run, for status.
    cpus: Option<String>,
    answered: Answered,
    /// Since when the switch is ending.
    ending: Option<Instant>,
    /// The signal that asked for the end.
    asked_by: Option<Signal>,
    over: Option<Result<(), String>>,
}

/// Who was answered in this turn. An answer about a thousand ports takes milliseconds, so each door gives one a turn; who
/// asks more has to come again, which costs nobody anything.
#[derive(Default)]
struct Answered {
    control: bool,
    http: bool,
}

/// What [`Supervisor::new`] is made of.
pub struct Parts {
    /// Where clients come in.
    pub door: Listener,
    /// Where people ask.
    pub control: Listener,
    /// Starts workers.
    pub spawner: Spawner,
    /// The signals that are blocked and to be read.
    pub signals: SigSet,
    /// How workers run.
    pub settings: Settings,
    /// What workers run at first, for a message.
    pub worker_path: PathBuf,
    /// How many threads a worker has.
    pub threads: u16,
    /// Where workers run, if that was said.
    pub cpus: Option<String>,
    /// Whether a second worker waits to take over.
    pub standby: bool,
    /// Deaths of workers in ten seconds that put a client in quarantine; 0: none do.
    pub blame: usize,
    /// Kill the worker at random times, so far apart on average.
    pub chaos: Option<Duration>,
    /// Where events go, and its name; to stderr if nowhere else.
    pub log: Option<(File, PathBuf)>,
    /// Where metrics are served.
    pub http: Option<Http>,
    /// The least landlock ABI that a worker must achieve.
    pub require_landlock: u32,
    /// Printed to stdout when clients can be served.
    pub announcement: String,
}

impl Supervisor {
    /// Makes the supervisor. It serves nobody before [`Supervisor::run`].
    pub fn new(parts: Parts) -> io::Result<Supervisor> {
        let (ledger_fd, ledger) = LedgerMap::create()?;
        let supervisor = Supervisor {
            reactor: Reactor::new()?,
            events: Events::new(parts.log),
            door: parts.door,
            door_opens: None,
            control: Control::new(parts.control),
            signals: SignalFd::with_flags(&parts.signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            spawner: parts.spawner,
            spawner_interest: EpollFlags::EPOLLIN,
            ledger,
            ledger_fd: Rc::new(ForeignFd::from(ledger_fd).prompt()),
            undertaker: Undertaker::new()?,
            halted: BTreeSet::new(),
            slots: Slots::default(),
            budget: Budget::new(),
            worker: None,
            standby: None,
            life: Life::new(parts.settings, parts.standby),
            handover: Handover::default(),
            connections: 0,
            blames: Blames::new(parts.blame),
            crowds: Crowds::new(parts.blame),
            watchdog: Watchdog::new(usize::from(parts.threads)),
            jam_look: None,
            jammed: false,
            hung: None,
            chaos: parts.chaos.map(Chaos::new),
            chronicle: Chronicle::default(),
            http: parts.http,
            started: Instant::now(),
            landlock_abi: 0,
            require_landlock: parts.require_landlock,
            announcement: Some(parts.announcement),
            worker_path: parts.worker_path,
            threads: parts.threads,
            cpus: parts.cpus,
            answered: Answered::default(),
            ending: None,
            asked_by: None,
            over: None,
        };
        let reactor = &supervisor.reactor;
        reactor.watch(&supervisor.control.listener, Token::ControlDoor, EpollFlags::EPOLLIN)?;
        reactor.watch(supervisor.signals.as_fd(), Token::Signals, EpollFlags::EPOLLIN)?;
        reactor.watch(&supervisor.spawner, Token::Spawner, EpollFlags::EPOLLIN)?;
        reactor.watch(&supervisor.undertaker, Token::Undertakers, EpollFlags::EPOLLIN)?;
        Ok(supervisor)
    }

    /// Runs until a signal ends it. The error says why it had to give up.
    pub fn run(mut self, landlock_abi: u32) -> Result<(), String> {
        self.landlock_abi = landlock_abi;
        sv3::foreign::close_by(undertaker::keep_for_later);
        let pid = std::process::id();
        let fields = json!({ "pid": pid, "landlock_abi": landlock_abi });
        self.events.say_with("start", format!("supervisor {pid} started, landlock ABI {landlock_abi}"), fields);
        self.say_few_files();
        self.open_http();
        self.start_worker();
        let outcome = loop {
            if let Some(outcome) = self.over.take() {
                break outcome;
            }
            if let Err(error) = self.turn(true) {
                break Err(format!("epoll: {error}"));
            }
        };
        self.door.remove();
        self.control.listener.remove();
        self.undertaker.end();
        self.spawner.end();
        let by = self.asked_by.map_or(String::new(), |signal| format!(" by {signal}"));
        let reason = outcome.as_ref().err().cloned().unwrap_or(format!("asked to end{by}"));
        self.events.say("stop", reason);
        // What strangers opened is closed with the process: only then does the kernel wait for nobody.
        std::mem::forget(self);
        outcome
    }

    /// One turn of the loop: sends what waits, waits for something to happen, and does what is due.
    fn turn(&mut self, may_wait: bool) -> nix::Result<()> {
        self.flush_links();
        self.close_files();
        self.listen_again();
        let wait = if may_wait { self.until_due() } else { Wait::Not };
        let ready = self.reactor.wait(wait)?;
        self.answered = Answered::default();
        for (token, flags) in ready {
            self.dispatch(token, flags);
        }
        self.expire(Instant::now());
        Ok(())
    }

    fn dispatch(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Signals => self.read_signals(),
            Token::Spawner => self.hear_spawner(),
            Token::Undertakers => self.undertaker.hear(),
            Token::Link(area) => self.read_reports(area),
            Token::Stderr(area) => self.read_stderr(area),
            Token::FrontDoor => self.accept_clients(),
            Token::ControlDoor => self.accept_control(),
            Token::Control(place) => {
                let was_open = self.control.is_open();
                self.converse(place);
                if self.control.is_open() != was_open {
                    self.mind_control_door();
                }
            }
            Token::HttpDoor => self.accept_http(),
            Token::Http(place) => {
                let was_open = self.http.as_ref().is_some_and(Http::is_open);
                self.serve_http(place);
                if self.http.as_ref().is_some_and(Http::is_open) != was_open {
                    self.mind_http_door();
                }
            }
            Token::Client(slot) => self.serve_client(slot, flags),
            Token::Pending(serial) => {
                if let Some(number) = self.slots.caller(serial) {
                    self.serve_client(number, flags);
                }
            }
        }
    }

    /// Until the next deadline; for ever if there is none.
    fn until_due(&self) -> Wait {
        let worker = [&self.worker, &self.standby].into_iter().flatten().filter_map(Worker::due).min();
        let messages = self.slots.everybody().filter_map(|port| port.connection.message_due()).min();
        let refused =
            [&self.worker, &self.standby].into_iter().flatten().filter_map(|worker| worker.link.refused_until());
        let (refused, closing) = (refused.min(), self.undertaker.due());
        let ending = self.ending.map(|since| since + END_TIME);
        let chaos = self.chaos.as_ref().map(|chaos| chaos.next);
        let lives =
            [worker, self.life.next_start(), self.watchdog.due(), self.handover.due(), self.jam_due(), chaos, ending];
        let clients = [messages, self.quarantine_due(), self.control.due(), self.http_due()];
        let files = [refused, closing, self.door_opens];
        let due = lives.into_iter().chain(clients).chain(files).flatten().min();
        due.map_or(Wait::Forever, Wait::Until)
    }

    fn expire(&mut self, now: Instant) {
        self.reap_rest();
        if self.control.expire(now) {
            self.mind_control_door();
        }
        self.expire_http(now);
        self.expire_door(now);
        self.expire_clients(now);
        self.expire_quarantines(now);
        self.expire_jams(now);
        self.watch_worker(now);
        self.expire_worker(now);
        self.expire_trial(now);
        self.expire_undertakers(now);
        if self.ending.is_some_and(|since| since + END_TIME <= now) {
            self.over = Some(Ok(()));
        }
    }

    fn read_signals(&mut self) {
        for _ in 0..SIGNALS_MAX {
            let Ok(Some(info)) = self.signals.read_signal() else { return };
            let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
            match signals::wish(signal, info.ssi_code) {
                Wish::Nothing => {}
                Wish::Reap => self.reap(),
                Wish::Reopen if self.events.log().is_some() => self.reopen_log(),
                Wish::End | Wish::Reopen if self.ending.is_some() => self.over = Some(Ok(())),
                Wish::End | Wish::Reopen => {
                    self.asked_by = Some(signal);
                    self.end();
                }
            }
        }
    }

    /// Begins to end: no new clients, and the worker is let go.
    fn end(&mut self) {
        self.ending = Some(Instant::now());
        self.door.remove();
        self.control.listener.remove();
        self.reactor.forget(&self.door);
        self.standby = None;
        match self.worker.take() {
            Some(worker) => {
                let Worker { pid, .. } = worker;
                self.life.expect_end(pid);
            }
            None => self.over = Some(Ok(())),
        }
    }

    fn accept_control(&mut self) {
        let now = Instant::now();
        // What is closed slowly takes fds. Callers add to it, so they wait sooner than clients.
        if self.budget.is_short(2 * self.undertaker.backlog()) {
            self.control.pause(now + PAUSE);
        } else {
            self.let_in_callers(now);
        }
        if !self.control.is_open() {
            self.mind_control_door();
        }
    }

    fn let_in_callers(&mut self, now: Instant) {
        for index in self.control.accept(now) {
            if let Some(fd) = self.control.fd(index) {
                let _ = self.reactor.watch(fd, Token::Control(index), EpollFlags::EPOLLIN);
            }
        }
    }

    /// Listens at the control socket only while callers can be let in.
    fn mind_control_door(&self) {
        let flags = if self.control.is_open() { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        self.reactor.change(&self.control.listener, Token::ControlDoor, flags);
    }

    fn converse(&mut self, index: usize) {
        if self.answered.control {
            return self.control.put_off(index);
        }
        let Some((request, fd)) = self.control.proceed(index) else { return };
        self.answered.control = true;
        let (verb, name) = request.split_once(' ').unwrap_or((&request, ""));
        let answer = match verb {
            "status" => serde_json::to_vec(&self.status()),
            "restart" | "upgrade" if (verb == "upgrade") != fd.is_some() => {
                serde_json::to_vec(&json!({ "error": "an upgrade, and it alone, comes with one open file" }))
            }
            "restart" | "upgrade" => match self.plan_handover(index, fd) {
                Ok(()) => return,
                Err(why) => serde_json::to_vec(&json!({ "error": why })),
            },
            "audit" => serde_json::to_vec(&self.testify()),
            "crashes" => serde_json::to_vec(&self.chronicle.crashes()),
            "metrics" => Ok(self.metrics().trim_end().into()),
            "release" => serde_json::to_vec(&self.release_by_name(name)),
            _ => {
                let other = &request;
                let other: String = other.chars().take(40).collect();
                serde_json::to_vec(&json!({ "error": format!("unknown request {other:?}") }))
            }
        };
        self.answer(index, answer.unwrap_or_default());
    }

    fn answer(&mut self, index: usize, answer: Vec<u8>) {
        if let Some(flags) = self.control.answer(index, answer)
            && let Some(fd) = self.control.fd(index)
        {
            self.reactor.change(fd, Token::Control(index), flags);
        }
    }

    fn status(&self) -> Status {
        let worker = self.worker.as_ref();
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            supervisor: SupervisorStatus {
                pid: std::process::id(),
                uptime_s: self.started.elapsed().as_secs(),
                landlock_abi: self.landlock_abi,
            },
            worker: WorkerStatus {
                pid: worker.and_then(|worker| worker.pid).and_then(|pid| u32::try_from(pid.as_raw()).ok()),
                standby_pid: self.standby.as_ref().and_then(Worker::ready_pid),
                uptime_s: worker.map_or(0, |worker| worker.asked.elapsed().as_secs()),
                restarts: self.life.restarts(),
                last_death: self.life.last_death(),
                landlock_abi: worker.and_then(|worker| worker.ready).unwrap_or(0),
                threads: self.threads,
                cpus: self.cpus.clone(),
            },
            socket: self.door.path().display().to_string(),
            ports: self.slots.ports().filter_map(|port| self.port_status(port)).collect(),
            callers: self.slots.callers().count(),
        }
    }

    fn port_status(&self, port: &Client) -> Option<PortStatus> {
        let lacks = self.standby.as_ref().and_then(|standby| standby.lacks(port.who.slot));
        let status = crate::telemetry::status::port(port, &self.ledger)?;
        Some(PortStatus { standby_lacks: lacks.map(str::to_string), ..status })
    }
}
