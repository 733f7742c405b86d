//! What an operator declared, and which slots belong to declared ports. A slot is a port's own from its declaration on,
//! whether a client is attached or not.

use std::collections::BTreeMap;
use std::rc::Rc;

use sv3::config::{Config, InForce, PortConfig};

use crate::ports::terms::Terms;

/// What is declared.
#[derive(Default)]
pub struct Declarations {
    generation: u64,
    config: Config,
    file: Option<String>,
    /// The slots of ports that have a socket of their own.
    slots: BTreeMap<String, u16>,
    of_slots: BTreeMap<u16, Rc<Terms>>,
    of_attached: BTreeMap<String, Rc<Terms>>,
    of_users: BTreeMap<u32, Rc<Terms>>,
    of_guests: Rc<Terms>,
}

impl Declarations {
    /// Those of this generation. `slots` has each port with a socket of its own.
    pub fn new(in_force: InForce, slots: BTreeMap<String, u16>) -> Declarations {
        let InForce { generation, config, file } = in_force;
        let terms = |(name, port): (&String, &PortConfig)| (name.clone(), Rc::new(Terms::of(name, port)));
        let all: BTreeMap<String, Rc<Terms>> = config.ports.iter().map(terms).collect();
        let of_slots = slots.iter().filter_map(|(name, slot)| Some((*slot, all.get(name)?.clone()))).collect();
        let of_attached = all.into_iter().filter(|(name, _)| !slots.contains_key(name)).collect();
        let of_users = config.users.iter().map(|(uid, rules)| (*uid, Rc::new(Terms::of_guest(rules)))).collect();
        let of_guests = Rc::new(Terms::of_guest(&config.guests));
        Declarations { generation, config, file, slots, of_slots, of_attached, of_users, of_guests }
    }

    /// What is in force, for people.
    pub fn in_force(&self) -> InForce {
        InForce { generation: self.generation, config: self.config.clone(), file: self.file.clone() }
    }

    /// Grows with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All that is declared.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The slots of ports that have a socket of their own, by name.
    pub fn slots(&self) -> &BTreeMap<String, u16> {
        &self.slots
    }

    /// Whether a slot belongs to a declared port.
    pub fn owns(&self, slot: u16) -> bool {
        self.of_slots.contains_key(&slot)
    }

    /// The slots that belong to declared ports.
    pub fn owned(&self) -> impl Iterator<Item = u16> {
        self.of_slots.keys().copied()
    }

    /// The terms of the declared port that a slot belongs to.
    pub fn of_slot(&self, slot: u16) -> Option<&Rc<Terms>> {
        self.of_slots.get(&slot)
    }

    /// The terms of the client in a slot: those of the declared port, or else those of its user.
    pub fn of_client(&self, slot: u16, uid: u32) -> Rc<Terms> {
        let of_user = || self.of_users.get(&uid).unwrap_or(&self.of_guests);
        self.of_slots.get(&slot).unwrap_or_else(of_user).clone()
    }

    /// The terms of a port that is attached under this name.
    pub fn of_attached(&self, name: &str) -> Rc<Terms> {
        self.of_attached.get(name).cloned().unwrap_or_default()
    }

    /// The names of ports that have a socket of their own, by slot.
    pub fn names(&self) -> BTreeMap<u16, String> {
        self.slots.iter().map(|(name, slot)| (*slot, name.clone())).collect()
    }
}
