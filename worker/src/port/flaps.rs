//! Addresses that move between ports again and again: behind two ports is a loop, or two machines have one address.
//!
//! Each move of an address takes a slow path of the forwarding table, and is counted here: in the place that the address
//! falls into, for as long as a [`WINDOW_S`]. Another address that falls into the same place takes one off the count, and
//! has the place when the count is 0: so who moves most is found. An address that has moved [`MOVES`] times is noted for
//! the control thread, one in a second. Threads write without a lock, so a count may be too low by what a race lost.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};

/// So many moves make a flap: five times there and back.
pub const MOVES: u32 = 10;
/// The moves of a flap happen within so many seconds.
pub const WINDOW_S: u64 = 10;
const PLACES: usize = 256;

/// An address that moves between two ports again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// The address (low 48 bits, first octet highest) and its VLAN.
    pub address: u64,
    /// The slots of its last move: from where, and to where.
    pub ports: (u16, u16),
    /// How often it has moved since the last note of it, or within the window.
    pub moves: u32,
}

/// The moves of late, and one note.
pub struct Flaps {
    places: Box<[Place]>,
    note: Note,
}

#[derive(Default)]
struct Place {
    address: AtomicU64,
    /// When the window began, in seconds (high half), and the moves since then.
    moves: AtomicU64,
}

#[derive(Default)]
struct Note {
    state: AtomicU8,
    address: AtomicU64,
    ports: AtomicU32,
    moves: AtomicU32,
    /// The second of the last note.
    noted_s: AtomicU64,
}

const FREE: u8 = 0;
const WRITTEN: u8 = 1;
const READY: u8 = 2;

impl Flaps {
    /// No moves.
    pub fn new() -> Flaps {
        Flaps { places: std::iter::repeat_with(Place::default).take(PLACES).collect(), note: Note::default() }
    }

    /// An address has moved from one slot to another.
    pub fn note_move(&self, address: u64, ports: (u16, u16), now_s: u64) {
        let Some(place) = self.places.get(place_of(address)) else { return };
        let (holder, before) = (place.address.load(Relaxed), place.moves.load(Relaxed));
        let (since, moves) = (before >> 32, before as u32);
        let is_over = now_s.saturating_sub(since) >= WINDOW_S;
        let more = moves.saturating_add(1);
        let begin = |moves: u32| now_s << 32 | u64::from(moves);
        let go_on = |moves: u32| since << 32 | u64::from(moves);
        match (holder == address, is_over) {
            (true, false) => {
                let is_noted = more >= MOVES && self.note(Flap { address, ports, moves: more }, now_s);
                place.moves.store(if is_noted { begin(0) } else { go_on(more) }, Relaxed);
            }
            (false, false) if moves > 0 => place.moves.store(go_on(moves - 1), Relaxed),
            _ => {
                place.address.store(address, Relaxed);
                place.moves.store(begin(1), Relaxed);
            }
        }
    }

    /// False: there was a note in this second, or the last one was not taken yet.
    fn note(&self, flap: Flap, now_s: u64) -> bool {
        let Note { state, address, ports, moves, noted_s } = &self.note;
        if noted_s.load(Relaxed) == now_s || state.compare_exchange(FREE, WRITTEN, Acquire, Relaxed).is_err() {
            return false;
        }
        address.store(flap.address, Relaxed);
        ports.store(u32::from(flap.ports.0) << 16 | u32::from(flap.ports.1), Relaxed);
        moves.store(flap.moves, Relaxed);
        noted_s.store(now_s, Relaxed);
        state.store(READY, Release);
        true
    }

    /// Whether there is a note for the control thread.
    pub fn has_note(&self) -> bool {
        self.note.state.load(Relaxed) == READY
    }

    /// The note, once. Only the control thread calls this.
    pub fn take(&self) -> Option<Flap> {
        let Note { state, address, ports, moves, .. } = &self.note;
        if state.load(Acquire) != READY {
            return None;
        }
        let both = ports.load(Relaxed);
        let ports = ((both >> 16) as u16, both as u16);
        let flap = Flap { address: address.load(Relaxed), ports, moves: moves.load(Relaxed) };
        state.store(FREE, Release);
        Some(flap)
    }
}

/// Fibonacci hashing: neighbouring addresses fall into different places.
fn place_of(address: u64) -> usize {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address moves there and back so many times.
    fn moves(flaps: &Flaps, address: u64, count: u32, now_s: u64) {
        (0..count).for_each(|at| flaps.note_move(address, if at % 2 == 0 { (3, 7) } else { (7, 3) }, now_s));
    }

    #[test]
    fn an_address_that_moves_often_enough_is_noted_and_one_that_moves_now_and_then_is_not() {
        let flaps = Flaps::new();
        moves(&flaps, 5, MOVES - 1, 100);
        assert_eq!((flaps.has_note(), flaps.take()), (false, None));
        moves(&flaps, 5, 1, 100 + WINDOW_S - 1);
        assert!(flaps.has_note());
        assert_eq!(flaps.take(), Some(Flap { address: 5, ports: (3, 7), moves: MOVES }));
        assert_eq!((flaps.has_note(), flaps.take()), (false, None));
        // A move each second, or a window without enough of them.
        for second in 200..400 {
            flaps.note_move(6, (1, 2), second * 2);
        }
        moves(&flaps, 7, MOVES - 1, 1000);
        moves(&flaps, 7, MOVES - 1, 1000 + WINDOW_S);
        assert_eq!(flaps.take(), None);
    }

    #[test]
    fn one_is_noted_in_a_second_and_none_is_lost_that_goes_on() {
        let flaps = Flaps::new();
        for second in 100..110 {
            (1..=3).for_each(|address| moves(&flaps, address, 100, second));
            assert!(flaps.take().is_some_and(|flap| flap.moves >= MOVES));
            moves(&flaps, 1, 100, second);
            assert_eq!(flaps.take(), None, "twice in a second");
        }
        // Nobody takes the note: it stays as it is.
        moves(&flaps, 1, 100, 200);
        moves(&flaps, 2, 100, 201);
        assert_eq!(flaps.take().map(|flap| flap.address), Some(1));
    }

    #[test]
    fn addresses_that_move_a_little_hide_none_that_moves_all_the_time() {
        let flaps = Flaps::new();
        let others: Vec<u64> = (1000..).filter(|other| place_of(*other) == place_of(77)).take(50).collect();
        others.iter().for_each(|other| moves(&flaps, *other, 1, 100));
        for other in &others {
            moves(&flaps, 77, 2, 100);
            flaps.note_move(*other, (1, 2), 100);
        }
        assert_eq!(flaps.take().map(|flap| flap.address), Some(77));
    }
}
