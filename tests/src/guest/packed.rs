//! The driver's half of a packed ring, written from virtio 1.3, 2.8.
//!
//! As [`super::split`], it checks everything that the device hands back. A breach panics.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use super::feature::{EVENT_IDX, IN_ORDER};
use super::memory::Memory;
use super::split::{INDIRECT, NEXT, Piece, Used, WRITE};

/// Descriptor flag: the driver's turn, see [`turn`].
const AVAIL: u16 = 1 << 7;
/// Descriptor flag: the device's turn.
const USED: u16 = 1 << 15;

/// Event suppression (2.8.10).
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// Index and wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    const START: Position = Position { index: 0, wrap: true };

    fn ahead(self, by: u16, size: u16) -> Position {
        let index = self.index + by;
        if index >= size { Position { index: index - size, wrap: !self.wrap } } else { Position { index, ..self } }
    }

    fn word(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

/// The flags of a descriptor that the driver makes available (2.8.1).
fn turn(at: Position) -> u16 {
    if at.wrap { AVAIL } else { USED }
}

/// A chain that is with the device.
#[derive(Clone, Copy, Debug)]
struct Chain {
    id: u16,
    descriptors: u16,
    /// Octets that the device may write.
    room: u32,
}

/// A ring.
pub struct PackedRing {
    size: u16,
    descriptors: u64,
    event_idx: bool,
    in_order: bool,
    free_ids: VecDeque<u16>,
    free: usize,
    /// With the device, in the order of becoming available.
    out: VecDeque<Chain>,
    /// Came back and were not asked for yet.
    back: VecDeque<Used>,
    next_available: Position,
    /// First descriptor that the device cannot see yet, and its flags.
    hidden: Option<(Position, u16)>,
    /// Descriptors from there on.
    added: u16,
    next_used: Position,
}

impl PackedRing {
    /// A ring of `size` descriptors without a place.
    pub fn new(size: u16) -> PackedRing {
        PackedRing {
            size,
            descriptors: 0,
            event_idx: false,
            in_order: false,
            free_ids: VecDeque::new(),
            free: 0,
            out: VecDeque::new(),
            back: VecDeque::new(),
            next_available: Position::START,
            hidden: None,
            added: 0,
            next_used: Position::START,
        }
    }

    /// Octets that the ring takes, when it begins at a multiple of 16.
    pub fn octets(size: u16) -> u64 {
        16 * u64::from(size) + 8
    }

    /// Lays the ring out at `addr`.
    pub fn place(&mut self, addr: u64) {
        self.descriptors = addr;
    }

    /// Begins anew: nothing is available, nothing was used.
    pub fn reset(&mut self, memory: &Memory, features: u64) {
        let (size, descriptors) = (self.size, self.descriptors);
        memory.write(descriptors, &vec![0; PackedRing::octets(size) as usize]);
        *self = PackedRing { descriptors, free: size.into(), free_ids: (0..size).collect(), ..PackedRing::new(size) };
        self.event_idx = features & EVENT_IDX != 0;
        self.in_order = features & IN_ORDER != 0;
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Guest addresses of the ring, the device's and the driver's event suppression.
    pub fn addrs(&self) -> (u64, u64, u64) {
        let events = self.descriptors + 16 * u64::from(self.size);
        (self.descriptors, events + 4, events)
    }

    /// How many chains are with the device.
    pub fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// As vhost-user has it of a device that took nothing which it has not used: both positions.
    pub fn base(&self) -> u32 {
        u32::from(self.next_used.word()) | u32::from(self.next_used.word()) << 16
    }

    /// The id that the next chain will have, if `descriptors` are free.
    #[inline]
    pub fn next_head(&self, descriptors: usize) -> Option<u16> {
        if self.free < descriptors { None } else { self.free_ids.front().copied() }
    }

    /// Adds a chain, see [`super::split::SplitRing::add`]. Returns its id.
    pub fn add(&mut self, memory: &Memory, pieces: &[Piece], writable: bool, table: Option<u64>) -> Option<u16> {
        let descriptors = if table.is_some() { 1 } else { pieces.len() };
        let id = self.next_head(descriptors)?;
        self.free_ids.pop_front();
        let write = if writable { WRITE } else { 0 };
        let first = self.next_available;
        let head_flags;
        match table {
            Some(table) => {
                for (at, piece) in (0..).zip(pieces) {
                    describe(memory, table + 16 * at, *piece, 0);
                    memory.store16(table + 16 * at + 14, write);
                }
                describe(memory, self.at(first), Piece { addr: table, len: 16 * pieces.len() as u32 }, id);
                head_flags = INDIRECT | turn(first);
                self.next_available = first.ahead(1, self.size);
            }
            None => {
                for (at, piece) in pieces.iter().enumerate() {
                    let more = if at + 1 < pieces.len() { NEXT } else { 0 };
                    describe(memory, self.at(self.next_available), *piece, id);
                    if at > 0 {
                        memory.store16(self.at(self.next_available) + 14, write | more | turn(self.next_available));
                    }
                    self.next_available = self.next_available.ahead(1, self.size);
                }
                head_flags = write | if pieces.len() > 1 { NEXT } else { 0 } | turn(first);
            }
        }
        match self.hidden {
            None => self.hidden = Some((first, head_flags)),
            Some(_) => memory.store16(self.at(first) + 14, head_flags),
        }
        self.free -= descriptors;
        self.added += descriptors as u16;
        let room = if writable { pieces.iter().map(|piece| piece.len).sum() } else { 0 };
        self.out.push_back(Chain { id, descriptors: descriptors as u16, room });
        Some(id)
    }

    fn at(&self, position: Position) -> u64 {
        self.descriptors + 16 * u64::from(position.index)
    }

    /// Shows the device what was added. True: it wants to be kicked.
    #[inline]
    pub fn publish(&mut self, memory: &Memory) -> bool {
        let Some((first, flags)) = self.hidden.take() else { return false };
        memory.store16(self.at(first) + 14, flags);
        let added = std::mem::take(&mut self.added);
        fence(Ordering::SeqCst);
        let (_, device, _) = self.addrs();
        match memory.load16(device + 2) & 3 {
            DISABLE => false,
            DESC if self.event_idx => {
                let event = memory.load16(device);
                (0..added).any(|by| first.ahead(by, self.size).word() == event)
            }
            _ => true,
        }
    }

    /// Whether something came back.
    #[inline]
    pub fn has_used(&self, memory: &Memory) -> bool {
        let flags = memory.load16(self.at(self.next_used) + 14);
        let used = (flags & AVAIL != 0) == self.next_used.wrap && (flags & USED != 0) == self.next_used.wrap;
        !self.back.is_empty() || used
    }

    /// Asks to be called when something comes back, or not to be. True: something is there already.
    #[inline]
    pub fn want_calls(&mut self, memory: &Memory, wanted: bool) -> bool {
        let (_, _, driver) = self.addrs();
        if wanted && self.event_idx {
            memory.store16(driver, self.next_used.word());
        }
        let event = if self.event_idx { DESC } else { ENABLE };
        memory.store16(driver + 2, if wanted { event } else { DISABLE });
        fence(Ordering::SeqCst);
        self.has_used(memory)
    }

    /// Takes the next buffer that came back.
    #[track_caller]
    #[inline]
    pub fn take(&mut self, memory: &Memory) -> Option<Used> {
        if self.back.is_empty() && self.has_used(memory) {
            self.take_element(memory);
        }
        self.back.pop_front()
    }

    #[track_caller]
    fn take_element(&mut self, memory: &Memory) {
        let at = self.at(self.next_used);
        let (len, id) = (memory.load32(at + 8), memory.load16(at + 12));
        let place = self.out.iter().position(|chain| chain.id == id);
        let place =
            place.unwrap_or_else(|| panic!("id {id} came back, which the device does not have: {:?}", self.out));
        assert!(place == 0 || self.in_order, "id {id} came back before {place} older ones");
        for earlier in (0..=place).rev() {
            let Some(chain) = self.out.pop_front() else { break };
            let written = if earlier == 0 { len } else { chain.room };
            assert!(written <= chain.room, "{written} octets were written to {chain:?}");
            self.back.push_back(Used { head: chain.id, len: written });
            self.free += usize::from(chain.descriptors);
            self.free_ids.push_back(chain.id);
            self.next_used = self.next_used.ahead(chain.descriptors, self.size);
        }
    }
}

/// Writes a descriptor but for its flags.
fn describe(memory: &Memory, at: u64, piece: Piece, id: u16) {
    let mut octets = [0; 14];
    octets[..8].copy_from_slice(&piece.addr.to_le_bytes());
    octets[8..12].copy_from_slice(&piece.len.to_le_bytes());
    octets[12..].copy_from_slice(&id.to_le_bytes());
    memory.write(at, &octets);
}
