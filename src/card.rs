//! A network card that the worker drives: how it is to be used, and its memory.
//!
//! # Theory of operation
//!
//! The supervisor makes a sealed memfd for each card and maps the part behind [`CardState`] for the card's DMA, at
//! [`CardSettings::iova`]. Nothing else is mapped, so the card can read and write nothing else, whatever a worker or the
//! card itself does. The memory lives as long as the port. A worker that dies leaves it to the next one, with the state
//! in front of it: what the card has received and nobody has forwarded, and what the worker has sent and the card has
//! not read, is found there.
//!
//! The card stops between two workers. The supervisor turns its interrupts and its bus master off. The next worker
//! prepares the rings ([`crate::ipc::Command::CardOpen`]), the supervisor lets the card reach its memory again, and the
//! worker starts the rings ([`crate::ipc::Command::CardStart`]).

use std::sync::atomic::{AtomicU32, AtomicU64};

use serde::{Deserialize, Serialize};

use crate::MAX_QUEUE_PAIRS;

/// Octets of one descriptor of any of these cards.
pub const DESCRIPTOR: usize = 16;
/// Rings and areas begin at a multiple of this.
pub const ALIGN: usize = 4096;
/// Where a card sees guests' memory, if it may read it ([`CardSettings::zero_copy`]): from here on, as many octets. An
/// IOMMU whose addresses have 39 bits, the fewest of x86, has them, and no interrupts lie there.
pub const GUESTS: u64 = 1 << 38;
/// Number of statistics that a worker can keep of a card.
pub const STATISTICS: usize = 64;

/// Which card it is: which registers it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardModel {
    /// Intel 82599 and X540, the physical function.
    Ixgbe,
    /// A virtual function of them.
    IxgbeVf,
    /// A virtual function of the Intel 82576.
    IgbVf,
}

/// How the worker uses a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardSettings {
    /// Which card.
    pub model: CardModel,
    /// Where BAR 0 begins in the device's file.
    pub bar_offset: u64,
    /// Octets of BAR 0.
    pub bar_size: u32,
    /// Where the card sees the memory behind [`CardState`].
    pub iova: u64,
    /// Queue pairs, 1 to [`MAX_QUEUE_PAIRS`].
    pub pairs: u16,
    /// Descriptors of each ring: a multiple of 128 up to 4,096.
    pub descriptors: u16,
    /// Octets of each receive buffer: 2,048 to 16,384, a multiple of 1,024.
    pub buffer: u16,
    /// Octets for frames to be sent, of each pair: a multiple of [`ALIGN`], at least two of the longest frames.
    pub transmit: u32,
    /// Most octets of a frame's payload that the network takes.
    pub mtu: u16,
    /// The card may join received segments (RSC).
    pub lro: bool,
    /// The card reads what guests send in their own memory.
    pub zero_copy: bool,
    /// The card's own address, if the person chose one.
    pub mac: Option<[u8; 6]>,
    /// Counts the openings of the card, from 1. A replay to another worker has the same number: that one goes on with
    /// what the memory holds. A new number: the memory holds nothing.
    pub run: u32,
}

/// Where things lie in the memory of one queue pair, in octets from the beginning of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairLayout {
    /// Receive descriptors.
    pub receive_ring: usize,
    /// Transmit descriptors.
    pub transmit_ring: usize,
    /// A page for what the card writes back beside descriptors (transmit head).
    pub write_back: usize,
    /// Receive buffers, one for each descriptor.
    pub buffers: usize,
    /// Frames to be sent.
    pub transmit: usize,
}

impl CardSettings {
    /// Octets of one pair's part.
    fn pair_size(&self) -> usize {
        let ring = (usize::from(self.descriptors) * DESCRIPTOR).next_multiple_of(ALIGN);
        let buffers = (usize::from(self.descriptors) * usize::from(self.buffer)).next_multiple_of(ALIGN);
        2 * ring + ALIGN + buffers + self.transmit as usize
    }

    /// Octets of the whole file.
    pub fn file_size(&self) -> usize {
        size_of::<CardState>() + self.dma_size()
    }

    /// Octets that the card can reach: all behind [`CardState`].
    pub fn dma_size(&self) -> usize {
        usize::from(self.pairs) * self.pair_size()
    }

    /// The layout of a pair below [`CardSettings::pairs`].
    pub fn layout(&self, pair: u16) -> PairLayout {
        let ring = (usize::from(self.descriptors) * DESCRIPTOR).next_multiple_of(ALIGN);
        let buffers = (usize::from(self.descriptors) * usize::from(self.buffer)).next_multiple_of(ALIGN);
        let receive_ring = size_of::<CardState>() + usize::from(pair) * self.pair_size();
        let transmit_ring = receive_ring + ring;
        let write_back = transmit_ring + ring;
        PairLayout {
            receive_ring,
            transmit_ring,
            write_back,
            buffers: write_back + ALIGN,
            transmit: write_back + ALIGN + buffers,
        }
    }

    /// Where the card sees what is `offset` octets from the beginning of the file.
    pub fn iova_of(&self, offset: usize) -> u64 {
        self.iova.wrapping_add(offset as u64).wrapping_sub(size_of::<CardState>() as u64)
    }
}

/// Where a card sees memory that the worker has at an address. Different addresses of one worker are the same here only
/// if they are 256 GiB apart; then the kernel refuses the second mapping.
#[inline]
pub fn guest_iova(address: usize) -> u64 {
    GUESTS | address as u64 & (GUESTS - 1)
}

/// What outlives a worker, in front of the memory that the card reaches. The worker writes it. The supervisor reads it as
/// hostile numbers. All zeroes is valid.
#[repr(C, align(4096))]
pub struct CardState {
    /// The run ([`CardSettings::run`]) to which it belongs; 0: none.
    pub run: AtomicU32,
    /// Speed of the link in Mbit/s; 0: no link.
    pub link: AtomicU32,
    /// The card's address, first octet highest.
    pub mac: AtomicU64,
    /// What the card counts and the worker has read so far ([`Statistic`]).
    pub statistics: [AtomicU64; STATISTICS],
    /// Each pair.
    pub pairs: [PairState; MAX_QUEUE_PAIRS],
}

/// The state of one pair. Only the worker knows how the words are used.
#[repr(C, align(256))]
pub struct PairState {
    /// Positions, each in one word, so that a new worker never sees half of a change.
    pub words: [AtomicU64; 32],
}

/// What a card counts, as the data sheets name it. The number is its place in [`CardState::statistics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Statistic {
    /// Good frames received (GPRC).
    GoodReceived,
    /// Octets of them (GORC).
    GoodOctetsReceived,
    /// Good frames sent (GPTC).
    GoodTransmitted,
    /// Octets of them (GOTC).
    GoodOctetsTransmitted,
    /// Multicast frames received (MPRC, MRFC).
    MulticastReceived,
    /// Broadcast frames received (BPRC).
    BroadcastReceived,
    /// Frames that found no room in the card (MPC).
    Missed,
    /// Frames that found no descriptor (QPRDC, RNBC).
    NoDescriptor,
    /// Frames with a bad checksum of Ethernet (CRCERRS).
    CrcErrors,
    /// Frames with an error of length (RLEC, RUC, RFC, ROC, RJC).
    LengthErrors,
    /// Frames with an illegal octet (ILLERRC) or an error octet (ERRBC).
    SymbolErrors,
    /// Received with a bad checksum of IP, TCP or UDP (XEC).
    ChecksumErrors,
    /// Pause frames received (LXONRXC, LXOFFRXC).
    PausesReceived,
    /// Resets that the card or its physical function made by itself.
    Resets,
    /// Changes of the link.
    LinkChanges,
    /// Frames to the card that were left in their sender's memory. The worker counts them.
    ZeroCopy,
}

impl Statistic {
    /// All of them, and the name of each for people and programs.
    pub const ALL: [(Statistic, &'static str); 16] = [
        (Statistic::GoodReceived, "good_received"),
        (Statistic::GoodOctetsReceived, "good_octets_received"),
        (Statistic::GoodTransmitted, "good_transmitted"),
        (Statistic::GoodOctetsTransmitted, "good_octets_transmitted"),
        (Statistic::MulticastReceived, "multicast_received"),
        (Statistic::BroadcastReceived, "broadcast_received"),
        (Statistic::Missed, "missed"),
        (Statistic::NoDescriptor, "no_descriptor"),
        (Statistic::CrcErrors, "crc_errors"),
        (Statistic::LengthErrors, "length_errors"),
        (Statistic::SymbolErrors, "symbol_errors"),
        (Statistic::ChecksumErrors, "checksum_errors"),
        (Statistic::PausesReceived, "pauses_received"),
        (Statistic::Resets, "resets"),
        (Statistic::LinkChanges, "link_changes"),
        (Statistic::ZeroCopy, "zero_copy"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_of_all_pairs_follow_each_other() {
        let settings = CardSettings {
            model: CardModel::Ixgbe,
            bar_offset: 0,
            bar_size: 512 * 1024,
            iova: 0x1000_0000,
            pairs: 3,
            descriptors: 2048,
            buffer: 2048,
            transmit: 1 << 20,
            mtu: 1500,
            lro: false,
            zero_copy: false,
            mac: None,
            run: 1,
        };
        let mut end = size_of::<CardState>();
        for pair in 0..settings.pairs {
            let it = settings.layout(pair);
            let starts = [it.receive_ring, it.transmit_ring, it.write_back, it.buffers, it.transmit];
            assert_eq!(starts[0], end);
            assert!(starts.is_sorted() && starts.iter().all(|at| at % ALIGN == 0), "{it:?}");
            assert_eq!(it.transmit - it.buffers, 2048 * 2048);
            end = it.transmit + settings.transmit as usize;
        }
        assert_eq!(end, settings.file_size());
        assert_eq!(settings.iova_of(settings.layout(0).receive_ring), settings.iova);
        // With the default limit of locked memory, one pair fits.
        assert!(CardSettings { pairs: 1, ..settings }.dma_size() < 8 << 20);
    }

    #[test]
    fn each_statistic_has_its_place() {
        for (at, (statistic, _)) in Statistic::ALL.iter().enumerate() {
            assert_eq!(*statistic as usize, at);
        }
        const { assert!(Statistic::ALL.len() <= STATISTICS) };
    }
}
