//! The model of the 82599 as a card of the worker, for tests.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::card::{CardModel, CardSettings, CardState, GUESTS, guest_iova};
use sv3_nic_model::{Card, Memory, Pf, PfSettings, Vf, VfSettings};

use super::bar::{Bar, GONE};
use super::card::Registers;
use super::memory::CardMemory;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::mapping::Mapping;
use crate::memory::slice::GuestSlice;

/// A card with its wire and its memory.
#[derive(Clone)]
pub struct ModelCard(Arc<Mutex<Inner>>);

/// The model and its memory.
pub struct Inner {
    /// The model.
    pub card: Box<dyn Card + Send>,
    /// What it reaches.
    pub memory: Dma,
    is_gone: bool,
}

/// What the card reaches: a part of its own memory, and guests' memory to read.
pub struct Dma(CardMemory, Vec<GuestMemory>);

impl Dma {
    fn offset(&self, iova: u64, len: usize) -> Option<usize> {
        let behind = usize::try_from(iova.checked_sub(self.0.settings().iova)?).ok()?;
        let end = behind.checked_add(len)?;
        (end <= self.0.settings().dma_size()).then_some(size_of::<CardState>() + behind)
    }

    fn guest(&self, iova: u64, len: usize) -> Option<GuestSlice<'_>> {
        let of = |memory: &'_ GuestMemory| {
            let mut offsets = memory.mappings().map(|it| (it.region().guest_addr, iova.wrapping_sub(at(it))));
            let (begin, offset) = offsets.find(|(_, offset)| *offset < 1 << 30)?;
            Some(begin + offset)
        };
        self.1.iter().find_map(|memory| memory.slice(of(memory)?, len as u64))
    }
}

/// Where the card sees a mapping.
fn at(mapping: &Mapping) -> u64 {
    guest_iova(mapping.pages().0)
}

impl Memory for Dma {
    fn read(&mut self, iova: u64, to: &mut [u8]) -> bool {
        if iova >= GUESTS {
            return self.guest(iova, to.len()).is_some_and(|from| from.read(0, to) == to.len());
        }
        self.offset(iova, to.len()).is_some_and(|at| self.0.slice(at, to.len()).read(0, to) == to.len())
    }

    fn write(&mut self, iova: u64, from: &[u8]) -> bool {
        self.offset(iova, from.len()).is_some_and(|at| self.0.slice(at, from.len()).write(0, from) == from.len())
    }
}

/// A file for the memory of a card.
pub fn file(settings: &CardSettings) -> OwnedFd {
    let file = memfd_create(c"card", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, settings.file_size() as i64).unwrap();
    file
}

impl ModelCard {
    /// A card that has just got power, whose memory is this file.
    pub fn new(file: &OwnedFd, settings: CardSettings) -> ModelCard {
        let memory = Dma(CardMemory::new(file, settings).unwrap(), Vec::new());
        let trusted = VfSettings { trusted: true, spoof_check: false, ..VfSettings::default() };
        let card: Box<dyn Card + Send> = match settings.model {
            CardModel::Ixgbe => Box::new(Pf::new(PfSettings::default())),
            CardModel::IxgbeVf | CardModel::IgbVf => Box::new(Vf::new(trusted)),
        };
        ModelCard(Arc::new(Mutex::new(Inner { card, memory, is_gone: false })))
    }

    /// The card may read a guest's memory from now on, and no other guest's.
    pub fn reach(&self, guest: Option<&GuestMemory>) {
        self.inner().memory.1 = guest.into_iter().cloned().collect();
    }

    /// Its registers.
    pub fn registers(&self) -> Registers {
        Registers::Simulated(Box::new(self.clone()))
    }

    /// The model.
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A frame comes from the wire.
    pub fn receive(&self, frame: &[u8]) -> bool {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.receive(frame, memory)
    }

    /// All frames that the card has sent.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        let mut inner = self.inner();
        std::iter::from_fn(|| inner.card.sent()).collect()
    }

    /// How many frames the card has sent.
    pub fn count_sent(&self) -> usize {
        let mut count = 0;
        self.inner().card.take_sent(&mut |_| count += 1);
        count
    }

    /// Vectors that were raised since the last call, a bit each.
    pub fn interrupts(&self) -> u32 {
        self.inner().card.interrupts()
    }

    /// The card is reset by somebody.
    pub fn reset(&self) {
        self.inner().card.reset();
    }

    /// The other end of the wire takes nothing.
    pub fn set_paused(&self, paused: bool) {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.set_paused(paused, memory);
    }

    /// What the supervisor does between two workers.
    pub fn set_bus_master(&self, on: bool) {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.set_bus_master(on, memory);
    }

    /// The wire is plugged in or pulled out.
    pub fn set_link(&self, up: bool) {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.set_link(up, memory);
    }

    /// The card is pulled out of its slot.
    pub fn pull_out(&self) {
        self.inner().is_gone = true;
    }

    /// Time passes.
    pub fn pass_time(&self, microseconds: u32) {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.pass_time(microseconds, memory);
    }

    /// Fails if the driver made an error.
    pub fn assert_content(&self) {
        assert_eq!(self.inner().card.complaints(), [] as [String; 0]);
    }
}

impl Bar for ModelCard {
    fn read(&self, at: u32) -> u32 {
        let mut inner = self.inner();
        if inner.is_gone { GONE } else { inner.card.read(at, 4) as u32 }
    }

    fn write(&self, at: u32, value: u32) {
        let Inner { card, memory, .. } = &mut *self.inner();
        card.write(at, 4, value.into(), memory);
    }
}
