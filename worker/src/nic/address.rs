//! Ethernet addresses as cards have them: two words, first octet lowest.

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The address in a low and a high word, if it is one that a station can have: neither all zeroes nor a group's.
pub fn of_words(low: u32, high: u32) -> Option<Mac> {
    let ([a, b, c, d], [e, f, _, _]) = (low.to_le_bytes(), high.to_le_bytes());
    let mac = [a, b, c, d, e, f];
    (a & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// The two words of an address. The upper half of the second is 0.
pub fn to_words([a, b, c, d, e, f]: Mac) -> (u32, u32) {
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]))
}

/// The address in the state that workers leave, first octet highest; 0: none.
pub fn of_state(word: u64) -> Option<Mac> {
    let [0, 0, a, b, c, d, e, f] = word.to_be_bytes() else { return None };
    of_words(u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]))
}

/// The word of the state for an address.
pub fn to_state([a, b, c, d, e, f]: Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_both_round_trips() {
        let mac = [0x52, 0x54, 0, 1, 2, 0xff];
        let (low, high) = to_words(mac);
        assert_eq!((low, high), (0x0100_5452, 0xff02));
        assert_eq!(of_words(low, high | 1 << 31), Some(mac));
        assert_eq!(of_state(to_state(mac)), Some(mac));
    }

    #[test]
    fn no_station_has_a_group_address_or_none() {
        assert_eq!(of_words(u32::MAX, u32::MAX), None);
        assert_eq!(of_words(0, 0), None);
        assert_eq!(of_state(u64::MAX), None);
    }
}
