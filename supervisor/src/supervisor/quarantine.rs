//! Quarantine: a client that caused deaths of workers keeps its connection, but workers are not told of its port.
//!
//! Its session goes on as if there were no worker, so each request is answered and QEMU does not freeze. Its rings are
//! not served, its frames stay where they are, and its addresses are forgotten. When the time is over, or by `sv3 port
//! release NAME`, the worker is told of the port again. A client that disconnects and connects again is still in
//! quarantine. If several processes of one client class cause deaths in turn, all newcomers of the class are in
//! quarantine (see [`crate::clients::class`]).

use std::time::Instant;

use serde_json::json;

use super::Supervisor;
use crate::clients::class::{ClientClass, MemoryClass, PROBATION};
use crate::clients::holder::Holder;
use crate::ports::kernel::Kernel;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// Blames the client of a slot: a worker died while it served the slot, or because of the client's memory. `why` ends
    /// the event's sentence.
    pub(super) fn blame(&mut self, slot: u16, by_memory: bool, why: &str) {
        if self.blame_files(slot, by_memory) || self.blame_card(slot) {
            return;
        }
        let client = self.clients.slots.client(slot);
        let Some((id, name, holder)) = client.map(|client| (client.id, client.name(), client.holder())) else {
            return;
        };
        let now = Instant::now();
        self.telemetry.events.say_of(
            id,
            "blame",
            format!("{name} process {} caused the death of a worker{why}", id.pid),
        );
        if let Some(until) = self.clients.blames.blame(id.pid, now) {
            self.withdraw_port(slot, until, None);
        }
        self.blame_class(holder, by_memory, now);
    }

    /// Blames a process that has no port any more. If it reaches the limit, it is in quarantine when it connects again.
    pub(super) fn blame_process(&mut self, holder: Holder, by_memory: bool) {
        let (pid, now) = (holder.pid, Instant::now());
        self.telemetry.events.say_with(
            "blame",
            format!("process {pid}, which has no port any more, caused the death of a worker"),
            json!({ "client_pid": pid }),
        );
        self.clients.blames.blame(pid, now);
        self.blame_class(holder, by_memory, now);
    }

    /// The same, unless the process is in `blamed` for the same death already: a process may have many ports.
    pub(super) fn blame_once(&mut self, blamed: &mut Vec<i32>, holder: Holder, by_memory: bool) {
        if !blamed.contains(&holder.pid) {
            blamed.push(holder.pid);
            self.blame_process(holder, by_memory);
        }
    }

    /// Blames the class of a process. If the class reaches the limit, its newcomers go into quarantine.
    pub(super) fn blame_class(&mut self, holder: Holder, by_memory: bool, now: Instant) {
        let memory = if by_memory { holder.class.memory } else { MemoryClass::Any };
        let class = ClientClass { memory, ..holder.class };
        let Some(until) = self.clients.classes.blame(class, holder.pid, now) else { return };
        let seconds = until.saturating_duration_since(now).as_secs();
        let message = format!(
            "{class} start in quarantine for {seconds} s, because several of them in turn caused deaths of workers; {}",
            class.remedy()
        );
        self.telemetry.events.say_with("client_class", message, json!({ "uid": class.uid, "quarantine_s": seconds }));
        self.withdraw_newcomers(now);
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

    /// Looks at a client's class after each request. A newcomer of a suspect class goes into quarantine as soon as it
    /// sends its memory.
    pub(super) fn check_class(&mut self, slot: u16) {
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

    /// Puts a port in quarantine that workers have been told of.
    fn withdraw_port(&mut self, slot: u16, until: Instant, suspect: Option<ClientClass>) {
        let Some(remove) = self.clients.slots.client(slot).map(|client| client.device().port_remove()) else { return };
        self.workers.send(vec![remove], Waiter::Nobody);
        self.confine_port(slot, until, suspect);
    }

    /// Puts a port in quarantine that no worker has been told of, because of its own process or because of its class.
    pub(super) fn confine_port(&mut self, slot: u16, until: Instant, suspect: Option<ClientClass>) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        (client.quarantine, client.suspect) = (Some(until), suspect);
        let (id, name) = (client.id, client.device().port.to_string());
        let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().round();
        let why = match suspect {
            Some(class) => format!("{class} caused deaths of workers; {}", class.remedy()),
            None => "it caused deaths of workers".to_string(),
        };
        let message =
            format!("{name}: in quarantine for {seconds} s, because {why}; `sv3 port release {name}` ends that");
        self.telemetry.events.say_of(id, "quarantine", message);
        let reply = self.answer_without_worker(slot);
        self.reply(slot, reply);
    }

    /// Tells workers of a port again. `since` says whether its client still counts as a newcomer.
    fn release_port(&mut self, slot: u16, since: Instant, why: &str) {
        let Some(client) = self.clients.slots.client(slot) else { return };
        let (id, name, holder) = (client.id, client.name(), client.holder());
        (client.quarantine, client.suspect) = (None, None);
        client.since = Some((holder.class, since)).filter(|(class, _)| class.memory != MemoryClass::Any);
        let truncated = client.device().truncated(&Kernel);
        let replay = client.session.replay();
        self.telemetry.events.say_of(id, "release", format!("{name} the quarantine is over: {why}"));
        self.clients.blames.release(id.pid, Instant::now());
        match truncated {
            // A worker that maps this memory would die.
            Some(reason) => self.refuse(slot, reason.into()),
            None => drop(self.workers.send(replay, Waiter::Session(slot))),
        }
    }

    /// `sv3 port release NAME`: the answer, as JSON.
    pub(super) fn release_by_name(&mut self, name: &str) -> serde_json::Value {
        if let Some(answer) = self.release_files_by_name(name).or_else(|| self.release_card(name)) {
            return answer;
        }
        let slot = self.clients.slots.slot_named(name);
        let client = slot.and_then(|slot| self.clients.slots.client(slot));
        match client.map(|client| (client.id.slot, client.quarantine)) {
            Some((slot, Some(_))) => {
                // From now on it counts as older than all deaths: its class's deaths no longer concern it.
                self.release_port(slot, self.telemetry.started, "`sv3 port release` ended it");
                json!({ "released": name })
            }
            Some((_, None)) => json!({ "error": format!("{name} is not in quarantine") }),
            None => json!({ "error": format!("there is no port {name:?}; `sv3 status` lists them") }),
        }
    }

    /// Ends quarantines that are over.
    pub(super) fn end_quarantines(&mut self, now: Instant) {
        self.release_files_in_time(now);
        for slot in self.clients.served_their_time(now) {
            self.release_port(slot, now + PROBATION, "its time has passed");
        }
    }
}
