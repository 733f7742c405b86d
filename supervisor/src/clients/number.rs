//! A client's number: the slot of its port, or a number beyond all slots while it is pending: while it has no port.

use sv3::MAX_PORTS;

/// Whether a client of this number is pending.
pub fn is_pending(number: u16) -> bool {
    pending_index(number).is_some()
}

/// Which of the pending clients has this number, counted from 0.
pub fn pending_index(number: u16) -> Option<usize> {
    usize::from(number).checked_sub(MAX_PORTS)
}

/// The number of a pending client, counted from 0.
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
