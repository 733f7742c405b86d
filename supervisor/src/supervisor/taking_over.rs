//! The new supervisor's part of `sv3 run --take-over`; see [`super::handing_over`] for all of it.
//!
//! The record is read before this process gives up its last rights: the ledger must be mapped, and no process that is
//! confined may map a file. Until [`Word::Go`] comes, nothing that the old supervisor has is touched: the worker waits
//! on standby, no client is read from, no name is removed. If the connection ends before, this process ends.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::json;
use sv3::foreign::ForeignFd;
use sv3::ipc::Command;
use sv3::ledger::LedgerMap;
use sv3::virtio::feature_names;

use super::Supervisor;
use crate::doors::http::Http;
use crate::doors::listener::Listener;
use crate::doors::stream::{StreamDoor, StreamForm};
use crate::estate::record::DoorsRecord;
use crate::estate::transfer::{self, Heard, Word, hear, say};
use crate::estate::{Clock, Heirlooms, Record, Unfit, unfit};
use crate::fd_inventory::OpenFile;
use crate::token::Token;
use crate::workers::handover::Loss;
use crate::workers::worker::Waiter;

/// How long the whole may take after the record was read. The old supervisor gives up before that.
const TIME: Duration = Duration::from_secs(20);

/// What was received from the old supervisor.
pub struct Inherited {
    socket: OwnedFd,
    record: Record,
    files: Heirlooms,
}

/// Listening sockets.
pub struct Sockets {
    /// The front door.
    pub door: Listener,
    /// The doors for streams, and what their frames are like.
    pub streams: Vec<(Listener, StreamForm)>,
    /// The control socket.
    pub control: Listener,
    /// The HTTP socket for metrics.
    pub http: Option<Http>,
}

/// The taking over.
pub struct TakingOver {
    socket: OwnedFd,
    old_pid: u32,
    old_version: String,
    due: Instant,
    /// The old supervisor will not serve again.
    is_told: bool,
}

impl Inherited {
    /// Asks the switch at this control socket for everything. The error is for people.
    pub fn ask(control: &Path) -> Result<Inherited, String> {
        let fail = |error: io::Error| {
            let shown = control.display();
            format!("no switch to take over from answers at {shown} ({error}); start without --take-over")
        };
        let socket = OwnedFd::from(UnixStream::connect(control).map_err(fail)?);
        let owner = getsockopt(&socket, PeerCredentials).map_err(|errno| fail(errno.into()))?.uid();
        let me = nix::unistd::geteuid().as_raw();
        if owner != me {
            return Err(format!("the running switch is of user {owner}, and this is user {me}"));
        }
        let (record, files) = transfer::receive(&socket)?;
        Ok(Inherited { socket, record, files })
    }

    /// Takes the listening sockets. A door for streams that the running switch does not have is bound. `metrics` is the address of `--metrics`, and the socket that was bound to it, or
    /// why there is none.
    pub fn sockets(
        &mut self,
        (front, control): (&Path, &Path),
        doors: &[StreamDoor],
        metrics: Option<(SocketAddr, Result<Http, String>)>,
    ) -> Result<Sockets, String> {
        let DoorsRecord { front: theirs, control: its, http: old, streams: known, .. } = self.record.doors.clone();
        if Path::new(&theirs.place) != front || Path::new(&its.place) != control {
            let (front, control) = (theirs.place, its.place);
            return Err(format!("the running switch has other sockets: --socket {front} --control {control}"));
        }
        let mut take = |file| self.files.take(file).map_err(|why| why.to_string());
        let (door, asked) = (take(theirs.file)?, take(its.file)?);
        let http = match (metrics, old) {
            (Some((address, Err(_))), Some(old)) if old.place == address.to_string() => {
                Some(Http::inherited(&take(old.file)?).map_err(|error| format!("the socket of --metrics: {error}"))?)
            }
            (Some((_, bound)), _) => Some(bound?),
            (None, _) => None,
        };
        let mut streams = Vec::new();
        for StreamDoor { path, form } in doors {
            let listener = match known.iter().find(|known| Path::new(&known.place) == path) {
                Some(known) => Listener::inherited(take(known.file)?, path)?.of_last(known.lent, true),
                None => Listener::bind(path, false)?,
            };
            streams.push((listener, *form));
        }
        let door = Listener::inherited(door, front)?.of_last(theirs.lent, true);
        let control = Listener::inherited(asked, control)?.of_last(its.lent, false);
        Ok(Sockets { door, streams, control, http })
    }

    /// Takes the ledger.
    pub fn ledger(&mut self) -> Result<(ForeignFd, LedgerMap), String> {
        let file = self.files.take(self.record.ledger).map_err(|why| why.to_string())?;
        let map = LedgerMap::inherit(&file).map_err(|error| format!("the ledger: {error}"))?;
        Ok((file, map))
    }
}

impl TakingOver {
    /// When it must be over.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether the switch is this supervisor's.
    pub fn is_told(&self) -> bool {
        self.is_told
    }

    /// Its file.
    pub fn file(&self) -> OpenFile<'_> {
        OpenFile::new(&self.socket, "socket", "the old supervisor, which hands over")
    }
}

impl Supervisor {
    /// Makes everything again from the record. No client is read from yet.
    pub(super) fn inherit(&mut self, inherited: Inherited) -> Result<(), Unfit> {
        let Inherited { socket, record, mut files } = inherited;
        let clock = Clock::new();
        self.workers.spare(match record.free_area {
            0 => 1,
            1 => 0,
            other => return unfit(format!("area {other} of the ledger")),
        });
        self.restore_declared(record.declared, record.doors.declared, &mut files)?;
        self.clients.restore(record.clients, &mut files, clock)?;
        self.clients.restore_files(record.files, &mut files, clock)?;
        self.clients.restore_cards(record.cards, &mut files)?;
        // There is no worker yet. Each gets to know all of them when it starts.
        let _ = self.follow_addresses();
        self.inherit_mirrors(record.mirrors);
        // With its number, the table of groups stays what it is.
        if let Some(snooping) = record.snooping {
            snooping.settings.check().map_err(|why| Unfit(format!("snooping: {why}")))?;
            self.workers.config.settings.snooping = Some(snooping);
        }
        self.workers.config.role = self.clients.slots.role();
        self.clients.blames.restore(record.blames, clock);
        self.clients.classes.restore(record.classes, clock);
        let (restarts, last_death) = self.telemetry.restore(record.telemetry, clock);
        self.workers.succession.inherit(restarts, last_death);
        let watched = self.reactor.watch(&socket, Token::Heir, EpollFlags::EPOLLIN);
        watched.map_err(|error| Unfit(format!("the old supervisor cannot be watched: {error}")))?;
        let (old_pid, old_version) = (record.pid, record.version.chars().take(40).collect());
        let due = Instant::now() + TIME;
        self.taking_over = Some(TakingOver { socket, old_pid, old_version, due, is_told: false });
        Ok(())
    }

    /// Starts the worker that is to serve, on standby.
    pub(super) fn prepare_to_take_over(&mut self) {
        let program = self.workers.handover.program();
        if let Err(error) = self.workers.start_successor(program, self.clients.slots.told(), &self.reactor) {
            self.over = Some(Err(format!("the worker could not be started: {error}")));
        }
        if let Some(worker) = &mut self.workers.standby {
            worker.send([Command::Barrier.into()], Waiter::Planned);
        }
    }

    /// The worker has learnt all ports: tells the old supervisor, unless a client would lose a feature.
    pub(super) fn is_ready_to_take_over(&mut self) {
        let (Some(taking), Some(worker)) = (&self.taking_over, &self.workers.standby) else { return };
        let unserved = self.clients.slots.clients().find_map(|client| {
            let missing = client.device().features & !worker.offers;
            (missing != 0).then(|| format!("{} uses {}", client.name(), feature_names(missing).join(", ")))
        });
        self.over = match unserved {
            Some(whose) => Some(Err(format!("{whose}, which this worker does not serve"))),
            None => match say(&taking.socket, Word::Ready, Some(worker.link.as_fd())) {
                Ok(()) => None,
                Err(error) => Some(Err(format!("the running switch cannot be reached: {error}"))),
            },
        };
    }

    /// The worker is lost before it could serve.
    pub(super) fn cannot_take_over(&mut self, loss: &Loss) {
        self.over = Some(Err(format!("{}; the old supervisor serves on", loss.of("the worker"))));
    }

    /// The old supervisor says something, or has ended.
    pub(super) fn hear_predecessor(&mut self) {
        let Some(taking) = &mut self.taking_over else { return };
        match hear(&taking.socket) {
            Heard::Nothing => {}
            Heard::Word(Word::Go, _) if !taking.is_told => {
                taking.is_told = true;
                self.clients.slots.own_connections();
                self.workers.succession.begin_to_serve();
                self.recheck_memory();
                self.send_away_stalled(true);
                self.replace_worker();
            }
            _ if taking.is_told => self.reactor.forget(&taking.socket),
            _ => self.over = Some(Err("the old supervisor has ended the handover".to_string())),
        }
    }

    /// The worker serves, or has died and another one follows: the switch is this supervisor's.
    pub(super) fn took_over_switch(&mut self) {
        let Some(taking) = self.taking_over.take_if(|taking| taking.is_told) else { return };
        // If the old supervisor does not hear it, it ends a little later.
        let _ = say(&taking.socket, Word::Done, None);
        self.reactor.forget(&taking.socket);
        self.workers.spare_none();
        let (old, ports) = (taking.old_pid, self.clients.slots.told().count());
        let message =
            format!("took over the switch from process {old}, version {}, with {ports} ports", taking.old_version);
        self.telemetry.events.say_with("took_over_switch", message, json!({ "before_pid": old, "ports": ports }));
        self.thaw();
        self.open_http();
        self.telemetry.announce();
        self.say_listen();
    }

    /// It took too long.
    pub(super) fn expire_taking_over(&mut self, now: Instant) {
        if self.taking_over.as_ref().is_some_and(|taking| !taking.is_told && taking.due <= now) {
            self.over = Some(Err("the old supervisor did not hand over in time".to_string()));
        }
    }
}
