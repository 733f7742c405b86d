//! Quarantine: a client that killed workers keeps its connection, and the worker is not told of it any more.
//!
//! Its session goes on as if there were no worker, so that no request stays unanswered and QEMU does not freeze; its
//! rings are not served, its frames stay where they are, and its addresses are forgotten. When the time is over, or by
//! `sv3 port release NAME`, the worker is told everything anew. One that disconnects and comes again is still in it.

use std::time::Instant;

use super::Supervisor;
use crate::worker::Waiter;

impl Supervisor {
    /// A worker died while it served this slot, or of its memory.
    pub(super) fn blame(&mut self, slot: u16) {
        let Some(port) = self.slots.port(slot) else { return };
        let (who, remove) = (port.who, port.session.record().port_remove());
        let now = Instant::now();
        self.events.say_of(who, "blame", format!("p{slot}: the worker died by the doing of process {}", who.pid));
        let Some(until) = self.blames.blame(who.pid, now) else { return };
        self.order(vec![remove], Waiter::Nobody);
        self.confine_port(slot, until);
    }

    /// Blames a process whose port is gone already. If it comes again it is in quarantine, once it has earned that.
    pub(super) fn blame_process(&mut self, pid: i32) {
        self.events.say_with(
            "blame",
            format!("the worker died by the doing of process {pid}, which has no port any more"),
            serde_json::json!({ "client_pid": pid }),
        );
        self.blames.blame(pid, Instant::now());
    }

    /// Puts a port in quarantine that no worker knows.
    pub(super) fn confine_port(&mut self, slot: u16, until: Instant) {
        let Some(port) = self.slots.port(slot) else { return };
        port.quarantine = Some(until);
        let (who, seconds) = (port.who, until.saturating_duration_since(Instant::now()).as_secs_f64().round());
        let message = format!(
            "p{slot}: in quarantine for {seconds} s, since workers die by it; `sv3 port release p{slot}` ends that"
        );
        self.events.say_of(who, "quarantine", message);
        let reply = self.excuse_worker(slot);
        self.reply(slot, reply);
    }

    /// Tells the worker of a port again.
    fn release_port(&mut self, slot: u16, why: &str) {
        let Some(port) = self.slots.port(slot) else { return };
        port.quarantine = None;
        let (who, replay) = (port.who, port.session.replay());
        self.events.say_of(who, "release", format!("p{slot}: quarantine is over: {why}"));
        self.blames.release(who.pid, Instant::now());
        self.order(replay, Waiter::Session(slot));
    }

    /// `sv3 port release NAME`: the answer, as JSON.
    pub(super) fn release_by_name(&mut self, name: &str) -> serde_json::Value {
        let slot = name.strip_prefix('p').and_then(|number| number.parse().ok());
        let port = slot.and_then(|slot| self.slots.port(slot));
        match port.map(|port| (port.who.slot, port.quarantine)) {
            Some((slot, Some(_))) => {
                self.release_port(slot, "somebody released it");
                serde_json::json!({ "released": name })
            }
            Some((_, None)) => serde_json::json!({ "error": format!("{name} is not in quarantine") }),
            None => serde_json::json!({ "error": format!("there is no port {name:?}; `sv3 status` lists them") }),
        }
    }

    /// When the next quarantine is over.
    pub(super) fn quarantine_due(&self) -> Option<Instant> {
        self.slots.ports().filter_map(|port| port.quarantine).min()
    }

    /// Ends quarantines that are over.
    pub(super) fn expire_quarantines(&mut self, now: Instant) {
        let over = self.slots.ports().filter(|port| port.quarantine.is_some_and(|until| until <= now));
        let over: Vec<u16> = over.map(|port| port.who.slot).collect();
        for slot in over {
            self.release_port(slot, "its time has passed");
        }
    }
}
