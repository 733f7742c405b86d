//! Mirrors: requests at the control socket, and their end when their ports go.
//!
//! A mirror is of the ports that had these names when it was made. If one of them goes, it leaves the mirror, whoever takes
//! its name later: nobody gets copies that were meant for somebody else. A declared port with a socket goes when its
//! declaration ends: it stays in its mirrors while nobody is attached. When the port that gets the copies has gone, or the
//! last one of the others, the mirror ends.

use serde_json::{Value, json};
use sv3::mirror::{MIRRORS_MAX, Mirror};
use sv3::port_set::PortSet;

use super::Supervisor;
use crate::clients::slots::{Identity, Slots};
use crate::workers::observers::Mirror as ToldMirror;
use crate::workers::worker::Waiter;

/// All mirrors.
#[derive(Default)]
pub struct Mirrors(Vec<Entry>);

struct Entry {
    /// Its number for workers.
    number: u8,
    mirror: Mirror,
    to: Member,
    /// In the order of the names.
    from: Vec<Member>,
}

/// A port of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// One that is there.
    Port(Identity),
    /// The slot of a declared port with a socket, whether anybody is attached or not.
    Home(u16),
}

impl Member {
    /// The port of this name.
    fn named(name: &str, slots: &Slots) -> Option<Member> {
        if let Some(home) = slots.declared.slots().get(name) {
            return Some(Member::Home(*home));
        }
        let name_of = |port: &Identity| slots.name(port.slot);
        slots.identities().find(|port| name_of(port).as_deref() == Some(name)).map(Member::Port)
    }

    fn slot(self) -> u16 {
        match self {
            Member::Port(Identity { slot, .. }) | Member::Home(slot) => slot,
        }
    }

    /// Whether it is still the port of this name.
    fn is_there(self, name: &str, slots: &Slots) -> bool {
        match self {
            Member::Port(port) => slots.identities().any(|one| one == port),
            Member::Home(slot) => slots.declared.slots().get(name) == Some(&slot),
        }
    }
}

impl Mirrors {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of the mirror that has this number for workers.
    pub fn name(&self, number: u8) -> String {
        let named = self.0.iter().find(|entry| entry.number == number);
        named.map_or_else(|| number.to_string(), |entry| entry.mirror.name.clone())
    }

    /// All of them, for status and for the next supervisor.
    pub fn all(&self) -> impl Iterator<Item = &Mirror> {
        self.0.iter().map(|entry| &entry.mirror)
    }
}

impl Entry {
    fn told(&self) -> ToldMirror {
        let from: PortSet = self.from.iter().map(|port| port.slot()).collect();
        let all = self.from.iter().chain([&self.to]);
        let homes = all.filter_map(|port| if let Member::Home(slot) = port { Some(*slot) } else { None });
        let if_wanted = |wanted: bool| if wanted { from } else { PortSet::default() };
        let direction = self.mirror.direction;
        ToldMirror {
            to: self.to.slot(),
            senders: if_wanted(direction.has_in()),
            receivers: if_wanted(direction.has_out()),
            homes: homes.collect(),
        }
    }
}

impl Supervisor {
    /// `mirror-add`: begins a mirror. The answer comes when the serving worker copies frames. The error is for people.
    pub(super) fn begin_mirror(&mut self, place: usize, mirror: Mirror) -> Result<(), String> {
        let answer = self.add_mirror(mirror)?;
        let ticket = self.doors.defer_control(place, &self.reactor).ok_or("the exchange is over")?;
        self.awaiting_worker.push((ticket, answer));
        self.send_and_answer(Vec::new());
        Ok(())
    }

    /// Begins a mirror. The error is for people.
    fn add_mirror(&mut self, mirror: Mirror) -> Result<Value, String> {
        let name = mirror.name.clone();
        let (to, from) = self.resolve(&mirror)?;
        let full = format!("there are {MIRRORS_MAX} mirrors already: end one (`sv3 mirror del NAME`)");
        let number = self.workers.observers.free_mirror().ok_or(full)?;
        let entry = Entry { number, mirror, to, from };
        let command = self.workers.observers.set_mirror(number, entry.told());
        self.workers.send(command.into_iter().collect(), Waiter::Nobody);
        let (whose, target) = (entry.mirror.from.join(", "), entry.mirror.to.clone());
        self.mirrors.0.push(entry);
        let message = format!("mirror {name}: {target} gets copies of the frames of {whose}");
        self.telemetry.events.say_with("mirror", message, json!({ "mirror": name }));
        Ok(json!({ "mirror": name }))
    }

    /// `mirror-remove`.
    pub(super) fn remove_mirror(&mut self, name: &str) -> Result<Value, String> {
        let at = self.mirrors.0.iter().position(|entry| entry.mirror.name == name);
        let at = at.ok_or(format!("no mirror is named {name}; `sv3 status` lists all mirrors"))?;
        self.end_mirror(at, "removed");
        Ok(json!({ "removed": name }))
    }

    /// Makes the mirrors of the last supervisor again. One whose ports are gone is no more.
    pub(super) fn inherit_mirrors(&mut self, mirrors: Vec<Mirror>) {
        for mirror in mirrors {
            let name = mirror.name.clone();
            if let Err(why) = self.add_mirror(mirror) {
                let message = format!("mirror {name} ends: {why}");
                self.telemetry.events.say_with("mirror_end", message, json!({ "mirror": name }));
            }
        }
    }

    /// Its ports, if there can be such a mirror.
    fn resolve(&self, mirror: &Mirror) -> Result<(Member, Vec<Member>), String> {
        let Mirror { name, to, from, .. } = mirror;
        if self.mirrors.all().any(|other| other.name == *name) {
            return Err(format!("there is a mirror named {name} already"));
        }
        let find = |name: &String| {
            let port = Member::named(name, &self.clients.slots);
            port.ok_or(format!("no port is named {name}; `sv3 status` lists all ports"))
        };
        let target = find(to)?;
        let sources = from.iter().map(find).collect::<Result<Vec<Member>, String>>()?;
        if sources.contains(&target) {
            return Err(format!("{to} cannot get copies of its own frames"));
        }
        for other in &self.mirrors.0 {
            let Mirror { name: theirs, .. } = &other.mirror;
            if other.to == target {
                return Err(format!("{to} gets the copies of mirror {theirs} already"));
            }
            if other.from.contains(&target) {
                return Err(format!("mirror {theirs} copies the frames of {to}: a mirror of a mirror would be a loop"));
            }
            if let Some(at) = sources.iter().position(|source| *source == other.to) {
                let source = from.get(at).cloned().unwrap_or_default();
                return Err(format!(
                    "{source} gets the copies of mirror {theirs}: a mirror of a mirror would be a loop"
                ));
            }
        }
        Ok((target, sources))
    }

    /// Ports came or went.
    pub(super) fn tend_mirrors(&mut self) {
        for at in (0..self.mirrors.0.len()).rev() {
            let slots = &self.clients.slots;
            let Some(entry) = self.mirrors.0.get_mut(at) else { continue };
            let named = entry.from.iter().zip(&entry.mirror.from);
            let keep: Vec<bool> = named.map(|(port, name)| port.is_there(name, slots)).collect();
            let mut kept = keep.iter();
            entry.from.retain(|_| kept.next().copied().unwrap_or(false));
            let mut kept = keep.iter();
            entry.mirror.from.retain(|_| kept.next().copied().unwrap_or(false));
            if !entry.to.is_there(&entry.mirror.to, slots) {
                let why = format!("{} has gone", entry.mirror.to);
                self.end_mirror(at, &why);
            } else if entry.from.is_empty() {
                self.end_mirror(at, "all its ports have gone");
            } else {
                // Workers forget a port that is told again, and the whole mirror if nobody is there for its copies.
                let is_attached = slots.identities().any(|port| port.slot == entry.to.slot());
                let command = self.workers.observers.set_mirror(entry.number, entry.told());
                self.workers.send(command.into_iter().filter(|_| is_attached).collect(), Waiter::Nobody);
            }
        }
    }

    fn end_mirror(&mut self, at: usize, why: &str) {
        let Entry { number, mirror, .. } = self.mirrors.0.remove(at);
        let command = self.workers.observers.end_mirror(number);
        self.workers.send(command.into_iter().collect(), Waiter::Nobody);
        let message = format!("mirror {} ends: {why}", mirror.name);
        self.telemetry.events.say_with("mirror_end", message, json!({ "mirror": mirror.name }));
    }
}
