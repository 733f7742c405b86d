//! Clients that have a port, each in its slot, and pending clients, which have none yet.
//!
//! A slot's number is in the port's name (`p0`) and is its index in the ledger. A client takes a slot by its first
//! request that the worker must know of. Until then the client is pending: its number is beyond all slots, workers are
//! not told of it, and when there are too many pending clients, one of them is disconnected for the next
//! ([`Slots::pending_to_yield`]). So a client that says nothing takes no port.
//!
//! Slots are scarce too: the last [`LAST`] are for processes that have none. When half of these are taken, ports that
//! never had a running ring, and streams that have sent no frame, give way ([`Slots::idle_to_yield`]).

mod names;
mod yielding;

use std::rc::Rc;

use sv3::MAX_PORTS;
use sv3::foreign::ForeignFd;
use sv3_policy::WorkerRole;

use crate::clients::client::Client;
use crate::clients::declarations::Declarations;
use crate::clients::holder::Holder;
use crate::clients::number::{pending_index, pending_number};
use crate::ports::card::CardPort;
use crate::ports::files::FilePort;
use crate::ports::port::Replay;

/// One slot.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    Taken(Box<Client>),
    /// The client has disconnected, or the port is detached; the worker has not yet forgotten the port. The files of a
    /// port of open files stay open until it has, so that the worker's own close of them never waits.
    Leaving(Holder, Vec<Rc<ForeignFd>>),
    /// A port of open files.
    Files(Box<FilePort>),
    /// A port of a network card.
    Card(Box<CardPort>),
    /// A port for tests.
    #[cfg(test)]
    Own(Box<dyn Replay>),
}

/// Most pending clients at a time.
const PENDING_MAX: usize = 128;
/// Number of slots that are reserved for processes that have none.
pub const LAST: usize = 16;

/// One port for its life: no other port of the slot has the same serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its slot.
    pub slot: u16,
    /// Its serial number.
    pub serial: u64,
}

/// All clients.
#[derive(Default)]
pub struct Slots {
    /// What an operator declared: slots that belong to ports, and the terms of all.
    pub declared: Declarations,
    slots: Vec<Slot>,
    pending: Vec<Option<Box<Client>>>,
}

impl Slots {
    /// The lowest free slot.
    pub fn free_slot(&self) -> Option<u16> {
        self.free_slots().next()
    }

    /// The slots that are free and belong to no declared port, the lowest first.
    pub fn free_slots(&self) -> impl Iterator<Item = u16> {
        let slots = (0..MAX_PORTS).filter_map(|slot| u16::try_from(slot).ok());
        slots.filter(|slot| self.is_vacant(*slot) && !self.declared.owns(*slot))
    }

    /// Whether nothing is in a slot.
    pub fn is_vacant(&self, slot: u16) -> bool {
        matches!(self.slots.get(usize::from(slot)), None | Some(Slot::Free))
    }

    /// Whether a port has gone from a slot and the worker has not let go of it.
    pub fn is_leaving(&self, slot: u16) -> bool {
        matches!(self.slots.get(usize::from(slot)), Some(Slot::Leaving(..)))
    }

    /// The client of a number, to look at.
    pub fn look_at(&self, slot: u16) -> Option<&Client> {
        match self.slots.get(usize::from(slot)) {
            Some(Slot::Taken(client)) => Some(client),
            _ => None,
        }
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        let kept = self.declared.owned().filter(|slot| self.is_vacant(*slot)).count();
        let taken = self.slots.iter().filter(|slot| !matches!(slot, Slot::Free)).count();
        MAX_PORTS.saturating_sub(taken).saturating_sub(kept)
    }

    /// A free number for a pending client.
    pub fn free_pending_number(&self) -> Option<u16> {
        let free = self.pending.iter().position(Option::is_none).unwrap_or(self.pending.len());
        (free < PENDING_MAX).then(|| pending_number(free)).flatten()
    }

    /// Inserts a client at its number, which must be free.
    pub fn insert(&mut self, client: Client) {
        let at = usize::from(client.id.slot);
        if let Some(at) = pending_index(client.id.slot) {
            if self.pending.len() <= at {
                self.pending.resize_with(at + 1, Option::default);
            }
            if let Some(place) = self.pending.get_mut(at) {
                *place = Some(Box::new(client));
            }
            return;
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        if let Some(place) = self.slots.get_mut(at) {
            *place = Slot::Taken(Box::new(client));
        }
    }

    /// Inserts a port of open files at its slot, which must be free.
    pub fn insert_files(&mut self, port: FilePort) {
        let at = usize::from(port.slot);
        self.slots.resize_with(self.slots.len().max(at + 1), Slot::default);
        if let Some(place) = self.slots.get_mut(at) {
            *place = Slot::Files(Box::new(port));
        }
    }

    /// The port of open files in a slot.
    pub fn files(&mut self, slot: u16) -> Option<&mut FilePort> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(Slot::Files(port)) => Some(port),
            _ => None,
        }
    }

    /// All ports of open files, by slot.
    pub fn all_files(&self) -> impl Iterator<Item = &FilePort> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Files(port) => Some(&**port),
            _ => None,
        })
    }

    /// Removes a port of open files. Its slot is free after [`Slots::release`].
    pub fn remove_files(&mut self, slot: u16) -> Option<FilePort> {
        self.tell_rivals(slot);
        let place = self.slots.get_mut(usize::from(slot))?;
        match std::mem::take(place) {
            Slot::Files(port) => {
                *place = Slot::Leaving(port.holder(), port.files().cloned().collect());
                Some(*port)
            }
            other => {
                *place = other;
                None
            }
        }
    }

    /// Inserts a port of a card at its slot, which must be free.
    pub fn insert_card(&mut self, port: CardPort) {
        let at = usize::from(port.slot);
        self.slots.resize_with(self.slots.len().max(at + 1), Slot::default);
        if let Some(place) = self.slots.get_mut(at) {
            *place = Slot::Card(Box::new(port));
        }
    }

    /// The port of a card in a slot.
    pub fn card(&mut self, slot: u16) -> Option<&mut CardPort> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(Slot::Card(port)) => Some(port),
            _ => None,
        }
    }

    /// All ports of cards, by slot.
    pub fn all_cards(&self) -> impl Iterator<Item = &CardPort> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Card(port) => Some(&**port),
            _ => None,
        })
    }

    /// Removes a port of a card. Its slot is free after [`Slots::release`]. Until then its files stay open
    /// ([`Slots::keep`]).
    pub fn remove_card(&mut self, slot: u16) -> Option<CardPort> {
        let place = self.slots.get_mut(usize::from(slot))?;
        match std::mem::take(place) {
            Slot::Card(port) => {
                *place = Slot::Leaving(port.holder(), Vec::new());
                Some(*port)
            }
            other => {
                *place = other;
                None
            }
        }
    }

    /// Keeps the files of a port that was removed until the worker has let go of its slot.
    pub fn keep(&mut self, slot: u16, files: Vec<Rc<ForeignFd>>) {
        if let Some(Slot::Leaving(_, kept)) = self.slots.get_mut(usize::from(slot)) {
            kept.extend(files);
        }
    }

    /// The serving worker is dead: it has nothing of cards that were closed.
    pub fn forget_retired(&mut self) {
        for place in &mut self.slots {
            if let Slot::Card(port) = place {
                port.is_forgotten();
            }
        }
    }

    /// A slot's port is about to go: its addresses are free for ports that tried to take one.
    fn tell_rivals(&mut self, slot: u16) {
        for place in &mut self.slots {
            if let Slot::Files(port) = place {
                port.rival_left(slot);
            }
        }
    }

    /// Whether the port in a slot is still there and its other side has not hung up.
    pub fn is_there(&self, slot: u16) -> bool {
        match self.slots.get(usize::from(slot)) {
            Some(Slot::Files(port)) => port.end_due.is_none(),
            None | Some(Slot::Free | Slot::Leaving(..)) => false,
            Some(_) => true,
        }
    }

    /// Inserts a port for tests at its slot, which must be free.
    #[cfg(test)]
    pub fn insert_own(&mut self, port: impl Replay + 'static) {
        let at = usize::from(port.port().slot);
        self.slots.resize_with(self.slots.len().max(at + 1), Slot::default);
        self.slots[at] = Slot::Own(Box::new(port));
    }

    /// What a worker may need to have for the ports that there are.
    pub fn role(&self) -> WorkerRole {
        match (self.all_cards().any(|port| port.attachment.zero_copy), self.all_files().next().is_some()) {
            (true, _) => WorkerRole::Cards,
            (false, true) => WorkerRole::Files,
            (false, false) => WorkerRole::Plain,
        }
    }

    /// The client of a number.
    pub fn client(&mut self, slot: u16) -> Option<&mut Client> {
        if let Some(at) = pending_index(slot) {
            return self.pending.get_mut(at)?.as_deref_mut();
        }
        match self.slots.get_mut(usize::from(slot)) {
            Some(Slot::Taken(client)) => Some(client),
            _ => None,
        }
    }

    /// All clients that have a port, by slot.
    pub fn clients(&self) -> impl Iterator<Item = &Client> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Taken(client) => Some(&**client),
            _ => None,
        })
    }

    /// The ports that workers are told of, by slot: all but those in quarantine.
    pub fn told(&self) -> impl Iterator<Item = &dyn Replay> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Taken(client) if client.quarantine.is_none() => Some(&**client as &dyn Replay),
            Slot::Files(port) if port.quarantine.is_none() => Some(&**port as &dyn Replay),
            Slot::Card(port) => Some(&**port as &dyn Replay),
            #[cfg(test)]
            Slot::Own(port) => Some(&**port),
            _ => None,
        })
    }

    /// The ports, by slot.
    pub fn identities(&self) -> impl Iterator<Item = Identity> + Clone {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Taken(client) => Some(Identity { slot: client.id.slot, serial: client.serial }),
            Slot::Files(port) => Some(Identity { slot: port.slot, serial: port.serial }),
            Slot::Card(port) => Some(Identity { slot: port.slot, serial: port.serial }),
            _ => None,
        })
    }

    /// All pending clients.
    pub fn pending(&self) -> impl Iterator<Item = &Client> {
        self.pending.iter().flatten().map(|client| &**client)
    }

    /// All clients.
    pub fn connected(&self) -> impl Iterator<Item = &Client> {
        self.clients().chain(self.pending())
    }

    /// The connections that another supervisor lent are this supervisor's from now on.
    pub fn own_connections(&mut self) {
        for slot in &mut self.slots {
            match slot {
                Slot::Taken(client) => client.connection.own(),
                Slot::Files(port) => port.own(),
                _ => {}
            }
        }
        self.pending.iter_mut().flatten().for_each(|client| client.connection.own());
    }

    /// Whether a process has a slot.
    pub fn has_slot(&self, pid: i32) -> bool {
        let is_stream = |port: &FilePort| port.is_client() && port.owner.0 == pid;
        self.clients().any(|client| client.id.pid == pid) || self.all_files().any(is_stream)
    }

    /// How many ports there are.
    pub fn count(&self) -> usize {
        self.clients().count() + self.all_files().count() + self.all_cards().count()
    }

    /// The number of the pending client of this connection.
    pub fn pending_number_of(&self, serial: u64) -> Option<u16> {
        self.pending().find(|client| client.serial == serial).map(|client| client.id.slot)
    }

    /// The slots that clients have.
    pub fn taken(&self) -> Vec<u16> {
        self.clients().map(|client| client.id.slot).collect()
    }

    /// Removes a client. Its slot is free after [`Slots::release`]; a pending client's number is free at once.
    pub fn remove(&mut self, slot: u16) -> Option<Client> {
        if let Some(at) = pending_index(slot) {
            return self.pending.get_mut(at)?.take().map(|client| *client);
        }
        self.tell_rivals(slot);
        let place = self.slots.get_mut(usize::from(slot))?;
        match std::mem::take(place) {
            Slot::Taken(client) => {
                *place = Slot::Leaving(client.holder(), Vec::new());
                Some(*client)
            }
            other => {
                *place = other;
                None
            }
        }
    }

    /// How many slots the worker has still to let go of, because their clients have disconnected.
    pub fn leaving(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Leaving(..))).count()
    }

    /// The files of ports of open files that the worker has still to let go of.
    pub fn leaving_files(&self) -> impl Iterator<Item = &Rc<ForeignFd>> {
        self.slots.iter().flat_map(|slot| match slot {
            Slot::Leaving(_, files) => files.as_slice(),
            _ => &[],
        })
    }

    /// The client that has the slot, or had it and the worker has not let go of it.
    pub fn holder(&self, slot: u16) -> Option<Holder> {
        match self.slots.get(usize::from(slot))? {
            Slot::Free => None,
            #[cfg(test)]
            Slot::Own(_) => None,
            Slot::Taken(client) => Some(client.holder()),
            Slot::Files(port) => Some(port.holder()),
            Slot::Card(port) => Some(port.holder()),
            Slot::Leaving(holder, _) => Some(*holder),
        }
    }

    /// The worker has let go of a slot.
    pub fn release(&mut self, slot: u16) {
        if let Some(place @ Slot::Leaving(..)) = self.slots.get_mut(usize::from(slot)) {
            *place = Slot::Free;
        }
    }

    /// The worker is dead: all slots of clients that have disconnected are free.
    pub fn release_all(&mut self) {
        for place in &mut self.slots {
            if matches!(place, Slot::Leaving(..)) {
                *place = Slot::Free;
            }
        }
    }
}

#[cfg(test)]
mod tests;
