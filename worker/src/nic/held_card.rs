//! The model of a card whose work a measurement leaves out: writes to its registers wait for the measured part to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use sv3::card::{CardModel, CardSettings};

use super::bar::Bar;
use super::card::{Card, Registers};
use super::device::Device;
use super::memory::CardMemory;
use super::model_card::{ModelCard, file};

/// A model, and the writes that wait.
#[derive(Clone)]
pub struct HeldCard {
    /// The model.
    pub model: ModelCard,
    waits: Arc<AtomicBool>,
    /// Offset and value of each write that waits. A burst makes one.
    writes: Arc<[AtomicU64; 4]>,
}

impl Bar for HeldCard {
    fn read(&self, at: u32) -> u32 {
        self.model.read(at)
    }

    fn write(&self, at: u32, value: u32) {
        match self.waits.load(Relaxed) {
            true => {
                let free = self.writes.iter().find(|place| place.load(Relaxed) == 0).unwrap();
                free.store(u64::from(at) << 32 | u64::from(value), Relaxed);
            }
            false => self.model.write(at, value),
        }
    }
}

impl HeldCard {
    /// An 82599 that runs, with one queue pair whose queues are off. It may read guests' memory, or not.
    pub fn started(zero_copy: bool) -> (HeldCard, Arc<Card>, Device) {
        let settings = settings(zero_copy);
        let file = file(&settings);
        let model = ModelCard::new(&file, settings);
        let held = HeldCard { model, waits: Arc::default(), writes: Arc::default() };
        let card = Card {
            bar: Registers::Simulated(Box::new(held.clone())),
            memory: CardMemory::new(&file, settings).unwrap(),
        };
        let mut device = Device::open(&card.bar, &card.memory).unwrap();
        device.start(&card.bar).unwrap();
        (held, Arc::new(card), device)
    }

    /// Writes wait, or reach the model.
    pub fn hold(&self, holds: bool) {
        self.waits.store(holds, Relaxed);
        for place in &*self.writes {
            let write = place.swap(0, Relaxed);
            if write != 0 {
                self.model.write((write >> 32) as u32, write as u32);
            }
        }
    }
}

fn settings(zero_copy: bool) -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 512 << 10,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 2048,
        buffer: 2048,
        transmit: 2 << 20,
        mtu: 1500,
        lro: false,
        zero_copy,
        mac: None,
        run: 1,
    }
}

/// A frame of so many octets, from one station to another.
pub fn frame(octets: u32) -> Vec<u8> {
    let mut frame = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1]].concat();
    frame.resize(octets as usize, 0);
    frame
}
