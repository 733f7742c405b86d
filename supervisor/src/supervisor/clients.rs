//! Clients: accepts them, serves their requests, and detaches them.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use sv3::MAX_PORTS;
use sv3::ipc::Command;
use sv3::wire::Refuse;

use super::Supervisor;
use crate::clients::client::Client;
use crate::clients::number::is_pending;
use crate::clients::protocol::{Input, Message, Refused, Reply, Session, Step};
use crate::clients::slots::LAST;
use crate::doors::DoorAt;
use crate::doors::listener::{Incoming, PAUSE, Peer};
use crate::doors::stream::StreamForm;
use crate::ports::holdings::Holdings;
use crate::ports::kernel::Kernel;
use crate::telemetry::status::NO_MEMORY;
use crate::token::Token;
use crate::workers::worker::Waiter;

/// Most connections that are accepted before clients are served.
const TURN: usize = 32;
/// Most connections that are looked at meanwhile. Most of them may be closed already; each takes some microseconds.
const LOOKS: usize = 256;
/// While more slots than this wait for the worker to let go of them, no client is accepted; and how long the front door
/// then stays closed.
const LEAVING_MAX: usize = 128;
const BREAK: Duration = Duration::from_millis(1);
/// Most reads from one client before the next client's turn. A request takes two.
const READS: usize = 64;

impl Supervisor {
    /// Opens the doors that clients connect to.
    pub(super) fn open_doors(&mut self) {
        if let Err(error) = self.doors.open_clients(&self.reactor) {
            self.over = Some(Err(format!("the front door cannot be watched: {error}")));
        }
        self.say_listen();
    }

    /// Says that clients are served.
    pub(super) fn say_listen(&mut self) {
        for door in self.doors.of_clients() {
            let whom = if door.form().is_some() { "streams" } else { "clients" };
            let path = door.listener().path().display();
            self.telemetry.events.say("listen", format!("{whom} are served at {path}"));
        }
        self.service.ready(&format!("clients are served at {}", self.doors.front.listener().path().display()));
    }

    /// Accepts clients at a door.
    pub(super) fn accept_clients(&mut self, at: DoorAt) {
        let is_short = self.clients.budget.is_short(self.workers.closers.backlog());
        // Clients that connect and disconnect as fast as they can would take all slots.
        let is_leaving = self.clients.slots.leaving() > LEAVING_MAX;
        let Some(door) = self.doors.of_clients_at(at) else { return };
        if is_short || is_leaving {
            let pause = if is_short { PAUSE } else { BREAK };
            return door.close_until(Instant::now() + pause, &self.reactor);
        }
        let mut admitted = 0;
        for _ in 0..LOOKS {
            if let DoorAt::Declared(slot) = at
                && !self.makes_room(slot)
            {
                return;
            }
            let Some(door) = self.doors.of_clients_at(at) else { return };
            let form = door.form();
            match door.accept() {
                Incoming::Peer(peer) => {
                    self.admit(peer, form, at);
                    admitted += 1;
                    if admitted >= TURN {
                        return;
                    }
                }
                // Clients may connect and close as fast as they can, and others wait behind them.
                Incoming::Gone => {}
                Incoming::TurnedAway(error) => {
                    self.telemetry.events.say_of(None, "refuse", format!("a client was turned away: {error}"));
                }
                Incoming::Later(error) => {
                    let message = format!("clients wait outside for {} ms: {error}", PAUSE.as_millis());
                    self.telemetry.events.say_of(None, "refuse", message);
                    return door.close_until(Instant::now() + PAUSE, &self.reactor);
                }
                Incoming::Nobody => return,
            }
        }
    }

    /// Accepts a connection at a door; `form`: it is a stream. If there are too many pending clients, another one is
    /// disconnected for it.
    fn admit(&mut self, peer: Peer, form: Option<StreamForm>, at: DoorAt) {
        let pid = peer.pid;
        let home = match at {
            DoorAt::Declared(slot) if self.turns_away(slot, pid) => return,
            DoorAt::Declared(slot) => Some(slot),
            DoorAt::Front | DoorAt::Stream(_) => None,
        };
        if home.is_none() && !self.doors.front.listener().permits(&peer) {
            let (uid, owner) = (peer.uid, self.doors.front.listener().owner());
            let message = format!(
                "client {pid} of user {uid} turned away: this switch serves user {owner} and root, whatever the mode \
                 of its socket; start the guest as user {owner}, or run a switch as user {uid}"
            );
            return self.telemetry.events.say_of(None, "refuse", message);
        }
        if (self.clients.slots.free_pending_number().is_none() || self.clients.budget.is_spent())
            && let Some(number) = self.clients.slots.pending_to_yield()
        {
            self.detach(number, "gave way");
        }
        if self.clients.budget.is_spent() {
            let message = format!(
                "client {pid} turned away: clients hold all files that they may hold; raise the limit of open files \
                 (`ulimit -n`)"
            );
            return self.telemetry.events.say_of(None, "refuse", message);
        }
        if let Some(form) = form {
            return self.add_stream(peer, form, home);
        }
        let Some(number) = self.clients.slots.free_pending_number() else { return };
        let mut client = Client::new(number, self.clients.next_serial(), peer);
        client.home = home;
        if let Err(error) = self.reactor.watch(&client, Token::Pending(client.serial), client.interest) {
            let message = format!("client {} turned away: {error}", client.id.pid);
            return self.telemetry.events.say_of(None, "refuse", message);
        }
        client.session.count_pending_unmaps(self.clients.budget.pending_unmaps.of_another());
        client.held = client.session.holdings();
        self.clients.budget.change(client.id.pid, Holdings::NONE, client.held);
        self.clients.slots.insert(client);
    }

    /// A slot for a client of process `pid`, if one is free. A client that uses its port for nothing may lose it.
    pub(super) fn claim_slot(&mut self, pid: i32) -> Result<u16, Refuse> {
        let free = self.clients.slots.free();
        let ledger = &self.workers.ledger;
        let is_silent = |slot| {
            let line = ledger.ports.get(usize::from(slot));
            line.is_some_and(|line| line.from_guest_frames.load(Relaxed) == 0)
        };
        if free <= LAST / 2
            && let Some(idle) = self.clients.slots.idle_to_yield(is_silent)
        {
            let why = "all ports are taken, and this one has not been used yet: it gives way to another client";
            match self.clients.slots.files(idle).is_some() {
                true => self.end_stream(idle, why),
                false => self.refuse(idle, Refuse(why.to_string()).into()),
            }
        }
        if free <= LAST && self.clients.slots.has_slot(pid) {
            return Err(Refuse(format!("the last {LAST} of {MAX_PORTS} ports are for processes that have none")));
        }
        let none = || Refuse(format!("turned away: all {MAX_PORTS} ports are taken"));
        self.clients.slots.free_slot().ok_or_else(none)
    }

    /// Gives a pending client a port, if one is free. Returns its slot.
    fn take_slot(&mut self, number: u16) -> Result<u16, Refuse> {
        let client = self.clients.slots.client(number);
        let (pid, home) = client.map_or((0, None), |client| (client.id.pid, client.home));
        let slot = self.slot_for(home, pid)?;
        let gone = || Refuse("the client is gone".to_string());
        let mut client = self.clients.slots.remove(number).ok_or_else(gone)?;
        client.id.slot = slot;
        client.session.take_slot(slot, self.clients.slots.declared.of_client(slot, client.uid));
        self.reactor.change(client.as_fd(), Token::Client(slot), client.interest);
        // The worker has let go of the slot: only the supervisor writes these counters now.
        if let Some(line) = self.workers.ledger.ports.get(usize::from(slot)) {
            line.reset();
        }
        self.telemetry.events.say_of(
            client.id,
            "attach",
            format!("{} process {pid} of user {} connected", client.name(), client.uid),
        );
        let quarantine = self.clients.blames.until(pid, Instant::now());
        if quarantine.is_none() {
            self.workers.send(client.session.replay(), Waiter::Session(slot));
        }
        self.clients.slots.insert(client);
        if let Some(until) = quarantine {
            self.confine_port(slot, until, None);
        }
        Ok(slot)
    }

    /// Handles events of a client's socket: reads and serves its requests, for a turn.
    pub(super) fn serve_client(&mut self, mut slot: u16, flags: EpollFlags) {
        let waits = self.clients.slots.client(slot).is_some_and(|client| client.session.is_waiting());
        if flags.contains(EpollFlags::EPOLLERR) || waits && flags.contains(EpollFlags::EPOLLHUP) {
            return self.detach(slot, "disconnected");
        }
        if flags.contains(EpollFlags::EPOLLOUT)
            && let Some(Err(refuse)) = self.clients.slots.client(slot).map(|client| client.connection.flush())
        {
            return self.refuse(slot, refuse.into());
        }
        if is_pending(slot) && self.clients.slots.client(slot).is_some_and(|client| client.connection.begins_stream()) {
            return self.become_stream(slot);
        }
        for _ in 0..READS {
            if self.must_wait(slot) {
                break;
            }
            let Some(client) = self.clients.slots.client(slot).filter(|client| !client.session.is_waiting()) else {
                break;
            };
            let message = match client.connection.receive() {
                Ok(Input::Message(message)) => Ok(message),
                Ok(Input::Part) => continue,
                Ok(Input::Nothing) => break,
                Ok(Input::End) => return self.detach(slot, "disconnected"),
                Err(refuse) => Err(Refused::from(refuse)),
            };
            if is_pending(slot)
                && let Ok(message) = &message
                && !Session::is_question(message)
            {
                match self.take_slot(slot) {
                    Ok(taken) => slot = taken,
                    Err(reason) => return self.refuse(slot, reason.into()),
                }
            }
            self.serve_message(slot, message);
        }
        self.update_interest(slot);
    }

    /// Serves a message, and counts what the client holds after it.
    fn serve_message(&mut self, slot: u16, message: Result<Message, Refused>) {
        let offers = self.workers.handover.offers();
        let Some(client) = self.clients.slots.client(slot) else { return };
        let pending_unmaps = &client.device().pending_unmaps;
        let allowance = self.clients.budget.allowance(client.id.pid, client.held, pending_unmaps);
        client.session.offer(offers);
        client.session.allow(allowance);
        let outcome = message.and_then(|message| client.session.request(message, &Kernel));
        self.clients.budget.change(client.id.pid, client.held, client.session.holdings());
        client.held = client.session.holdings();
        if client.device().lacks_memory() && !std::mem::replace(&mut client.told_of_memory, true) {
            let message = format!("{} {NO_MEMORY}", client.name());
            self.telemetry.events.say_of(client.id, "no_memory", message);
        }
        match outcome {
            Ok(step) => {
                self.check_class(slot);
                self.take_step(slot, step);
            }
            Err(refused) => self.refuse(slot, refused),
        }
        self.tell_of_migration(slot);
        let round = self.workers.closers.round();
        if self.put_aside() > 0
            && let Some(client) = self.clients.slots.client(slot)
        {
            client.left_files = Some(round);
        }
    }

    /// Writes an event if the client's guest began to migrate, or migrates no longer.
    pub(super) fn tell_of_migration(&mut self, slot: u16) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        let (name, device) = (client.name(), client.session.device());
        let migrates = device.is_migrating();
        let (state, words) = match device.logs {
            _ if migrates => ("begun", "its guest migrates: the client is told which pages are written"),
            true => ("stopped", "its guest, which migrates, has stopped here"),
            false => ("ended", "its guest migrates no longer, and stays"),
        };
        if std::mem::replace(&mut client.told_of_migration, migrates) != migrates {
            let fields = serde_json::json!({ "state": state });
            self.telemetry.events.say_of_with(client.id, "migration", format!("{name} {words}"), fields);
        }
    }

    fn take_step(&mut self, slot: u16, step: Step) {
        let confined = self.clients.slots.client(slot).is_some_and(|client| client.quarantine.is_some());
        let reply = match !confined && self.workers.send(step.commands, Waiter::Session(slot)) {
            true => step.reply,
            // The next worker is told of it by the replay.
            false => step.reply.or_else(|| self.answer_without_worker(slot)),
        };
        self.reply(slot, reply);
    }

    /// No worker serves the port, so the session must not wait. Returns the reply that is due now.
    pub(super) fn answer_without_worker(&mut self, slot: u16) -> Option<Reply> {
        let line = self.workers.ledger.ports.get(usize::from(slot));
        let used = |ring: u16| line.and_then(|line| line.rings.get(usize::from(ring))).map(|ring| &ring.used);
        let position = |ring| used(ring).map_or(0, |used| used.load(Relaxed));
        let client = self.clients.slots.client(slot)?;
        let session = &mut client.session;
        match client.quarantine {
            None => session.worker_died(position),
            // No worker will report the base: take it from the ledger at once.
            Some(_) => loop {
                let reply = session.worker_died(position);
                if !session.is_waiting() {
                    return reply;
                }
            },
        }
    }

    /// Sends a client its reply and reads from it again.
    pub(super) fn reply(&mut self, slot: u16, reply: Option<Reply>) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        match reply.map_or(Ok(()), |reply| client.connection.reply(reply)) {
            Ok(()) => self.update_interest(slot),
            Err(refuse) => self.refuse(slot, refuse.into()),
        }
    }

    /// Refuses a request: tells the client, and writes an event with the reason.
    pub(super) fn refuse(&mut self, slot: u16, refused: Refused) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        let consequence = if refused.close { "; the connection is closed" } else { "" };
        self.telemetry.events.say_of(client.id, "refuse", format!("{} {}{consequence}", client.name(), refused.reason));
        let unread = refused.reply.is_some_and(|reply| client.connection.reply(reply).is_err());
        if refused.close || unread {
            self.detach(slot, "was sent away");
        }
    }

    /// Removes a client. Its slot is free when the worker has forgotten the port too.
    pub(super) fn detach(&mut self, slot: u16, how: &str) {
        let Some(client) = self.clients.slots.remove(slot) else { return };
        self.reactor.forget(&client);
        self.clients.budget.change(client.id.pid, client.held, Holdings::NONE);
        if is_pending(slot) {
            return;
        }
        let message = format!("{} process {} {how}", client.name(), client.id.pid);
        self.telemetry.events.say_of(client.id, "detach", message);
        let commands = vec![client.device().port_remove(), Command::Barrier.into()];
        if client.quarantine.is_some() || !self.workers.send(commands, Waiter::Leaving(slot)) {
            self.clients.slots.release(slot);
        }
    }

    /// Disconnects every client whose memory files have become too short: a worker that accesses them dies. The kernel
    /// is asked after each death, so that nothing depends on what a dying worker wrote. Returns whether there were any.
    pub(super) fn recheck_memory(&mut self) -> bool {
        let truncated = |client: &Client| {
            let found = client.device().truncated(&Kernel);
            found.map(|reason| (client.id.slot, client.holder(), reason))
        };
        let offenders: Vec<_> = self.clients.served().filter_map(truncated).collect();
        let found = !offenders.is_empty();
        let mut blamed = Vec::new();
        for (slot, holder, reason) in offenders {
            self.refuse(slot, reason.into());
            self.blame_once(&mut blamed, holder, true);
        }
        found
    }

    /// Disconnects clients that are late with a message.
    pub(super) fn refuse_late(&mut self, now: Instant) {
        for (slot, reason) in self.clients.late(now) {
            self.refuse(slot, reason.into());
        }
    }

    /// Sets the events to wait for at a client's socket. While the client must wait, its requests are not among them.
    pub(super) fn update_interest(&mut self, slot: u16) {
        let waits = self.must_wait(slot);
        if waits && self.clients.slots.client(slot).is_some() {
            self.clients.halt(slot);
        }
        let Some(client) = self.clients.slots.client(slot) else { return };
        let mut wanted = client.wanted();
        wanted.set(EpollFlags::EPOLLIN, wanted.contains(EpollFlags::EPOLLIN) && !waits);
        if wanted != client.interest {
            client.interest = wanted;
            let token = if is_pending(slot) { Token::Pending(client.serial) } else { Token::Client(slot) };
            self.reactor.change(client.as_fd(), token, wanted);
        }
    }
}
