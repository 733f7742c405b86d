//! The memory of a card ([`sv3::card`]): the worker's state in front, and what the card reads and writes behind it.
//!
//! The card writes at any time and is hostile. So all accesses are atomic or by [`GuestSlice`], and what was read is
//! checked like a guest's.
#![allow(unsafe_code)] // shared memory

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use sv3::card::{CardSettings, CardState};

use crate::memory::slice::GuestSlice;

/// A card's memory, mapped.
pub struct CardMemory {
    map: MmapRaw,
    settings: CardSettings,
}

impl CardMemory {
    /// Maps the whole file, which has at least [`CardSettings::file_size`] octets. The file may be closed afterwards.
    pub fn new(file: &OwnedFd, settings: CardSettings) -> io::Result<CardMemory> {
        let map = MmapOptions::new().len(settings.file_size()).map_raw(file.as_raw_fd())?;
        Ok(CardMemory { map, settings })
    }

    /// How the card is used.
    pub fn settings(&self) -> &CardSettings {
        &self.settings
    }

    /// The state that outlives the worker.
    pub fn state(&self) -> &CardState {
        // SAFETY: the file is larger than the state, is mapped from its beginning at a page border, and lives as long
        // as `self`. The state consists of atomics, for which any bits are valid.
        unsafe { &*self.map.as_ptr().cast::<CardState>() }
    }

    /// A view of `[offset, offset + len)` of the file; empty if it does not lie in the file.
    pub fn slice(&self, offset: usize, len: usize) -> GuestSlice<'_> {
        GuestSlice::of_shared(self.octets(offset, len))
    }

    fn octets(&self, offset: usize, len: usize) -> &[AtomicU8] {
        match offset.checked_add(len) {
            // SAFETY: the range lies in the mapping, which lives as long as `self`, and is accessed as atomics.
            Some(end) if end <= self.map.len() => unsafe {
                std::slice::from_raw_parts(self.map.as_ptr().add(offset).cast(), len)
            },
            _ => &[],
        }
    }

    /// `count` descriptors of a ring at `offset`, two words of eight octets each; none if they do not lie in the file.
    pub fn ring(&self, offset: usize, count: usize) -> &[[AtomicU64; 2]] {
        let end = count.checked_mul(size_of::<[AtomicU64; 2]>()).and_then(|len| offset.checked_add(len));
        match end {
            // SAFETY: as above; the offset is aligned for the words.
            Some(end) if end <= self.map.len() && offset.is_multiple_of(8) => unsafe {
                std::slice::from_raw_parts(self.map.as_ptr().add(offset).cast(), count)
            },
            _ => &[],
        }
    }
}
