//! Blame and quarantine of ports of open files: of a stream client by its process and class, of a port that was
//! attached by itself.

use std::time::Instant;

use serde_json::json;

use super::Supervisor;
use crate::clients::class::{ClientClass, PROBATION};
use crate::ports::port::Replay;
use crate::telemetry::event::Named;
use crate::workers::worker::Waiter;

impl Supervisor {
    /// Blames a port of open files for the death of a worker. Returns false if the slot has no such port.
    pub(super) fn blame_files(&mut self, slot: u16, by_memory: bool) -> bool {
        let Some(port) = self.clients.slots.files(slot) else { return false };
        let (named, holder, is_client) = (port.named(), port.holder(), port.is_client());
        let (name, now) = (&named.name, Instant::now());
        let message = match is_client {
            true => format!("{name}: process {} caused the death of a worker", holder.pid),
            false => format!("{name}: it caused the death of a worker"),
        };
        self.telemetry.events.say_of_port(&named, "blame", message, json!({}));
        if let Some(until) = self.clients.blames.blame(holder.pid, now) {
            self.withdraw_files(slot, until, None);
        }
        if is_client {
            self.blame_class(holder, by_memory, now);
        }
        true
    }

    /// Puts stream clients in quarantine that are newcomers of a suspect class.
    pub(super) fn withdraw_newcomers(&mut self, now: Instant) {
        let (classes, files) = (&self.clients.classes, self.clients.slots.all_files());
        let newcomers = files.filter(|port| port.quarantine.is_none()).filter_map(|port| {
            let (until, class) = classes.until(port.holder().class, port.since?, now)?;
            Some((port.slot, until, class))
        });
        for (slot, until, class) in newcomers.collect::<Vec<_>>() {
            self.withdraw_files(slot, until, Some(class));
        }
    }

    /// Puts a port in quarantine that workers have been told of.
    fn withdraw_files(&mut self, slot: u16, until: Instant, suspect: Option<ClientClass>) {
        let Some(port) = self.clients.slots.files(slot) else { return };
        (port.quarantine, port.suspect) = (Some(until), suspect);
        let (named, remove) = (port.named(), port.remove());
        self.workers.send(vec![remove], Waiter::Nobody);
        self.say_quarantine(&named, until, suspect);
    }

    pub(super) fn say_quarantine(&mut self, named: &Named, until: Instant, suspect: Option<ClientClass>) {
        let name = &named.name;
        let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().round();
        let why = match suspect {
            Some(class) => format!("{class} caused deaths of workers; {}", class.remedy()),
            None => "it caused deaths of workers".to_string(),
        };
        let message =
            format!("{name}: in quarantine for {seconds} s, because {why}; `sv3 port release {name}` ends that");
        self.telemetry.events.say_of_port(named, "quarantine", message, json!({}));
    }

    /// `sv3 port release NAME` for a port of open files: ends its quarantine, and starts it again if it was stopped for
    /// a loop. `None`: no such port.
    pub(super) fn release_files_by_name(&mut self, name: &str) -> Option<serde_json::Value> {
        let slot = self.file_port(name)?;
        let port = self.clients.slots.files(slot)?;
        let is_confined = port.quarantine.is_some() || port.stopped.is_some() && !port.is_empty();
        if !is_confined {
            return Some(json!({ "error": format!("{name} is not in quarantine, and nothing has stopped it") }));
        }
        port.since = port.since.and(Some(self.telemetry.started));
        self.release_files(slot, "`sv3 port release` ended it");
        Some(json!({ "released": name }))
    }

    /// Tells workers of ports again whose quarantine is over.
    pub(super) fn release_files_in_time(&mut self, now: Instant) {
        for slot in self.clients.files_that_served_their_time(now) {
            if let Some(port) = self.clients.slots.files(slot) {
                port.since = port.since.and(Some(now + PROBATION));
            }
            self.release_files(slot, "its time has passed");
        }
    }

    fn release_files(&mut self, slot: u16, why: &str) {
        let Some(port) = self.clients.slots.files(slot) else { return };
        let (named, key) = (port.named(), port.holder().pid);
        let was_confined = port.quarantine.take().is_some();
        port.suspect = None;
        // A port that was stopped for a loop has its files, and one whose files are gone stays stopped.
        if !port.is_empty() {
            port.stopped = None;
        }
        let commands = if was_confined { port.replay() } else { port.open_commands() };
        let name = &named.name;
        let message = match was_confined {
            true => format!("{name}: the quarantine is over: {why}"),
            false => format!("{name}: it runs again"),
        };
        self.telemetry.events.say_of_port(&named, "release", message, json!({}));
        self.clients.blames.release(key, Instant::now());
        self.workers.send(commands, Waiter::Nobody);
    }
}
