//! A client's number. It is the slot of the client's port. A pending client has no port yet, and a number beyond all
//! slots.

use sv3::MAX_PORTS;

/// Whether a client of this number is pending.
pub fn is_pending(number: u16) -> bool {
    pending_index(number).is_some()
}

/// The index of the pending client with this number, from 0.
pub fn pending_index(number: u16) -> Option<usize> {
    usize::from(number).checked_sub(MAX_PORTS)
}

/// The number of the pending client with this index, from 0.
pub fn pending_number(index: usize) -> Option<u16> {
    u16::try_from(MAX_PORTS.checked_add(index)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_slot_or_beyond_all_slots() {
        assert!(!is_pending(MAX_PORTS as u16 - 1) && is_pending(MAX_PORTS as u16));
        assert_eq!(pending_number(3).and_then(pending_index), Some(3));
        assert_eq!(pending_number(usize::MAX), None);
    }
}
