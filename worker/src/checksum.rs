//! The internet checksum (RFC 1071).

/// Folded ones' complement sum, not inverted, of `start` and of octets that begin at an even place.
///
/// Words are summed as they stand in memory, since the order of octets changes the order of the sum's octets and nothing
/// else (RFC 1071, 2 (B)), and in two lanes without carries between them, of which compilers make vector code.
pub fn sum(octets: &[u8], start: u64) -> u16 {
    let (words, rest) = octets.as_chunks::<8>();
    let (mut low, mut high) = (0, 0);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        low += word & 0xffff_ffff;
        high += word >> 32;
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(place, octet)| *place = *octet);
    let last = u64::from_ne_bytes(last);
    let native = fold(
        (low >> 32) + (low & 0xffff_ffff) + (high >> 32) + (high & 0xffff_ffff) + (last >> 32) + (last & 0xffff_ffff),
    );
    fold(u64::from(fold(start)) + u64::from(native.to_be()))
}

/// Ends a sum: carries are added at the low end.
pub fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// What goes into a checksum field: the inverted sum, never zero, which for UDP means "none" and is the same for others.
pub fn field(sum: u16) -> [u8; 2] {
    match !sum {
        0 => [0xff, 0xff],
        value => value.to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the RFC says it, word by word.
    fn plain(octets: &[u8], start: u64) -> u16 {
        let words = octets.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
        fold(words.sum::<u64>() + u64::from(fold(start)))
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0), 0xddf2);
    }

    #[test]
    fn ones_and_zeros_of_every_length() {
        let (ones, zeros) = (vec![0xff; 65536], vec![0; 65536]);
        for len in (0..200).chain(65500..=65536) {
            assert_eq!(sum(&zeros[..len], 0), 0);
            assert_eq!(sum(&zeros[..len], u64::MAX), 0xffff);
            assert_eq!(sum(&ones[..len], 0), plain(&ones[..len], 0));
        }
    }

    proptest! {
        #[test]
        fn any_octets_from_any_place(
            octets in proptest::collection::vec(any::<u8>(), 0..3000),
            skip in 0usize..16,
            start in any::<u64>(),
        ) {
            let octets = octets.get(skip..).unwrap_or_default();
            prop_assert_eq!(sum(octets, start), plain(octets, start));
        }
    }
}
