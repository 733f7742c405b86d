//! The old supervisor's part of `sv3 run --take-over`: it hands everything over to the next supervisor.
//!
//! # Theory of operation
//!
//! Guests must be served by one supervisor's worker at every moment, and never by two. So the worker serves on while
//! the successor prepares, and a successor that fails costs nothing:
//!
//! 1. **Draining.** From now on nothing is accepted and nothing is read from clients, so what they have said stays as
//!    it is. Requests whose replies wait for the worker are finished. The standby ends: its area of the ledger is for
//!    the successor's worker.
//! 2. **Sending.** The record and all files go to the successor, as fast as it takes them. Nothing waits for it.
//! 3. **Preparing.** The successor starts a worker, which maps memory and learns all ports, and waits on standby. Then
//!    the successor says [`Word::Ready`], and sends a duplicate of its link to that worker.
//! 4. **Killing.** This supervisor kills its worker, and waits until the kernel says that it is dead.
//! 5. **Told.** It says [`Word::Go`]. This is the commit point. If the word cannot be sent, this supervisor serves on,
//!    because the successor promotes its worker only when it has heard the word. From here on this supervisor starts no
//!    worker, unless the successor *and its worker* are dead: the duplicate of the link says so of the worker, because
//!    a socket hangs up when the last process that holds its other end has ended.
//! 6. The successor says [`Word::Done`] when its worker serves, and this supervisor ends. The names of the sockets
//!    stay.
//!
//! If anything fails up to the fourth step, or the successor is silent for too long, clients are read from again and
//! the worker serves on. If the successor is silent after the commit point, the switch is its own all the same.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use serde_json::json;
use sv3::foreign::ForeignFd;

use super::{Supervisor, answers};
use crate::ancillary;
use crate::clients::number::is_pending;
use crate::doors::listener::Peer;
use crate::estate::transfer::{Heard, Outbox, SILENCE, Word, hear, say};
use crate::estate::{Clock, Files, Record, Unfit, VERSION};
use crate::fd_inventory::OpenFile;
use crate::ports::file_kernel::has_hung_up;
use crate::token::Token;

/// How long clients' requests may take that wait for the worker.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// If the kernel is short of something, the next try comes after this time; and the time between two looks at the
/// successor's worker.
const RETRY: Duration = Duration::from_millis(5);
/// How long the kernel may take to end the worker of a successor that is dead. It was killed with the successor, so it
/// never runs again.
const BURIAL_TIME: Duration = Duration::from_secs(1);

/// The handover to the next supervisor.
pub struct HandingOver {
    peer: Peer,
    stage: Stage,
    /// When the stage must be over.
    due: Option<Instant>,
    /// When to try again.
    retry: Option<Instant>,
    /// The successor has closed its end.
    is_lost: bool,
    /// The successor's link to its worker.
    lifeline: Option<ForeignFd>,
    /// When the worker was killed, and its process.
    killed: Option<(Instant, Option<Pid>)>,
}

enum Stage {
    Draining,
    Sending(Outbox),
    Preparing,
    Killing,
    Told,
}

impl HandingOver {
    /// When to go on.
    pub fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.retry).min()
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = OpenFile<'_>> {
        let link = |file| OpenFile::new(file, "socket", "the next supervisor's link to its worker");
        let peer = OpenFile::new(&self.peer.stream, "socket", "the next supervisor, which takes over");
        [peer].into_iter().chain(self.lifeline.as_ref().map(link))
    }

    /// Whether the switch is no longer this supervisor's to end.
    pub fn is_committing(&self) -> bool {
        matches!(self.stage, Stage::Killing | Stage::Told)
    }

    fn begin(&mut self, stage: Stage, time: Option<Duration>) {
        self.due = time.map(|time| Instant::now() + time);
        (self.stage, self.retry) = (stage, None);
    }
}

impl Supervisor {
    /// A successor asks for everything.
    pub(super) fn begin_handing_over(&mut self, place: usize, version: u32) {
        let Some(peer) = self.doors.take_control(place, &self.reactor) else { return };
        let watched = self.may_hand_over(&peer, version).and_then(|()| {
            let watched = self.reactor.watch(&peer.stream, Token::Heir, EpollFlags::EPOLLIN);
            watched.map_err(|error| format!("its connection cannot be watched: {error}"))
        });
        if let Err(why) = watched {
            return turn_away(&peer, &why);
        }
        let message = format!("process {} is to take over the switch: it gets all sockets and files", peer.pid);
        self.telemetry.events.say_with("hand_over", message, json!({ "successor_pid": peer.pid }));
        self.doors.freeze(&self.reactor);
        for client in self.clients.slots.connected() {
            self.reactor.forget(client);
        }
        if let Some(standby) = &mut self.workers.standby {
            standby.kill("the next supervisor's worker takes its place");
        }
        let due = Some(Instant::now() + DRAIN_TIME);
        let stage = Stage::Draining;
        let handing = HandingOver { peer, stage, due, retry: None, is_lost: false, lifeline: None, killed: None };
        self.handing_over = Some(handing);
    }

    fn may_hand_over(&self, peer: &Peer, version: u32) -> Result<(), String> {
        let owner = self.doors.front.listener().owner();
        if version != VERSION {
            return Err(format!(
                "the running switch hands over by records of version {VERSION}, and the new one reads version \
                 {version}: end the running switch and start the new one"
            ));
        }
        if peer.uid != owner {
            return Err(format!("the running switch is of user {owner}: take over from it as that user"));
        }
        if self.handing_over.is_some() {
            return Err("another process is taking over from the running switch; try again".to_string());
        }
        if let Some(why) = self.workers.handover.refusal(Instant::now()) {
            return Err(why);
        }
        let serves = self.workers.serving.as_ref().is_some_and(|worker| worker.ready.is_some() && worker.pid.is_some());
        match serves && self.ending.is_none() && self.workers.succession.has_served() {
            true => Ok(()),
            false => Err("no worker of the running switch serves at the moment; try again".to_string()),
        }
    }

    /// Whether a supervisor hands over or takes over, so that clients' state must not change.
    pub(super) fn is_frozen(&self) -> bool {
        self.handing_over.is_some() || self.taking_over.is_some()
    }

    /// Does what is possible now.
    pub(super) fn go_on_handing_over(&mut self, now: Instant) {
        let Some(mut handing) = self.handing_over.take() else { return };
        handing.retry.take_if(|retry| *retry <= now);
        let outcome = self.advance(&mut handing);
        let is_late = handing.due.is_some_and(|due| due <= now);
        let is_told = matches!(handing.stage, Stage::Told);
        let is_dead = is_told
            && handing.is_lost
            && (handing.lifeline.as_ref().is_some_and(|fd| has_hung_up(fd.as_fd())) || is_late);
        self.handing_over = Some(handing);
        match outcome {
            Err(why) => self.handing_over_fails(&why),
            Ok(()) if is_dead => self.handing_over_fails("the new supervisor died before its worker served"),
            Ok(()) if is_late && is_told => self.handed_over("; it has not said that its worker serves"),
            Ok(()) if is_late => self.handing_over_fails("it took too long"),
            Ok(()) => {}
        }
    }

    fn advance(&self, handing: &mut HandingOver) -> Result<(), String> {
        match &mut handing.stage {
            Stage::Draining if self.is_quiet() => {
                let outbox = self.estate().and_then(|(record, files)| Outbox::new(record.encode()?, files.all().len()));
                handing.begin(Stage::Sending(outbox.map_err(|why| why.to_string())?), Some(SILENCE));
                self.advance(handing)
            }
            Stage::Sending(outbox) => {
                let (_, files) = self.estate().map_err(|why| why.to_string())?;
                match outbox.flush(&handing.peer.stream, files.all()) {
                    Ok(true) => handing.begin(Stage::Preparing, Some(SILENCE)),
                    Ok(false) => handing.retry = Some(Instant::now() + RETRY),
                    Err(error) => return Err(format!("the new supervisor cannot be reached: {error}")),
                }
                Ok(())
            }
            Stage::Told if handing.is_lost => {
                handing.retry = Some(Instant::now() + RETRY);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether nothing is under way between clients and workers.
    fn is_quiet(&self) -> bool {
        let settled = self.workers.serving.as_ref().is_some_and(|worker| worker.is_settled());
        let alone = self.workers.standby.is_none() && !self.workers.children.starts_a_worker();
        let waits = self.clients.slots.connected().any(|client| client.session.is_waiting());
        settled && alone && !waits && self.clients.slots.leaving() == 0
    }

    /// The record of everything, and its files.
    fn estate(&self) -> Result<(Record, Files<'_>), Unfit> {
        let (mut files, clock) = (Files::default(), Clock::new());
        let succession = &self.workers.succession;
        let record = Record {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            ledger: files.add_borrowed(self.workers.ledger_fd()),
            free_area: u8::from(self.workers.serving.as_ref().is_some_and(|worker| worker.area == 0)),
            doors: self.doors.record(&mut files)?,
            declared: (self.clients.slots.declared.in_force(), self.clients.slots.declared.slots().clone()),
            clients: self.clients.record(&mut files, clock)?,
            files: self.clients.files_record(&mut files, clock),
            cards: self.clients.slots.all_cards().map(|port| port.record(&mut files)).collect(),
            mirrors: self.mirrors.all().cloned().collect(),
            snooping: self.workers.config.settings.snooping,
            blames: self.clients.blame_record(clock),
            classes: self.clients.class_record(clock),
            telemetry: self.telemetry.record(clock, (succession.restarts(), succession.last_death.clone())),
        };
        Ok((record, files))
    }

    /// The successor says something, or has ended.
    pub(super) fn hear_successor(&mut self) {
        let Some(handing) = &mut self.handing_over else { return };
        match (hear(&handing.peer.stream), &handing.stage) {
            (Heard::Nothing, _) => {}
            (Heard::Word(Word::Ready, Some(link)), Stage::Preparing) => {
                handing.lifeline = Some(link);
                self.kill_for_successor();
            }
            (Heard::Word(Word::Done, _), Stage::Told) => self.handed_over(""),
            (_, Stage::Killing | Stage::Told) => {
                handing.is_lost = true;
                handing.due = Some(Instant::now() + BURIAL_TIME);
                self.reactor.forget(&handing.peer.stream);
            }
            _ => self.handing_over_fails("the new supervisor has ended"),
        }
    }

    fn kill_for_successor(&mut self) {
        let (Some(handing), Some(worker)) = (&mut self.handing_over, &mut self.workers.serving) else { return };
        handing.killed = Some((Instant::now(), worker.pid));
        handing.begin(Stage::Killing, None);
        worker.kill("the next supervisor's worker is ready");
    }

    /// The serving worker is dead. Returns whether it was killed for the successor, which may serve from now on.
    pub(super) fn died_for_successor(&mut self) -> bool {
        let Some(handing) = &mut self.handing_over else { return false };
        if !matches!(handing.stage, Stage::Killing) {
            self.handing_over_fails("the worker died meanwhile");
            return false;
        }
        // From the next word on, the successor lets cards go.
        self.stop_cards();
        let Some(handing) = &mut self.handing_over else { return false };
        let told = match handing.is_lost {
            true => Err("the new supervisor has ended".to_string()),
            false => say(&handing.peer.stream, Word::Go, None)
                .map_err(|error| format!("the new supervisor cannot be reached: {error}")),
        };
        handing.begin(Stage::Told, Some(SILENCE));
        if let Err(why) = told {
            self.handing_over_fails(&why);
        }
        true
    }

    /// The successor serves: this supervisor ends, and leaves the names of the sockets.
    fn handed_over(&mut self, but: &str) {
        let Some(handing) = self.handing_over.take() else { return };
        let (pid, ports) = (handing.peer.pid, self.clients.slots.told().count());
        let gap_us = handing.killed.map_or(0, |(since, _)| u64::try_from(since.elapsed().as_micros()).unwrap_or(0));
        let message = format!("process {pid} has taken over the switch with {ports} ports, after {gap_us} us{but}");
        let fields = json!({ "successor_pid": pid, "ports": ports, "gap_us": gap_us });
        self.telemetry.events.say_with("handed_over", message, fields);
        self.is_handed_over = true;
        self.over = Some(Ok(()));
    }

    /// The handover has failed: serves on as if it had not begun.
    pub(super) fn handing_over_fails(&mut self, why: &str) {
        let Some(handing) = self.handing_over.take() else { return };
        self.reactor.forget(&handing.peer.stream);
        turn_away(&handing.peer, why);
        let message = format!("process {} does not take over the switch: {why}", handing.peer.pid);
        self.telemetry.events.say_with("handover_failed", message, json!({ "successor_pid": handing.peer.pid }));
        self.thaw();
        match handing.killed.filter(|_| self.workers.serving.is_none()) {
            Some((when, pid)) => {
                self.workers.succession.worker_died(when, pid);
                self.replace_worker();
            }
            None => self.start_standby(),
        }
    }

    /// Accepts connections and reads from clients.
    pub(super) fn thaw(&mut self) {
        if let Err(error) = self.doors.thaw(&self.reactor) {
            self.over = Some(Err(format!("the sockets cannot be watched: {error}")));
        }
        let numbers: Vec<u16> = self.clients.slots.connected().map(|client| client.id.slot).collect();
        for number in numbers {
            let Some(client) = self.clients.slots.client(number) else { continue };
            let token = if is_pending(number) { Token::Pending(client.serial) } else { Token::Client(number) };
            if let Err(error) = self.reactor.watch(&*client, token, client.interest) {
                self.refuse(number, sv3::wire::Refuse(format!("it cannot be watched: {error}")).into());
            }
            self.update_interest(number);
        }
        self.watch_all_files();
        self.watch_all_cards();
    }
}

/// Tells a process why it cannot take over.
fn turn_away(peer: &Peer, why: &str) {
    let mut answer = answers::error(why.to_string());
    answer.push(b'\n');
    let _ = ancillary::send(&peer.stream, &answer);
}
