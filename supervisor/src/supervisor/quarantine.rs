//! Quarantine: a client that killed workers keeps its connection, and the worker is not told of it any more.
//!
//! Its session goes on as if there were no worker, so that no request stays unanswered and QEMU does not freeze; its
//! rings are not served, its frames stay where they are, and its addresses are forgotten. When the time is over, or
//! by `sv3 port release NAME`, the worker is told everything anew. One that disconnects and comes again is still in
//! it; when one that is like it comes instead, time after time, all newcomers that are like them are (see
//! [`crate::clients::class`]).

use std::time::Instant;

use serde_json::json;

use super::Supervisor;
use crate::clients::class::{ClientClass, MemoryClass, PROBATION};
use crate::clients::holder::Holder;
use crate::ports::kernel::Kernel;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// A worker died while it served this slot, or of its memory.
    pub(super) fn blame(&mut self, slot: u16, by_memory: bool) {
        let Some((id, holder)) = self.clients.slots.client(slot).map(|client| (client.id, client.holder())) else {
            return;
        };
        let now = Instant::now();
        self.telemetry.events.say_of(
            id,
            "blame",
            format!("p{slot}: the worker died by the doing of process {}", id.pid),
        );
        if let Some(until) = self.clients.blames.blame(id.pid, now) {
            self.withdraw_port(slot, until, None);
        }
        self.blame_class(holder, by_memory, now);
    }

    /// Blames a process whose port is gone already. If it comes again it is in quarantine, once it has earned that.
    pub(super) fn blame_process(&mut self, holder: Holder, by_memory: bool) {
        let (pid, now) = (holder.pid, Instant::now());
        self.telemetry.events.say_with(
            "blame",
            format!("the worker died by the doing of process {pid}, which has no port any more"),
            json!({ "client_pid": pid }),
        );
        self.clients.blames.blame(pid, now);
        self.blame_class(holder, by_memory, now);
    }

    /// The same, unless the process is among those who are `blamed` for the same death: it may have many ports.
    pub(super) fn blame_once(&mut self, blamed: &mut Vec<i32>, holder: Holder, by_memory: bool) {
        if !blamed.contains(&holder.pid) {
            blamed.push(holder.pid);
            self.blame_process(holder, by_memory);
        }
    }

    /// Blames those whom a process is like, and puts the newcomers among them in quarantine if that was once too often.
    fn blame_class(&mut self, holder: Holder, by_memory: bool, now: Instant) {
        let memory = if by_memory { holder.class.memory } else { MemoryClass::Any };
        let class = ClientClass { memory, ..holder.class };
        let Some(until) = self.clients.classes.blame(class, holder.pid, now) else { return };
        let seconds = until.saturating_duration_since(now).as_secs();
        let message = format!(
            "{class} start in quarantine for {seconds} s, since workers die by one of them after the other; {}",
            class.remedy()
        );
        self.telemetry.events.say_with("client_class", message, json!({ "uid": class.uid, "quarantine_s": seconds }));
        for slot in self.clients.slots.taken() {
            let Some((class, since)) = self
                .clients
                .slots
                .client(slot)
                .filter(|client| client.quarantine.is_none())
                .and_then(|client| client.since)
            else {
                continue;
            };
            if let Some((until, class)) = self.clients.classes.until(class, since, now) {
                self.withdraw_port(slot, until, Some(class));
            }
        }
    }

    /// Looks what a client is like that has been obeyed once more. A newcomer who is like those by whom workers die
    /// is in quarantine from the moment when it gives its memory.
    pub(super) fn judge(&mut self, slot: u16) {
        let Some(client) = self.clients.slots.client(slot).filter(|client| client.quarantine.is_none()) else { return };
        let class = client.holder().class;
        if class.memory == MemoryClass::Any || client.since.is_some_and(|(before, _)| before == class) {
            return;
        }
        let now = Instant::now();
        client.since = Some((class, now));
        if let Some((until, class)) = self.clients.classes.until(class, now, now) {
            self.withdraw_port(slot, until, Some(class));
        }
    }

    /// Puts a port in quarantine that the worker knows.
    fn withdraw_port(&mut self, slot: u16, until: Instant, suspect: Option<ClientClass>) {
        let Some(remove) = self.clients.slots.client(slot).map(|client| client.device().port_remove()) else { return };
        self.workers.send(vec![remove], Waiter::Nobody);
        self.confine_port(slot, until, suspect);
    }

    /// Puts a port in quarantine that no worker knows, by its own doing or as one of many.
    pub(super) fn confine_port(&mut self, slot: u16, until: Instant, suspect: Option<ClientClass>) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        (client.quarantine, client.suspect) = (Some(until), suspect);
        let (id, seconds) = (client.id, until.saturating_duration_since(Instant::now()).as_secs_f64().round());
        let why = match suspect {
            Some(class) => format!("workers die by {class}; {}", class.remedy()),
            None => "workers die by it".to_string(),
        };
        let message =
            format!("p{slot}: in quarantine for {seconds} s, since {why}; `sv3 port release p{slot}` ends that");
        self.telemetry.events.say_of(id, "quarantine", message);
        let reply = self.excuse_worker(slot);
        self.reply(slot, reply);
    }

    /// Tells the worker of a port again. What it was `since` tells whether it counts among newcomers.
    fn release_port(&mut self, slot: u16, since: Instant, why: &str) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        let (id, holder) = (client.id, client.holder());
        (client.quarantine, client.suspect) = (None, None);
        client.since = Some((holder.class, since)).filter(|(class, _)| class.memory != MemoryClass::Any);
        let truncated = client.device().memory.iter().find_map(|memory| memory.truncated(&Kernel));
        let replay = client.session.replay();
        self.telemetry.events.say_of(id, "release", format!("p{slot}: quarantine is over: {why}"));
        self.clients.blames.release(id.pid, Instant::now());
        match truncated {
            // The worker would die of it.
            Some(reason) => self.refuse(slot, reason.into()),
            None => drop(self.workers.send(replay, Waiter::Session(slot))),
        }
    }

    /// `sv3 port release NAME`: the answer, as JSON.
    pub(super) fn release_by_name(&mut self, name: &str) -> serde_json::Value {
        let slot = name.strip_prefix('p').and_then(|number| number.parse().ok());
        let client = slot.and_then(|slot| self.clients.slots.client(slot));
        match client.map(|client| (client.id.slot, client.quarantine)) {
            Some((slot, Some(_))) => {
                // As if it had been there from the beginning: no class's doing is laid to it any more.
                self.release_port(slot, self.telemetry.started, "somebody released it");
                json!({ "released": name })
            }
            Some((_, None)) => json!({ "error": format!("{name} is not in quarantine") }),
            None => json!({ "error": format!("there is no port {name:?}; `sv3 status` lists them") }),
        }
    }

    /// Ends quarantines that are over.
    pub(super) fn end_quarantines(&mut self, now: Instant) {
        for slot in self.clients.served_their_time(now) {
            self.release_port(slot, now + PROBATION, "its time has passed");
        }
    }
}
