//! The ports, each in its slot. A slot's number is the port's name (`p0`) and its index in the ledger.

use sv3::MAX_PORTS;

use crate::crowd::Crowd;
use crate::port::Port;

/// One place.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    Taken(Box<Port>),
    /// The client is gone; the worker has not yet let go of the slot.
    Leaving(Holder),
}

/// Who is to blame for what is done with a slot.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// Whom it is like.
    pub crowd: Crowd,
}

/// All places.
#[derive(Default)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// The lowest free slot.
    pub fn free_slot(&self) -> Option<u16> {
        let free = self.0.iter().position(|slot| matches!(slot, Slot::Free)).unwrap_or(self.0.len());
        (free < MAX_PORTS).then(|| u16::try_from(free).ok()).flatten()
    }

    /// Puts a port into its (free) slot.
    pub fn insert(&mut self, port: Port) {
        let at = usize::from(port.who.slot);
        if self.0.len() <= at {
            self.0.resize_with(at + 1, Slot::default);
        }
        if let Some(place) = self.0.get_mut(at) {
            *place = Slot::Taken(Box::new(port));
        }
    }

    /// The port in a slot.
    pub fn port(&mut self, slot: u16) -> Option<&mut Port> {
        match self.0.get_mut(usize::from(slot)) {
            Some(Slot::Taken(port)) => Some(port),
            _ => None,
        }
    }

    /// All ports, by slot.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.0.iter().filter_map(|slot| match slot {
            Slot::Taken(port) => Some(&**port),
            _ => None,
        })
    }

    /// The slots that have a port.
    pub fn taken(&self) -> Vec<u16> {
        self.ports().map(|port| port.who.slot).collect()
    }

    /// Takes a port out; its slot is not free before [`Slots::release`].
    pub fn remove(&mut self, slot: u16) -> Option<Port> {
        let place = self.0.get_mut(usize::from(slot))?;
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
        self.0.iter().filter(|slot| matches!(slot, Slot::Leaving(_))).count()
    }

    /// Whose slot it is, or was until the worker lets go of it.
    pub fn holder(&self, slot: u16) -> Option<Holder> {
        match self.0.get(usize::from(slot))? {
            Slot::Free => None,
            Slot::Taken(port) => Some(port.holder()),
            Slot::Leaving(holder) => Some(*holder),
        }
    }

    /// The worker has let go of a slot.
    pub fn release(&mut self, slot: u16) {
        if let Some(place @ Slot::Leaving(_)) = self.0.get_mut(usize::from(slot)) {
            *place = Slot::Free;
        }
    }

    /// The worker is dead and has let go of everything.
    pub fn release_all(&mut self) {
        for place in &mut self.0 {
            if matches!(place, Slot::Leaving(_)) {
                *place = Slot::Free;
            }
        }
    }
}
