//! Ports of open files that are attached at the control socket, and what workers report of all ports of open files.
//! Streams that come in at a door are in [`super::streams`].

use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use serde_json::json;
use sv3::MAX_PORTS;
use sv3::attachment::{Attachment, Transport};
use sv3::foreign::ForeignFd;
use sv3::frame::MacAddr;
use sv3::ipc::{Command, Report, RingFault};
use sv3::status::AttachAnswer;
use sv3_policy::WorkerRole;

use super::Supervisor;
use crate::ports::files::FilePort;
use crate::ports::holdings::Holdings;
use crate::ports::port::Replay;
use crate::token::Token;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// `attach`: makes a port of open files, or gives a port new ones. Answered as soon as the commands are on their
    /// way. The error is for people.
    pub(super) fn attach(
        &mut self,
        attachment: Attachment,
        fds: Vec<ForeignFd>,
        owner: (i32, u32),
    ) -> Result<AttachAnswer, String> {
        let name = attachment.name.clone();
        self.is_free_to_attach(&name)?;
        if self.clients.slots.card_named(&name).is_some() {
            return Err(format!("a card's port is named {name}: choose another name by --name"));
        }
        if let Some(slot) = self.file_port(&name) {
            return self.resume(slot, attachment, fds);
        }
        let slot = self.clients.slots.free_slot().ok_or(format!("all {MAX_PORTS} ports are taken: detach one"))?;
        let mut port = FilePort::new(slot, attachment, owner, self.clients.next_serial());
        port.terms = self.clients.slots.declared.of_attached(&name);
        self.afford(&port, fds.len())?;
        port.open(fds).map_err(|why| format!("{name}: {why}"))?;
        let (pid, uid) = owner;
        let message = format!("{name}: attached by process {pid} of user {uid}");
        self.telemetry.events.say_of_port(&port.named(), "attach", message, json!({}));
        self.add_files(port);
        let addresses = self.address_commands().collect();
        self.workers.send(addresses, Waiter::Nobody);
        Ok(AttachAnswer { name, slot, resumed: false })
    }

    /// Errs if a port that is declared under this name has a socket of its own.
    pub(super) fn is_free_to_attach(&self, name: &str) -> Result<(), String> {
        match self.clients.slots.declared.slots().contains_key(name) {
            true => Err(format!("{name} is a declared port with a socket of its own: choose another name by --name")),
            false => Ok(()),
        }
    }

    /// Errs if the supervisor cannot have so many more open files for a port.
    fn afford(&self, port: &FilePort, count: usize) -> Result<(), String> {
        let may = self.clients.budget.allowance(port.holder().pid, Holdings::NONE, &PendingUnmaps::default());
        match may.fds < count || self.clients.budget.is_spent() {
            true => Err("too many files are open: raise the limit of open files (`ulimit -n`)".to_string()),
            false => Ok(()),
        }
    }

    /// Adds a port at its slot, which is free, and tells workers of it, unless it is in quarantine.
    pub(super) fn add_files(&mut self, port: FilePort) {
        let (slot, told) = (port.slot, port.quarantine.is_none());
        // The worker has let go of the slot: only the supervisor writes this now.
        if let Some(line) = self.workers.ledger.ports.get(usize::from(slot)) {
            line.reset();
        }
        let commands = port.replay();
        self.clients.slots.insert_files(port);
        self.watch_files(slot);
        self.count_files(slot);
        if told {
            self.workers.send(commands, Waiter::Nobody);
        }
        self.ensure_role();
    }

    /// Gives a port whose files are gone new ones.
    fn resume(&mut self, slot: u16, attachment: Attachment, fds: Vec<ForeignFd>) -> Result<AttachAnswer, String> {
        let name = attachment.name.clone();
        let Some(port) = self.clients.slots.files(slot) else { return Err(format!("{name} is not attached")) };
        if !port.is_empty() {
            return Err(format!("a port named {name} is attached: detach it (`sv3 detach {name}`) or choose a name"));
        }
        if port.attachment.transport != attachment.transport {
            return Err(format!("{name} waits for a file of another kind: detach it first (`sv3 detach {name}`)"));
        }
        port.open(fds).map_err(|why| format!("{name}: {why}"))?;
        let changed = std::mem::replace(&mut port.attachment, attachment) != port.attachment;
        let (named, told) = (port.named(), port.quarantine.is_none());
        let commands =
            if changed { [port.remove()].into_iter().chain(port.replay()).collect() } else { port.open_commands() };
        self.telemetry.events.say_of_port(&named, "attach", format!("{name}: attached again"), json!({}));
        if told {
            self.workers.send(commands, Waiter::Nobody);
        }
        self.watch_files(slot);
        self.count_files(slot);
        self.ensure_role();
        Ok(AttachAnswer { name, slot, resumed: true })
    }

    /// `detach`: ends a port that was attached.
    pub(super) fn detach_files(&mut self, name: &str) -> Result<serde_json::Value, String> {
        if let Some(answer) = self.detach_card(name) {
            return Ok(answer);
        }
        let attached = self.clients.slots.all_files().find(|port| port.name() == name && !port.is_client());
        let slot = attached.map(|port| port.slot).ok_or(format!(
            "no port {name:?} was attached by `sv3 attach` or `sv3 uplink`; `sv3 status` lists all ports"
        ))?;
        self.remove_files(slot, "detached");
        Ok(json!({ "detached": name }))
    }

    /// The slot of a port of open files, by its name.
    pub(super) fn file_port(&self, name: &str) -> Option<u16> {
        self.clients.slots.all_files().find(|port| port.name() == name).map(|port| port.slot)
    }

    /// Removes a port. Its slot is free when the worker has forgotten it too.
    pub(super) fn remove_files(&mut self, slot: u16, how: &str) {
        let Some(port) = self.clients.slots.remove_files(slot) else { return };
        let message = match port.is_client() {
            true => format!("{}: process {} {how}", port.name(), port.owner.0),
            false => format!("{}: {how}", port.name()),
        };
        self.telemetry.events.say_of_port(&port.named(), "detach", message, json!({}));
        port.files().for_each(|fd| self.reactor.forget(&**fd));
        self.clients.budget.change(port.holder().pid, port.held, Holdings::NONE);
        // Workers do not know a port in quarantine, but may still have its removal before them.
        let remove = port.quarantine.is_none().then(|| port.remove());
        let mut commands: Vec<WorkerCommand> = remove.into_iter().collect();
        if !port.is_client() {
            commands.extend(self.address_commands());
        }
        commands.push(Command::Barrier.into());
        if !self.workers.send(commands, Waiter::Leaving(slot)) {
            self.clients.slots.release(slot);
        }
    }

    /// Counts what a port holds.
    fn count_files(&mut self, slot: u16) {
        let Some(port) = self.clients.slots.files(slot) else { return };
        let (pid, now) = (port.holder().pid, port.holdings());
        let before = std::mem::replace(&mut port.held, now);
        self.clients.budget.change(pid, before, now);
    }

    /// Watches only for the end of each socket: the worker alone reads.
    fn watch_files(&mut self, slot: u16) {
        let Some(port) = self.clients.slots.files(slot) else { return };
        if port.attachment.transport != Transport::Tap {
            for fd in port.files() {
                let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                let _ = self.reactor.watch(&**fd, Token::Client(slot), flags);
            }
        }
    }

    /// Watches every socket. Those that are watched already stay as they are.
    pub(super) fn watch_all_files(&mut self) {
        let slots: Vec<u16> = self.clients.slots.all_files().map(|port| port.slot).collect();
        slots.into_iter().for_each(|slot| self.watch_files(slot));
    }

    /// The other side of a socket has hung up. The worker reads what is left and reports the end itself; if none does
    /// so in time, the supervisor ends the port ([`Supervisor::end_hung_up`]). Returns false if the slot has no such
    /// port.
    pub(super) fn files_hung_up(&mut self, slot: u16, flags: EpollFlags) -> bool {
        let Some(port) = self.clients.slots.files(slot) else { return false };
        if flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            port.hung_up();
        }
        true
    }

    /// Ends ports whose other side hung up some time ago.
    pub(super) fn end_hung_up(&mut self, now: Instant) {
        let due = |port: &&FilePort| port.end_due.is_some_and(|due| due <= now);
        let slots: Vec<u16> = self.clients.slots.all_files().filter(due).map(|port| port.slot).collect();
        slots.into_iter().for_each(|slot| self.other_side_gone(slot));
    }

    /// A queue of a port of open files has stopped by itself. Returns false if the slot has no such port.
    pub(super) fn file_fault(&mut self, slot: u16, fault: RingFault) -> bool {
        let Some(port) = self.clients.slots.files(slot) else { return false };
        match (port.runs(), fault) {
            (false, _) => self.count_idle_report(),
            (true, RingFault::Gone) => self.other_side_gone(slot),
            (true, _) => self.close_files_of(slot, fault.words()),
        }
        true
    }

    /// The device or the peer of a port is gone.
    fn other_side_gone(&mut self, slot: u16) {
        match self.clients.slots.files(slot).is_some_and(|port| port.is_client()) {
            true => self.remove_files(slot, "disconnected"),
            false => self.close_files_of(slot, RingFault::Gone.words()),
        }
    }

    /// A worker could not execute a command about a port of open files. Returns false if the slot has no such port.
    pub(super) fn file_command_failed(&mut self, slot: u16, why: &str) -> bool {
        let is_there = self.clients.slots.files(slot).is_some();
        self.close_files_of(slot, why);
        is_there
    }

    /// The files of a port are of no more use: closes them. A client's port ends; one that was attached waits for new
    /// files.
    pub(super) fn close_files_of(&mut self, slot: u16, why: &str) {
        let Some(port) = self.clients.slots.files(slot) else { return };
        let (named, name) = (port.named(), port.name().to_string());
        if port.is_client() {
            let message = format!("{name}: stopped: {why}; the connection is closed");
            self.telemetry.events.say_of_port(&named, "file_fault", message, json!({ "why": why }));
            return self.remove_files(slot, "was sent away");
        }
        port.files().for_each(|fd| self.reactor.forget(&**fd));
        let told = port.quarantine.is_none();
        let commands = port.close(why.to_string());
        if told {
            self.workers.send(commands, Waiter::Nobody);
        }
        self.count_files(slot);
        let message = format!("{name}: stopped: {why}; attach it again with new files, or detach it");
        self.telemetry.events.say_of_port(&named, "file_fault", message, json!({ "why": why }));
    }

    /// Stops taps whose net header has another size than when they were admitted: their frames would be taken from the
    /// wrong place.
    pub(super) fn check_taps(&mut self, now: Instant) {
        self.clients.taps_checked = now;
        let changed = |port: &FilePort| Some((port.slot, port.changed_header()?));
        let changed: Vec<(u16, i32)> = self.clients.slots.all_files().filter_map(changed).collect();
        for (slot, len) in changed {
            let why = format!("another program set its net header to {len} octets (TUNSETVNETHDRSZ)");
            self.close_files_of(slot, &why);
        }
    }

    /// A round of frames that look for loops.
    pub(super) fn probe_for_loops(&mut self, now: Instant) {
        let slots: Vec<u16> = self.clients.uplinks().map(|(slot, _)| slot).collect();
        let probe = |(port, token)| Command::LoopProbe { port, token }.into();
        let commands = self.clients.loops.round(&slots, now).into_iter().map(probe).collect();
        self.workers.send(commands, Waiter::Nobody);
    }

    /// A frame that looks for loops came in at an uplink. Stops the one of the two uplinks that came later.
    pub(super) fn loop_found(&mut self, at: u16, token: u64) {
        let Some(origin) = self.clients.loops.origin(at, token) else { return self.count_idle_report() };
        let uplink = |slot| self.clients.uplinks().find(|uplink| uplink.0 == slot).map(|(slot, serial)| (serial, slot));
        let (Some(first), Some(second)) = (uplink(at), uplink(origin)) else { return };
        let ((_, stays), (_, later)) = (first.min(second), first.max(second));
        let other = self.clients.slots.named(stays).map_or(String::new(), |named| named.name);
        let Some(named) = self.clients.slots.named(later) else { return };
        let name = named.name.clone();
        let why = format!("a loop: frames that leave by {other} come back here, and the other way round");
        let commands = match (self.clients.slots.files(later), why) {
            (Some(port), why) => port.stop(why),
            (None, why) => self.clients.slots.card(later).map_or(Vec::new(), |port| port.stop(why)),
        };
        self.workers.send(commands, Waiter::Nobody);
        let message = format!(
            "{name} is stopped: it leads into the same network as {other}, so frames would go round without end; \
             detach one of them (`sv3 detach {name}`), or part the networks and start it again (`sv3 port release \
             {name}`)"
        );
        self.telemetry.events.say_of_port(&named, "loop", message, json!({ "other": other }));
    }

    /// A port tried to take an address that another port has. A worker says so once for each port that is added.
    pub(super) fn address_conflict(&mut self, Report { port, ring: rival, value, .. }: Report) {
        // The report may come in the same turn as the end of its connection, and before it.
        let is_gone = |port: &mut FilePort| port.has_hung_up();
        let address = MacAddr::from_bits(value);
        let runs = self.clients.slots.is_there(rival) && !self.clients.slots.files(rival).is_some_and(is_gone);
        // A static address is its port's, whether anybody is attached or not.
        let is_there = runs || self.workers.addresses.has(rival, address);
        let owner = self.clients.slots.names().remove(&rival).unwrap_or(format!("p{rival}"));
        let Some(port) = self.clients.slots.files(port).filter(|port| port.conflict.is_none()) else {
            return self.count_idle_report();
        };
        // A client that comes back at once speaks before the worker has forgotten its last connection, or while the rest of
        // its last connection is still to be read.
        match is_there && !port.has_hung_up() {
            false if std::mem::replace(&mut port.came_back, true) => return self.count_idle_report(),
            false => return,
            true => {}
        }
        let told = format!("the address {address} belongs to {owner}: give this machine another one");
        (port.conflict, port.rival) = (Some(told.clone()), Some(rival));
        let (named, name) = (port.named(), port.name());
        let message = format!(
            "{name}: {told}, or detach one of the two (every podman machine has the same address); its frames with \
             this address are dropped"
        );
        let fields = json!({ "owner": owner, "address": address.to_string() });
        self.telemetry.events.say_of_port(&named, "address_conflict", message, fields);
    }

    /// Lets a worker serve that may have what the ports need, if the serving worker may not: plans a handover to one. Workers
    /// that start from now on have that role, until the supervisor ends.
    pub(super) fn ensure_role(&mut self) {
        let role = self.clients.slots.role();
        if role == WorkerRole::Plain {
            return;
        }
        self.workers.config.role = self.workers.config.role.max(role);
        if self.workers.handover.stage().is_some() {
            // Looks again when that is over.
            return;
        }
        let lacks = self.workers.serving.as_ref().is_some_and(|worker| worker.role < role);
        if lacks && let Err(why) = self.plan_own_handover() {
            self.telemetry
                .events
                .say("role", format!("ports wait for the next worker, which may have what they need: {why}"));
        }
    }
}
