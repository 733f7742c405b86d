//! Ports of open files: attaches and detaches them, and handles what workers report of them.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use serde_json::json;
use sv3::MAX_PORTS;
use sv3::attachment::{Attachment, Transport};
use sv3::foreign::ForeignFd;
use sv3::frame::MacAddr;
use sv3::ipc::{Command, Report, RingFault};
use sv3::status::AttachAnswer;

use super::Supervisor;
use crate::clients::slots::Slots;
use crate::ports::files::FilePort;
use crate::ports::port::Replay;
use crate::token::Token;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// `attach`: makes a port of open files, or gives a port new ones. The error is for people.
    pub(super) fn attach(
        &mut self,
        attachment: Attachment,
        fds: Vec<ForeignFd>,
        owner: (i32, u32),
    ) -> Result<AttachAnswer, String> {
        let name = attachment.name.clone();
        if let Some(slot) = self.file_port(&name) {
            return self.resume(slot, attachment, fds);
        }
        let slot = self.clients.slots.free_slot().ok_or(format!("all {MAX_PORTS} ports are taken: detach one"))?;
        let mut port = FilePort::new(slot, attachment, owner, self.clients.next_serial());
        port.open(fds).map_err(|why| format!("{name}: {why}"))?;
        if let Some(line) = self.workers.ledger.ports.get(usize::from(slot)) {
            line.reset();
        }
        self.workers.ledger.reset_inputs(slot);
        let (pid, uid) = port.owner;
        let message = format!("{name}: attached by process {pid} of user {uid}");
        self.telemetry.events.say_with("attach", message, json!({ "port": name }));
        self.watch_files(&port);
        let commands = port.replay();
        self.clients.slots.insert_files(port);
        self.workers.send(commands, Waiter::Nobody);
        self.ensure_role();
        Ok(AttachAnswer { name, slot, resumed: false })
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
        let commands =
            if changed { [port.remove()].into_iter().chain(port.replay()).collect() } else { port.open_commands() };
        let message = format!("{name}: attached again");
        self.telemetry.events.say_with("attach", message, json!({ "port": name }));
        self.workers.send(commands, Waiter::Nobody);
        self.rewatch(slot);
        self.ensure_role();
        Ok(AttachAnswer { name, slot, resumed: true })
    }

    /// `detach`: ends a port of open files.
    pub(super) fn detach_files(&mut self, name: &str) -> Result<serde_json::Value, String> {
        let slot = self.file_port(name).ok_or(format!(
            "no port {name:?} was attached by `sv3 attach` or `sv3 uplink`; `sv3 status` lists all ports"
        ))?;
        self.remove_files(slot, "detached");
        Ok(json!({ "detached": name }))
    }

    /// The slot of a port of open files, by its name.
    pub(super) fn file_port(&self, name: &str) -> Option<u16> {
        self.clients.slots.all_files().find(|port| port.name() == name).map(|port| port.slot)
    }

    fn remove_files(&mut self, slot: u16, how: &str) {
        let Some(port) = self.clients.slots.remove_files(slot) else { return };
        let name = port.name();
        self.telemetry.events.say_with("detach", format!("{name}: {how}"), json!({ "port": name }));
        port.files().for_each(|fd| self.reactor.forget(&**fd));
        if !self.workers.send(vec![port.remove(), Command::Barrier.into()], Waiter::Leaving(slot)) {
            self.clients.slots.release(slot);
        }
    }

    /// Watches only for the end of each socket: the worker alone reads.
    fn watch_files(&self, port: &FilePort) {
        if port.attachment.transport == Transport::Tap {
            return;
        }
        for fd in port.files() {
            let _ = self.reactor.watch(fd.as_fd(), Token::Client(port.slot), EpollFlags::EPOLLET);
        }
    }

    fn rewatch(&mut self, slot: u16) {
        let port = self.clients.slots.all_files().find(|port| port.slot == slot);
        if let Some(port) = port {
            self.watch_files(port);
        }
    }

    /// The other side of a socket has hung up. The worker reads what is left, and then reports the end itself. Without
    /// a worker, the next one does.
    pub(super) fn files_hung_up(&mut self, slot: u16) -> bool {
        self.clients.slots.files(slot).is_some()
    }

    /// A queue of a port of open files has stopped by itself. Returns false if the slot has no such port.
    pub(super) fn file_fault(&mut self, slot: u16, fault: RingFault) -> bool {
        let Some(port) = self.clients.slots.files(slot) else { return false };
        if !port.faulted(fault) {
            self.count_idle_report();
            return true;
        }
        let (name, why) = (port.name().to_string(), fault.words());
        let commands = port.close(why.to_string());
        self.workers.send(commands, Waiter::Nobody);
        let message = format!("{name}: stopped: {why}; attach it again with new files, or detach it");
        self.telemetry.events.say_with("file_fault", message, json!({ "port": name, "why": why }));
        true
    }

    /// A round of frames that look for loops.
    pub(super) fn probe_for_loops(&mut self, now: Instant) {
        let slots: Vec<u16> = self.clients.uplinks().map(|port| port.slot).collect();
        let probe = |(port, token)| Command::LoopProbe { port, token }.into();
        let commands = self.clients.loops.round(&slots, now).into_iter().map(probe).collect();
        self.workers.send(commands, Waiter::Nobody);
    }

    /// A frame that looks for loops came in at an uplink. Stops the one of the two uplinks that came later.
    pub(super) fn loop_found(&mut self, at: u16, token: u64) {
        let Some(origin) = self.clients.loops.origin(at, token) else { return self.count_idle_report() };
        let uplink = |slot| self.clients.uplinks().find(|port| port.slot == slot).map(|port| (port.serial, slot));
        let (Some(first), Some(second)) = (uplink(at), uplink(origin)) else { return };
        let ((_, stays), (_, later)) = (first.min(second), first.max(second));
        let name = |port: Option<&mut FilePort>| port.map_or(String::new(), |port| port.name().to_string());
        let other = name(self.clients.slots.files(stays));
        let Some(port) = self.clients.slots.files(later) else { return };
        let name = port.name().to_string();
        let commands =
            port.stop(format!("a loop: frames that leave by {other} come back here, and the other way round"));
        self.workers.send(commands, Waiter::Nobody);
        let message = format!(
            "{name} is stopped: it leads into the same network as {other}, so frames would go round without end; detach              one of them (`sv3 detach {name}`), or part the networks and start it again (`sv3 port release {name}`)"
        );
        self.telemetry.events.say_with("loop", message, json!({ "port": name, "other": other }));
    }

    /// A port tried to take an address that another port has.
    pub(super) fn address_conflict(&mut self, Report { port, ring: owner, value, .. }: Report) {
        let address = MacAddr::from_bits(value);
        let name_of = |slots: &mut Slots, slot| match slots.files(slot) {
            Some(port) => port.name().to_string(),
            None => format!("p{slot}"),
        };
        let (name, owner) = (name_of(&mut self.clients.slots, port), name_of(&mut self.clients.slots, owner));
        let told = format!("the address {address} belongs to {owner}: give this machine another one");
        match self.clients.slots.files(port) {
            Some(port) if port.conflict.is_none() => port.conflict = Some(told.clone()),
            _ => return self.count_idle_report(),
        }
        let message = format!("{name}: {told}; its frames with this address are dropped");
        let fields = json!({ "port": name, "owner": owner, "address": address.to_string() });
        self.telemetry.events.say_with("address_conflict", message, fields);
    }

    /// Blames a port of open files for the death of a worker. Returns false if the slot has no such port.
    pub(super) fn blame_files(&mut self, slot: u16) -> bool {
        let Some(port) = self.clients.slots.files(slot) else { return false };
        let (name, key) = (port.name().to_string(), port.holder().pid);
        let limit = self.clients.blames.blame(key, Instant::now()).is_some();
        let message = format!("{name}: it caused the death of a worker");
        self.telemetry.events.say_with("blame", message, json!({ "port": name }));
        if limit && let Some(port) = self.clients.slots.files(slot) {
            let commands = port.stop("it caused deaths of workers".to_string());
            self.workers.send(commands, Waiter::Nobody);
            let message = format!(
                "{name}: in quarantine, because it caused deaths of workers; `sv3 port release {name}` ends that"
            );
            self.telemetry.events.say_with("quarantine", message, json!({ "port": name }));
        }
        true
    }

    /// `sv3 port release NAME` for a port of open files that is stopped and has its files. `None`: no such port.
    pub(super) fn release_files(&mut self, name: &str) -> Option<serde_json::Value> {
        let slot = self.file_port(name)?;
        let port = self.clients.slots.files(slot)?;
        if port.is_empty() || port.stopped.take().is_none() {
            return Some(json!({ "error": format!("{name} is not in quarantine") }));
        }
        let commands = port.open_commands();
        self.workers.send(commands, Waiter::Nobody);
        self.telemetry.events.say_with("release", format!("{name}: it runs again"), json!({ "port": name }));
        Some(json!({ "released": name }))
    }

    /// Lets a worker serve that may use open files, if there are such ports and the serving worker may not: plans a
    /// handover to one. Workers that start from now on have that role.
    pub(super) fn ensure_role(&mut self) {
        if self.clients.slots.all_files().next().is_none() {
            return;
        }
        self.workers.config.files = true;
        let lacks = self.workers.serving.as_ref().is_some_and(|worker| !worker.serves_files);
        if lacks && let Err(why) = self.plan_own_handover() {
            self.telemetry.events.say("role", format!("ports of open files wait for the next worker: {why}"));
        }
    }
}
