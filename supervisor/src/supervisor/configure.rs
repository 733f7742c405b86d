//! A change of what is declared: all of it, or nothing.
//!
//! What a change needs is checked first: the configuration itself, its sockets, free slots, names that are taken. From
//! there on nothing can fail. Clients of ports that went are sent away. All other ports stay as they are, and workers
//! hear of the rules that changed: of each port alone, and then that all of them hold, at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sv3::MAX_PORTS;
use sv3::config::{Change, Config, DoorKind, InForce};
use sv3::foreign::ForeignFd;
use sv3::ipc::Command;

use super::{Supervisor, answers};
use crate::clients::declarations::Declarations;
use crate::doors::DoorAt;
use crate::doors::listener::Listener;
use crate::doors::stream::StreamForm;
use crate::estate::record::DoorRecord;
use crate::estate::{Heirlooms, Unfit, unfit};
use crate::given;
use crate::ports::holdings::Holdings;
use crate::ports::port::DOWN;
use crate::workers::command::WorkerCommand;
use crate::workers::pending_unmap::PendingUnmaps;
use crate::workers::worker::Waiter;

/// A change that is possible.
struct Plan {
    change: Change,
    /// The slots of ports that have a door.
    slots: BTreeMap<String, u16>,
    /// The doors that are new.
    doors: Vec<(u16, Listener)>,
}

impl Supervisor {
    /// `configure`: the answer comes when workers follow the change. The error is for people.
    pub(super) fn configure(&mut self, place: usize, generation: u64, fds: Vec<ForeignFd>) -> Result<(), String> {
        let now = self.clients.slots.declared.generation();
        if generation != now {
            return Err(format!("the configuration has changed meanwhile ({now}, not {generation}): try again"));
        }
        let mut fds = fds.into_iter();
        let file = fds.next().ok_or("no configuration came with the request")?;
        let plan = self.plan(given::read(&file)?, fds.collect())?;
        let (pid, uid) = self.doors.control_asker(place).unwrap_or_default();
        let ticket = self.doors.defer_control(place, &self.reactor).ok_or("the exchange is over")?;
        let commands = self.apply(plan, &format!(", by process {pid} of user {uid}"));
        let answer = json!({ "generation": self.clients.slots.declared.generation() });
        self.awaiting_worker.push((ticket, answer));
        self.send_and_answer(commands);
        Ok(())
    }

    /// Sends commands to workers. Those who wait for an answer get it when the serving worker has obeyed.
    pub(super) fn send_and_answer(&mut self, mut commands: Vec<WorkerCommand>) {
        commands.push(Command::Barrier.into());
        if !self.workers.send(commands, Waiter::Obeyed) {
            self.answer_obeyed();
        }
    }

    /// The first change, before anything is served. The error is for people.
    pub(super) fn declare(&mut self, change: Change, fds: Vec<ForeignFd>) -> Result<(), String> {
        let plan = self.plan(change, fds)?;
        self.apply(plan, "");
        Ok(())
    }

    /// The serving worker has obeyed what it was told.
    pub(super) fn answer_obeyed(&mut self) {
        for (ticket, answer) in std::mem::take(&mut self.awaiting_worker) {
            self.doors.answer_deferred(&ticket, answers::to_json(&answer), &self.reactor);
        }
        self.tell_new_readers();
    }

    /// What a change takes. The error is for people, and nothing is changed then.
    fn plan(&self, change: Change, fds: Vec<ForeignFd>) -> Result<Plan, String> {
        let declared = &self.clients.slots.declared;
        let with_door: BTreeSet<&String> =
            change.config.ports.iter().filter(|(_, port)| port.kind.has_door()).map(|(name, _)| name).collect();
        let new: BTreeSet<&String> =
            with_door.iter().copied().filter(|name| !declared.slots().contains_key(*name)).collect();
        check_doors(&new, &change.doors, fds.len())?;
        for name in &with_door {
            if self.file_port(name).is_some_and(|slot| !declared.owns(slot))
                || self.clients.slots.card_named(name).is_some()
            {
                return Err(format!("port {name}: something is attached under this name: `sv3 detach {name}` first"));
            }
        }
        self.afford_doors(with_door.len())?;
        let kept = declared.slots().iter().filter(|(name, _)| with_door.contains(name));
        let mut slots: BTreeMap<String, u16> = kept.map(|(name, slot)| (name.clone(), *slot)).collect();
        let (mut free, mut doors) = (self.clients.slots.free_slots(), Vec::new());
        for (name, socket) in change.doors.iter().zip(fds) {
            let none = || format!("port {name}: all {MAX_PORTS} ports are taken or declared; remove one first");
            let slot = free.next().ok_or_else(none)?;
            let listener = Listener::given(socket, &self.doors.place_of(name))?;
            slots.insert(name.clone(), slot);
            doors.push((slot, listener));
        }
        Ok(Plan { change, slots, doors })
    }

    /// Errs if the supervisor cannot have so many doors.
    fn afford_doors(&self, count: usize) -> Result<(), String> {
        let (pid, own) = self.own_doors();
        let may = self.clients.budget.allowance(pid, own, &PendingUnmaps::default()).fds;
        match count > own.fds && count > may {
            true => Err(format!(
                "{count} declared ports take {count} open files, and {may} are free: raise the limit of open files \
                 (`ulimit -n`)"
            )),
            false => Ok(()),
        }
    }

    /// What the doors of declared ports hold, and whose it is.
    fn own_doors(&self) -> (i32, Holdings) {
        let fds = self.clients.slots.declared.slots().len();
        (i32::try_from(std::process::id()).unwrap_or(0), Holdings { fds, regions: 0 })
    }

    /// Makes a change. Returns the commands for workers.
    fn apply(&mut self, Plan { change, slots, doors }: Plan, by: &str) -> Vec<WorkerCommand> {
        let Change { mut config, file, .. } = change;
        // Who starts anew has no worker to tell: it finds the setting when it starts.
        if let Some(switched) = config.snooping.take() {
            self.switch_snooping(switched.setting());
        }
        let (own, before) = self.own_doors();
        let old = self.clients.slots.declared.in_force();
        let gone = self.leave(&old.config, &config);
        let (in_force, added) = (
            InForce { generation: old.generation.saturating_add(1), config, file: file.or(old.file) },
            slots.len().saturating_sub(self.clients.slots.declared.slots().len().saturating_sub(gone)),
        );
        let (generation, ports) = (in_force.generation, in_force.config.ports.len());
        self.clients.slots.declared = Declarations::new(in_force, slots);
        self.telemetry.events.names = self.clients.slots.declared.names();
        // Before anybody else can have a slot that is free now.
        self.tend_mirrors();
        let (_, after) = self.own_doors();
        self.clients.budget.change(own, before, after);
        for (slot, listener) in doors {
            self.doors.declare(slot, listener, self.form_of(slot));
            // Before the first worker serves, no door is open.
            if self.workers.succession.has_served()
                && let Some(door) = self.doors.declared(slot)
                && let Err(error) = door.watch(&self.reactor)
            {
                self.telemetry.events.say("refuse", format!("the door of a port cannot be watched: {error}"));
            }
        }
        let message = format!(
            "configuration {generation} is in force{by}: {ports} ports are declared; new with a socket: {added}, \
             removed: {gone}"
        );
        let fields = json!({ "generation": generation, "ports": ports, "added": added, "removed": gone });
        self.telemetry.events.say_with("configure", message, fields);
        self.follow()
    }

    /// Ends ports that have no door any more, and sends away clients of those that speak another protocol. Returns how
    /// many went.
    fn leave(&mut self, old: &Config, new: &Config) -> usize {
        let mut gone = 0;
        for (name, slot) in self.clients.slots.declared.slots().clone() {
            let kind = |config: &Config| config.ports.get(&name).map(|port| port.kind);
            match kind(new).filter(|kind| kind.has_door()) {
                None => {
                    gone += 1;
                    self.send_home(slot, "the port was removed");
                    self.doors.undeclare(slot, &self.reactor);
                }
                Some(next) if kind(old) != Some(next) => {
                    self.send_home(slot, "the kind of the port was changed");
                    if let Some(door) = self.doors.of_clients_at(DoorAt::Declared(slot)) {
                        door.change_form(form(next));
                    }
                }
                Some(_) => {}
            }
        }
        gone
    }

    fn form_of(&self, slot: u16) -> Option<StreamForm> {
        let declared = &self.clients.slots.declared;
        let name = declared.of_slot(slot)?.name.as_ref()?;
        form(declared.config().ports.get(name)?.kind)
    }

    /// Lets each port follow what is declared. Returns the commands for workers.
    fn follow(&mut self) -> Vec<WorkerCommand> {
        let (gone, new) = self.follow_addresses();
        let mut all = Changes { before: gone, after: new };
        let homes: Vec<u16> = self.clients.slots.declared.owned().collect();
        for slot in homes {
            if self.clients.slots.declared.of_slot(slot).is_some_and(|terms| !terms.up) {
                self.send_home(slot, DOWN);
            }
        }
        for slot in self.clients.slots.taken() {
            self.client_follows(slot, &mut all);
        }
        let files: Vec<u16> = self.clients.slots.all_files().map(|port| port.slot).collect();
        files.into_iter().for_each(|slot| self.files_follow(slot, &mut all));
        let cards: Vec<u16> = self.clients.slots.all_cards().map(|port| port.slot).collect();
        cards.into_iter().for_each(|slot| self.card_follows(slot, &mut all));
        let is_staged = all.before.iter().any(|told| matches!(told.command, Command::RulesStage { .. }));
        let commit = is_staged.then(|| Command::RulesCommit.into());
        all.before.into_iter().chain(commit).chain(all.after).collect()
    }

    fn client_follows(&mut self, slot: u16, all: &mut Changes) {
        let slots = &mut self.clients.slots;
        let Some(uid) = slots.client(slot).map(|client| client.uid) else { return };
        let terms = slots.declared.of_client(slot, uid);
        let Some(client) = slots.client(slot) else { return };
        let before = client.session.change_terms(terms.clone());
        // Workers hear of a port in quarantine when that is over.
        if client.quarantine.is_none() {
            all.before.extend(before.change(&terms, slot));
        }
    }

    fn files_follow(&mut self, slot: u16, all: &mut Changes) {
        let slots = &mut self.clients.slots;
        let Some(port) = slots.files(slot) else { return };
        let (name, uid, is_client) = (port.name().to_string(), port.owner.1, port.is_client());
        let terms = if is_client { slots.declared.of_client(slot, uid) } else { slots.declared.of_attached(&name) };
        let Some(port) = slots.files(slot) else { return };
        let ran = port.runs();
        let before = std::mem::replace(&mut port.terms, terms.clone());
        if port.quarantine.is_some() {
            return;
        }
        all.before.extend(before.change(&terms, slot));
        match (before.up, terms.up) {
            (true, false) if ran => all.before.extend(port.close_commands()),
            (false, true) => all.after.extend(port.open_commands()),
            _ => {}
        }
    }

    fn card_follows(&mut self, slot: u16, all: &mut Changes) {
        let slots = &mut self.clients.slots;
        let Some(name) = slots.card(slot).map(|port| port.name().to_string()) else { return };
        let terms = slots.declared.of_attached(&name);
        let Some(port) = slots.card(slot) else { return };
        let ran = port.runs();
        let before = std::mem::replace(&mut port.terms, terms.clone());
        match (before.up, terms.up) {
            (true, false) if ran => return all.before.extend(port.take_down()),
            (false, true) => all.after.extend(port.open_commands()),
            _ => {}
        }
        all.before.extend(before.change(&terms, slot));
    }

    /// What the last supervisor had declared.
    pub(super) fn restore_declared(
        &mut self,
        (in_force, slots): (InForce, BTreeMap<String, u16>),
        doors: Vec<(u16, DoorRecord)>,
        files: &mut Heirlooms,
    ) -> Result<(), Unfit> {
        in_force.config.check().map_err(Unfit)?;
        let with_door = in_force.config.ports.iter().filter(|(_, port)| port.kind.has_door());
        if !with_door.map(|(name, _)| name).eq(slots.keys()) {
            return unfit("declared ports without a slot");
        }
        let names: BTreeMap<u16, String> = slots.iter().map(|(name, slot)| (*slot, name.clone())).collect();
        let fits = names.keys().all(|slot| usize::from(*slot) < MAX_PORTS) && names.len() == slots.len();
        if !fits || !doors.iter().map(|(slot, _)| slot).eq(names.keys()) {
            return unfit("declared ports without a door");
        }
        let (own, before) = self.own_doors();
        self.clients.slots.declared = Declarations::new(in_force, slots);
        let (_, after) = self.own_doors();
        self.clients.budget.change(own, before, after);
        for (slot, DoorRecord { file, lent, .. }) in doors {
            let place = self.doors.place_of(names.get(&slot).map_or("", String::as_str));
            let listener = Listener::left(files.take(file)?, &place).map_err(Unfit)?.of_last(lent, true);
            self.doors.declare(slot, listener, self.form_of(slot));
        }
        self.telemetry.events.names = names;
        Ok(())
    }
}

/// The commands that make a worker follow other terms.
struct Changes {
    /// Before the rules of all ports change at once.
    before: Vec<WorkerCommand>,
    /// After that.
    after: Vec<WorkerCommand>,
}

/// Errs unless each new port is named once, and a socket came for each.
fn check_doors(new: &BTreeSet<&String>, named: &[String], sockets: usize) -> Result<(), String> {
    let is_each = new.len() == named.len() && *new == named.iter().collect();
    let told = || format!("{} new ports need a socket each, and {sockets} came", new.len());
    (is_each && named.len() == sockets).then_some(()).ok_or_else(told)
}

fn form(kind: DoorKind) -> Option<StreamForm> {
    match kind {
        DoorKind::Stream { form, mtu } => Some(StreamForm { frames: form, mtu }),
        DoorKind::VhostUser | DoorKind::Attached => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second socket of one port would be in a slot that no port has: nobody would close it, and no supervisor take over.
    #[test]
    fn each_new_port_has_one_socket() {
        let [a, b] = ["a", "b"].map(str::to_string);
        let new = BTreeSet::from([&a, &b]);
        let check = |named: &[&String], sockets| {
            let named: Vec<String> = named.iter().map(|name| name.to_string()).collect();
            check_doors(&new, &named, sockets).is_ok()
        };
        assert!(check(&[&a, &b], 2) && check(&[&b, &a], 2));
        for (named, sockets) in [(&[&a, &b, &b][..], 3), (&[&a, &a], 2), (&[&a, &b], 3), (&[&a], 1), (&[], 0)] {
            assert!(!check(named, sockets), "{named:?}");
        }
    }
}
