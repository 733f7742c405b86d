//! A set of ports, by slot.

use serde::{Deserialize, Serialize};

use crate::MAX_PORTS;

/// A set of slots: a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    /// All slots.
    pub const ALL: PortSet = PortSet([u64::MAX; MAX_PORTS / 64]);

    /// Whether the slot is in it.
    #[inline]
    pub fn has(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    /// Adds a slot. Numbers that are no slot's add none.
    pub fn add(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> PortSet {
        let mut set = PortSet::default();
        slots.into_iter().for_each(|slot| set.add(slot));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added_and_not_removed() {
        let mut set: PortSet = [0, 63, 64, 1023, 1024, u16::MAX].into_iter().collect();
        assert_eq!([0, 1, 63, 64, 1023, 1024].map(|slot| set.has(slot)), [true, false, true, true, true, false]);
        [0, 63, 64, 1023, 5000].into_iter().for_each(|slot| set.remove(slot));
        assert!(set.is_empty() && !PortSet::ALL.is_empty() && PortSet::ALL.has(1023));
    }
}
