//! The ports, each in its slot, and the callers, who have none yet.
//!
//! A slot's number is the port's name (`p0`) and its index in the ledger. It is taken by the first request that the worker
//! has to hear of. Until then a connection is a caller: it has a number beyond all slots, is told to nobody, and gives way
//! to the next one when there are too many ([`Slots::caller_to_yield`]). So silence costs nobody a port.
//!
//! Slots are scarce as well: the last [`LAST`] are for processes that have none, and as soon as these are half gone, ports
//! by which nothing ever ran give way ([`Slots::idle_to_yield`]).

use std::collections::HashMap;
use std::time::Instant;

use sv3::MAX_PORTS;

use crate::clients::client::Client;
use crate::clients::holder::Holder;
use crate::clients::number::{pending_index, pending_number};

/// One place.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    Taken(Box<Client>),
    /// The client is gone; the worker has not yet let go of the slot.
    Leaving(Holder),
}

/// Callers at a time.
pub const CALLERS: usize = 128;
/// Slots that no process gets that has one already.
pub const LAST: usize = 16;

/// All places.
#[derive(Default)]
pub struct Slots {
    slots: Vec<Slot>,
    callers: Vec<Option<Box<Client>>>,
}

impl Slots {
    /// The lowest free slot.
    pub fn free_slot(&self) -> Option<u16> {
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free)).unwrap_or(self.slots.len());
        (free < MAX_PORTS).then(|| u16::try_from(free).ok()).flatten()
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        MAX_PORTS.saturating_sub(self.slots.iter().filter(|slot| !matches!(slot, Slot::Free)).count())
    }

    /// A number for one more caller.
    pub fn free_caller(&self) -> Option<u16> {
        let free = self.callers.iter().position(Option::is_none).unwrap_or(self.callers.len());
        (free < CALLERS).then(|| pending_number(free)).flatten()
    }

    /// The caller that gives way to one more: of the process that has most of them, or else of the user, the first one.
    pub fn caller_to_yield(&self) -> Option<u16> {
        first_of_most(self.callers())
    }

    /// The port that gives way to one more, of those by which nothing ever ran, likewise.
    pub fn idle_to_yield(&self) -> Option<u16> {
        first_of_most(self.ports().filter(|port| !port.device().ever_started))
    }

    /// Puts a port into its (free) slot.
    pub fn insert(&mut self, port: Client) {
        let at = usize::from(port.who.slot);
        if let Some(at) = pending_index(port.who.slot) {
            if self.callers.len() <= at {
                self.callers.resize_with(at + 1, Option::default);
            }
            if let Some(place) = self.callers.get_mut(at) {
                *place = Some(Box::new(port));
            }
            return;
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        if let Some(place) = self.slots.get_mut(at) {
            *place = Slot::Taken(Box::new(port));
        }
    }

    /// The port in a slot, or the caller of a number.
    pub fn port(&mut self, slot: u16) -> Option<&mut Client> {
        if let Some(at) = pending_index(slot) {
            return self.callers.get_mut(at)?.as_deref_mut();
        }
        match self.slots.get_mut(usize::from(slot)) {
            Some(Slot::Taken(port)) => Some(port),
            _ => None,
        }
    }

    /// All ports, by slot.
    pub fn ports(&self) -> impl Iterator<Item = &Client> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Taken(port) => Some(&**port),
            _ => None,
        })
    }

    /// All callers.
    pub fn callers(&self) -> impl Iterator<Item = &Client> {
        self.callers.iter().flatten().map(|port| &**port)
    }

    /// All who are connected.
    pub fn everybody(&self) -> impl Iterator<Item = &Client> {
        self.ports().chain(self.callers())
    }

    /// Whether a process has a slot.
    pub fn has_slot(&self, pid: i32) -> bool {
        self.ports().any(|port| port.who.pid == pid)
    }

    /// The caller of a serial number.
    pub fn caller(&self, serial: u64) -> Option<u16> {
        self.callers().find(|port| port.serial == serial).map(|port| port.who.slot)
    }

    /// The slots that have a port.
    pub fn taken(&self) -> Vec<u16> {
        self.ports().map(|port| port.who.slot).collect()
    }

    /// Takes a port out; its slot is not free before [`Slots::release`]. A caller's number is free at once.
    pub fn remove(&mut self, slot: u16) -> Option<Client> {
        if let Some(at) = pending_index(slot) {
            return self.callers.get_mut(at)?.take().map(|port| *port);
        }
        let place = self.slots.get_mut(usize::from(slot))?;
        match std::mem::take(place) {
            Slot::Taken(port) => {
                *place = Slot::Leaving(port.holder());
                Some(*port)
            }
            other => {
                *place = other;
                None
            }
        }
    }

    /// How many clients are gone whose slots the worker has not let go of.
    pub fn leaving(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Leaving(_))).count()
    }

    /// Whose slot it is, or was until the worker lets go of it.
    pub fn holder(&self, slot: u16) -> Option<Holder> {
        match self.slots.get(usize::from(slot))? {
            Slot::Free => None,
            Slot::Taken(port) => Some(port.holder()),
            Slot::Leaving(holder) => Some(*holder),
        }
    }

    /// The worker has let go of a slot.
    pub fn release(&mut self, slot: u16) {
        if let Some(place @ Slot::Leaving(_)) = self.slots.get_mut(usize::from(slot)) {
            *place = Slot::Free;
        }
    }

    /// The worker is dead and has let go of everything.
    pub fn release_all(&mut self) {
        for place in &mut self.slots {
            if matches!(place, Slot::Leaving(_)) {
                *place = Slot::Free;
            }
        }
    }
}

/// Of the process that has most of these, or else of the user who has, the one that came first.
fn first_of_most<'p>(ports: impl Iterator<Item = &'p Client>) -> Option<u16> {
    let ports: Vec<&Client> = ports.collect();
    let (mut by_pid, mut by_uid): (HashMap<i32, usize>, HashMap<u32, usize>) = Default::default();
    for port in &ports {
        *by_pid.entry(port.who.pid).or_default() += 1;
        *by_uid.entry(port.uid).or_default() += 1;
    }
    let rank = |port: &&&Client| {
        let of = (by_pid.get(&port.who.pid).copied(), by_uid.get(&port.uid).copied());
        (of, std::cmp::Reverse::<Instant>(port.connection.opened()))
    };
    ports.iter().max_by_key(rank).map(|port| port.who.slot)
}
