//! Doors of declared ports. A port takes one client at a time. Who comes second is turned away at once, with a reason in
//! an event: QEMU tries again by itself, and would stand still if its connection were left waiting. A client that comes
//! while the last one is about to go waits for that moment.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use sv3::status::DeclaredPort;
use sv3::wire::Refuse;

use super::Supervisor;
use crate::clients::client::Client;
use crate::doors::DoorAt;
use crate::ports::port::DOWN;

/// How long a door stays closed while the last client goes.
const BREAK: Duration = Duration::from_millis(1);

/// Who has a declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Nobody,
    /// A client that has gone, or is about to.
    Going,
    /// This process.
    Process(i32),
}

impl Supervisor {
    /// Whether a connection at a declared port's door can be let in or turned away now. If not, the door is closed for
    /// a moment.
    pub(super) fn makes_room(&mut self, slot: u16) -> bool {
        let is_going = self.occupant(slot) == Occupant::Going;
        if is_going && let Some(door) = self.doors.of_clients_at(DoorAt::Declared(slot)) {
            door.close_until(Instant::now() + BREAK, &self.reactor);
        }
        !is_going
    }

    /// Whether a client of process `pid` at a declared port's door is turned away. Says why, once for each process.
    pub(super) fn turns_away(&mut self, slot: u16, pid: i32) -> bool {
        let Some(terms) = self.clients.slots.declared.of_slot(slot).cloned() else { return true };
        let name = terms.name.clone().unwrap_or_default();
        let why = match (terms.up, self.occupant(slot)) {
            (false, _) => Some(format!("{DOWN}: `sv3 port up {name}` lets clients in")),
            (_, Occupant::Process(other)) => {
                Some(format!("process {other} is attached, and a port takes one client at a time"))
            }
            (_, Occupant::Nobody | Occupant::Going) => None,
        };
        let Some(door) = self.doors.of_clients_at(DoorAt::Declared(slot)) else { return true };
        let is_news = door.turns_away(why.is_some().then_some(pid));
        let Some(why) = why else { return false };
        if is_news {
            let message = format!("{name}: process {pid} turned away: {why}");
            let fields = json!({ "port": name, "client_pid": pid });
            self.telemetry.events.say_of_with(None, "refuse", message, fields);
        }
        true
    }

    fn occupant(&self, slot: u16) -> Occupant {
        let slots = &self.clients.slots;
        if slots.is_leaving(slot) {
            return Occupant::Going;
        }
        if let Some(client) = slots.pending_at(slot).or(slots.look_at(slot)) {
            return if has_hung_up(client) { Occupant::Going } else { Occupant::Process(client.id.pid) };
        }
        match slots.all_files().find(|port| port.slot == slot) {
            Some(port) if port.end_due.is_some() => Occupant::Going,
            Some(port) => Occupant::Process(port.owner.0),
            None => Occupant::Nobody,
        }
    }

    /// The slot for a client: that of the declared port at whose door it connected, or else one that is free.
    pub(super) fn slot_for(&mut self, home: Option<u16>, pid: i32) -> Result<u16, Refuse> {
        let slots = &self.clients.slots;
        match home {
            None => self.claim_slot(pid),
            Some(home) if slots.declared.owns(home) && slots.is_vacant(home) => Ok(home),
            Some(_) => Err(Refuse("turned away: the port is another client's by now".to_string())),
        }
    }

    /// Ends the connection of whoever has a declared port, and says why.
    pub(super) fn send_home(&mut self, slot: u16, why: &str) {
        if let Some(number) = self.clients.slots.pending_at(slot).map(|client| client.id.slot) {
            self.refuse(number, Refuse(why.to_string()).into());
        }
        match self.clients.slots.files(slot).is_some() {
            true => self.end_stream(slot, why),
            false => self.refuse(slot, Refuse(why.to_string()).into()),
        }
    }

    /// Declared ports, for status.
    pub(super) fn declared_statuses(&self) -> Vec<DeclaredPort> {
        let slots = &self.clients.slots;
        let status = |(name, port): (&String, &sv3::config::PortConfig)| {
            let slot = slots.declared.slots().get(name).copied();
            let socket = slot.and_then(|slot| self.doors.declared(slot));
            let is_there = |slot: u16| !slots.is_vacant(slot) && !slots.is_leaving(slot);
            let by_name = || slots.all_files().any(|port| port.name() == name) || slots.card_named(name).is_some();
            DeclaredPort {
                name: name.clone(),
                slot,
                socket: socket.map(|door| door.listener().path().display().to_string()),
                up: port.up,
                attached: slot.map_or_else(by_name, is_there),
                description: port.description.clone(),
            }
        };
        slots.declared.config().ports.iter().map(status).collect()
    }
}

/// Whether a client has closed its end.
fn has_hung_up(client: &Client) -> bool {
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
