//! Positions in a packed ring, compared with plain numbers: descriptors counted from the start of the ring.

use super::Position;

/// The position of descriptor `count` (2.8.1: the wrap counter is 1 in the first lap).
fn position(count: u32, size: u16) -> Position {
    let (lap, index) = (count / u32::from(size), count % u32::from(size));
    Position(index as u16 | if lap % 2 == 0 { Position::WRAP } else { 0 })
}

/// All values in small rings; in others the values near a wrap.
fn counts(size: u16) -> Vec<u32> {
    let lap = u32::from(size);
    match size {
        ..=32 => (0..4 * lap).collect(),
        _ => (0..4).flat_map(|n| [n * lap, n * lap + 1, n * lap + lap / 2, n * lap + lap - 1]).collect(),
    }
}

#[test]
fn positions_are_numbers_of_descriptors() {
    for size in (1..=32).chain([33, 255, 256, 1000, 32767, 32768]) {
        let lap = u32::from(size);
        for count in counts(size) {
            let at = position(count, size);
            assert!(at.index() < size);
            let steps: Vec<u32> = if size <= 32 { (0..=lap).collect() } else { vec![0, 1, lap / 2, lap - 1, lap] };
            for step in steps {
                let to = position(count + step, size);
                assert_eq!(at.ahead(step as u16, size).0, to.0, "{step} from {count} in a ring of {size}");
                assert_eq!(at.distance(to, size), step, "from {count} in a ring of {size}");
            }
        }
    }
}

/// A ledger or a driver may claim any position for a ring. Then at most one lap is left, or nothing.
#[test]
fn what_is_left_of_a_lap_is_a_lap_at_most() {
    for size in 1..=32u16 {
        let lap = u32::from(size);
        for (from, to) in (0..2 * lap).flat_map(|from| (0..2 * lap).map(move |to| (from, to))) {
            let left = lap.saturating_sub(position(from, size).distance(position(to, size), size));
            let ahead = (to + 2 * lap - from) % (2 * lap);
            // A position up to one lap behind leaves nothing.
            assert_eq!(left, lap.saturating_sub(ahead), "from {from} to {to} in a ring of {size}");
        }
    }
}
