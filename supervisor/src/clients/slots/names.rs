//! Names of ports, and the doors of declared ones.

use std::collections::BTreeMap;

use super::{Slot, Slots};
use crate::clients::client::Client;
use crate::telemetry::event::Named;

impl Slots {
    /// The names of ports that have others than their slots', by slot.
    pub fn names(&self) -> BTreeMap<u16, String> {
        let files = self.all_files().map(|port| (port.slot, port.name().to_string()));
        let cards = self.all_cards().map(|port| (port.slot, port.name().to_string()));
        self.declared.names().into_iter().chain(files).chain(cards).collect()
    }

    /// The client of this name: that of a declared port, or `p` and a slot.
    pub fn slot_named(&self, name: &str) -> Option<u16> {
        let of_slot = || name.strip_prefix('p')?.parse().ok().filter(|slot| !self.declared.owns(*slot));
        self.declared.slots().get(name).copied().or_else(of_slot)
    }

    /// The slot of a card's port, by its name.
    pub fn card_named(&self, name: &str) -> Option<u16> {
        self.all_cards().find(|port| port.name() == name).map(|port| port.slot)
    }

    /// What events call the port of open files or of a card in a slot.
    pub fn named(&self, slot: u16) -> Option<Named> {
        match self.slots.get(usize::from(slot))? {
            Slot::Files(port) => Some(port.named()),
            Slot::Card(port) => Some(port.named()),
            _ => None,
        }
    }

    /// The name of a slot's port.
    pub fn name(&self, slot: u16) -> Option<String> {
        match self.slots.get(usize::from(slot))? {
            Slot::Taken(client) => Some(client.device().port.to_string()),
            Slot::Files(port) => Some(port.name().to_string()),
            Slot::Card(port) => Some(port.name().to_string()),
            _ => None,
        }
    }

    /// The pending client at the door of a declared port.
    pub fn pending_at(&self, home: u16) -> Option<&Client> {
        self.pending().find(|client| client.home == Some(home))
    }
}
