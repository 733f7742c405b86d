//! The internet checksum (RFC 1071).

/// Folded ones' complement sum, not inverted, of `start` and of octets that begin at an even place.
///
/// Words are summed as they stand in memory: the byte order changes only the byte order of the sum (RFC 1071, 2 (B)).
/// The sum uses two accumulators without carries between them, which compilers turn into vector code.
pub fn sum(octets: &[u8], start: u64) -> u16 {
    let (words, mut rest) = octets.as_chunks::<8>();
    let (mut low, mut high) = (0, 0);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        low += word & 0xffff_ffff;
        high += word >> 32;
    }
    let mut native = (low >> 32) + (low & 0xffff_ffff) + (high >> 32) + (high & 0xffff_ffff);
    if let Some((word, behind)) = rest.split_first_chunk() {
        native += u64::from(u32::from_ne_bytes(*word));
        rest = behind;
    }
    if let Some((word, behind)) = rest.split_first_chunk() {
        native += u64::from(u16::from_ne_bytes(*word));
        rest = behind;
    }
    if let [last] = rest {
        native += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(u64::from(fold(native).to_be()) + u64::from(fold(start)))
}

/// Ends a sum: carries are added at the low end.
pub fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The value of a checksum field: the inverted sum, never zero. Zero means "none" for UDP; for other protocols 0xffff
/// means the same as zero.
pub fn field(sum: u16) -> [u8; 2] {
    match !sum {
        0 => [0xff, 0xff],
        value => value.to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 says it, word by word.
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

    /// The former way: words in network byte order. Prints how much faster the present way is.
    #[test]
    #[ignore = "measures; run it alone and in release"]
    fn speed() {
        let ordered = |octets: &[u8]| {
            let (words, _) = octets.as_chunks::<4>();
            fold(words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum())
        };
        let octets: Vec<u8> = (0..65536u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in [20, 64, 128, 256, 512, 1024, 1448, 4096, 9000, 65536] {
            let octets = &octets[..len];
            let best = |work: &dyn Fn(&[u8]) -> u16| {
                let rounds = 20_000_000 / (len + 200);
                let round = || {
                    let start = std::time::Instant::now();
                    for _ in 0..rounds {
                        black_box(work(black_box(octets)));
                    }
                    start.elapsed().as_secs_f64() / rounds as f64 * 1e9
                };
                (0..5).map(|_| round()).fold(f64::MAX, f64::min)
            };
            let (slow, fast) = (best(&ordered), best(&|octets| sum(octets, 0)));
            println!("{len:>6} octets: {fast:>7.1} ns, {:>5.1} GB/s, {:.2} times", len as f64 / fast, slow / fast);
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
