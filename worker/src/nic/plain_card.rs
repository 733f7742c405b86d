//! A card in a few lines, for unit tests of queues: it moves frames as they are, and tells what it was asked to do with
//! them. The whole card is in `sv3_nic_model`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::card::{CardModel, CardSettings};

use super::bar::Bar;
use super::card::{Card, Registers};
use super::descriptor::{Words, status};
use super::memory::CardMemory;
use super::queue_registers::{ENABLE, QueueRegisters};

/// Where the registers of its queues are.
pub const RECEIVE: u32 = 0x1000;
/// The same.
pub const TRANSMIT: u32 = 0x6000;

/// A frame that the card was told to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its octets, as they lay in memory.
    pub frame: Vec<u8>,
    /// The second word of its first descriptor, without lengths.
    pub options: u64,
    /// The last context descriptor before it.
    pub context: Option<Words>,
}

/// The card.
#[derive(Clone, Default)]
pub struct PlainCard(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    registers: BTreeMap<u32, u32>,
    context: Option<Words>,
}

/// Settings of a small card.
pub fn settings() -> CardSettings {
    CardSettings {
        model: CardModel::Ixgbe,
        bar_offset: 0,
        bar_size: 512 << 10,
        iova: 0x1000_0000,
        pairs: 1,
        descriptors: 128,
        buffer: 2048,
        transmit: 256 << 10,
        mtu: 9000,
        lro: false,
        zero_copy: false,
        mac: None,
        run: 1,
    }
}

/// Memory for a card with these settings.
pub fn memory(settings: CardSettings) -> CardMemory {
    let file = memfd_create(c"card", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, settings.file_size() as i64).unwrap();
    CardMemory::new(&file, settings).unwrap()
}

impl Bar for PlainCard {
    fn read(&self, at: u32) -> u32 {
        self.get(at)
    }

    fn write(&self, at: u32, value: u32) {
        self.0.lock().unwrap().registers.insert(at, value);
    }
}

impl PlainCard {
    /// A card with its memory.
    pub fn card(&self, memory: CardMemory) -> Card {
        Card { bar: Registers::Simulated(Box::new(self.clone())), memory }
    }

    /// A register.
    pub fn get(&self, at: u32) -> u32 {
        self.0.lock().unwrap().registers.get(&at).copied().unwrap_or(0)
    }

    /// The card is stopped.
    pub fn stop(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.registers.clear();
        inner.context = None;
    }

    fn queue(base: u32) -> QueueRegisters {
        QueueRegisters::at(base, 0)
    }

    fn address(&self, low: u32, high: u32) -> u64 {
        u64::from(self.get(high)) << 32 | u64::from(self.get(low))
    }

    fn offset(memory: &CardMemory, address: u64) -> usize {
        let behind = address.checked_sub(memory.settings().iova).expect("DMA below the memory") as usize;
        assert!(behind < memory.settings().dma_size(), "DMA behind the memory");
        size_of::<sv3::card::CardState>() + behind
    }

    /// The next descriptor of a ring, if the card has one; it moves its head.
    fn next(&self, memory: &CardMemory, base: u32) -> Option<usize> {
        let it = PlainCard::queue(base);
        let (head, tail) = (self.get(it.head), self.get(it.tail));
        if self.get(it.control) & ENABLE == 0 || head == tail {
            return None;
        }
        self.write(it.head, (head + 1) % (self.get(it.length) / 16));
        Some(PlainCard::offset(memory, self.address(it.base_low, it.base_high) + u64::from(head) * 16))
    }

    /// Octets arrive in the next descriptor, with this status. False: there is none.
    pub fn part(&self, memory: &CardMemory, octets: &[u8], status: u32, joined: u16) -> bool {
        let Some(at) = self.next(memory, RECEIVE) else { return false };
        let descriptor = memory.slice(at, 16);
        let [buffer, high] = descriptor.read_words(0).unwrap();
        assert_eq!(high, 0, "a descriptor that is not ready");
        assert_eq!(memory.slice(PlainCard::offset(memory, buffer), octets.len()).write(0, octets), octets.len());
        let words = super::descriptor::WriteBack::words(octets.len() as u16, status, joined);
        descriptor.write(0, &words.map(u64::to_le_bytes).concat());
        true
    }

    /// A frame arrives.
    pub fn receive(&self, memory: &CardMemory, frame: &[u8]) -> bool {
        self.receive_with(memory, frame, status::CHECKED)
    }

    /// The same, with this status.
    pub fn receive_with(&self, memory: &CardMemory, frame: &[u8], status: u32) -> bool {
        let mut parts = frame.chunks(memory.settings().buffer.into()).peekable();
        while let Some(part) = parts.next() {
            let status = if parts.peek().is_none() { status | status::LAST } else { 0 };
            if !self.part(memory, part, status, 0) {
                return false;
            }
        }
        true
    }

    /// Sends up to `most` frames.
    pub fn send(&self, memory: &CardMemory, most: usize) -> Vec<Told> {
        let (mut all, mut frame, mut options) = (Vec::new(), Vec::new(), None);
        let it = PlainCard::queue(TRANSMIT);
        while all.len() < most
            && let Some(at) = self.next(memory, TRANSMIT)
        {
            let words: Words = memory.slice(at, 16).read_words(0).unwrap();
            let (kind, len) = (words[1] >> 20 & 0xf, (words[1] & 0xffff) as usize);
            match kind {
                2 => self.0.lock().unwrap().context = Some(words),
                3 => {
                    let mut octets = vec![0; len];
                    assert_eq!(memory.slice(PlainCard::offset(memory, words[0]), len).read(0, &mut octets), len);
                    frame.extend(octets);
                    options.get_or_insert(words[1] & !(0xffff | 1 << 24 | 1 << 27));
                }
                _ => panic!("a descriptor of type {kind}"),
            }
            if words[1] & 1 << 24 != 0 {
                let context = self.0.lock().unwrap().context;
                all.push(Told { frame: std::mem::take(&mut frame), options: options.take().unwrap(), context });
            }
            if words[1] & 1 << 27 != 0 {
                let to = self.address(it.write_back_low, it.write_back_high);
                assert_eq!(to & 1, 1);
                memory.slice(PlainCard::offset(memory, to & !1), 4).write(0, &self.get(it.head).to_le_bytes());
            }
        }
        all
    }
}

/// A frame of `len` octets that a number tells from others.
pub fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = [&[2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], &number.to_be_bytes()[..]].concat();
    frame.extend((frame.len()..len.max(18)).map(|at| at as u8 ^ number as u8));
    frame
}
