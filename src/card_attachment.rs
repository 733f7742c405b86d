//! A network card that is to become a port: what a person asks for, in the words of the control socket.
//!
//! Whoever has the right to the card opens it (VFIO), makes its memory ([`crate::card`]) and maps that for the card's
//! DMA, and passes the open files with a [`CardAttachment`]: the container, the device, the memory, and an eventfd for
//! each interrupt. The supervisor checks what the kernel says of them.

use std::fmt;

use crate::MAX_QUEUE_PAIRS;
use crate::attachment::{Attachment, Learning};
use crate::card::{ALIGN, CardModel, CardSettings};
use crate::frame::MacAddr;

/// Where the card sees its memory. Below the addresses of interrupts (0xFEE0_0000), which no IOMMU of x86 maps.
pub const IOVA: u64 = 0x1000_0000;

/// A card to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardAttachment {
    /// The name of the port, as for [`Attachment::name`].
    pub name: String,
    /// The device's address on the PCI bus, such as `0000:02:00.1`: for people.
    pub address: String,
    /// Queue pairs, 1 to [`MAX_QUEUE_PAIRS`].
    pub pairs: u16,
    /// Descriptors of each ring: a multiple of 128, 128 to 4,096.
    pub descriptors: u16,
    /// Octets of each receive buffer: a multiple of 1,024, 2,048 to 16,384.
    pub buffer: u16,
    /// Octets for frames to be sent, of each pair: a multiple of [`ALIGN`], 256 KiB to 16 MiB.
    pub transmit: u32,
    /// Most octets of a frame's payload that the network takes, 68 to 9,500.
    pub mtu: u16,
    /// The card may join received segments.
    pub lro: bool,
    /// The card reads what guests send in their own memory.
    pub zero_copy: bool,
    /// An address for the card in the place of its own.
    pub mac: Option<MacAddr>,
    /// Which addresses the port may take.
    pub learning: Learning,
}

impl CardAttachment {
    /// The largest MTU of these cards.
    pub const MTU_MAX: u16 = 9_500;

    /// What a person who says nothing gets: its memory fits into 8 MiB, the usual limit of locked memory.
    pub fn new(name: &str, address: &str) -> CardAttachment {
        CardAttachment {
            name: name.to_string(),
            address: address.to_string(),
            pairs: 1,
            descriptors: 2048,
            buffer: 2048,
            transmit: 2 << 20,
            mtu: 1500,
            lro: false,
            zero_copy: false,
            mac: None,
            learning: Learning::Uplink,
        }
    }

    /// How many files come with it, in this order: container, device, memory, an eventfd that tells that the host wants
    /// the device back, one for each pair, and one for the link and all else.
    pub fn files(&self) -> usize {
        5 + usize::from(self.pairs)
    }

    /// How a worker uses the card.
    pub fn settings(&self, model: CardModel, (bar_offset, bar_size): (u64, u32), run: u32) -> CardSettings {
        let CardAttachment { pairs, descriptors, buffer, transmit, mtu, lro, zero_copy, mac, .. } = self;
        CardSettings {
            model,
            bar_offset,
            bar_size,
            iova: IOVA,
            pairs: *pairs,
            descriptors: *descriptors,
            buffer: *buffer,
            transmit: *transmit,
            mtu: *mtu,
            lro: *lro,
            zero_copy: *zero_copy,
            mac: mac.map(MacAddr::octets),
            run,
        }
    }

    /// Whether all is within its bounds.
    pub fn is_valid(&self) -> bool {
        Attachment::is_name(&self.name)
            && is_address(&self.address)
            && (1..=MAX_QUEUE_PAIRS as u16).contains(&self.pairs)
            && (128..=4096).contains(&self.descriptors)
            && self.descriptors.is_multiple_of(128)
            && (2048..=16_384).contains(&self.buffer)
            && self.buffer.is_multiple_of(1024)
            && (256 << 10..=16 << 20).contains(&self.transmit)
            && (self.transmit as usize).is_multiple_of(ALIGN)
            && (68..=CardAttachment::MTU_MAX).contains(&self.mtu)
            && self.mac.is_none_or(|mac| !mac.is_group() && !mac.is_zero())
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(words: &str) -> Option<CardAttachment> {
        let mut words = words.split(' ');
        let mut it = CardAttachment::new(words.next()?, words.next()?);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("pairs", value) => it.pairs = value.parse().ok()?,
                ("descriptors", value) => it.descriptors = value.parse().ok()?,
                ("buffer", value) => it.buffer = value.parse().ok()?,
                ("transmit", value) => it.transmit = value.parse().ok()?,
                ("mtu", value) => it.mtu = value.parse().ok()?,
                ("lro", "") => it.lro = true,
                ("zero-copy", "") => it.zero_copy = true,
                ("mac", value) => it.mac = Some(parse_mac(value)?),
                ("learning", "free") => it.learning = Learning::Free,
                ("learning", "guarded") => it.learning = Learning::Guarded,
                _ => return None,
            }
        }
        it.is_valid().then_some(it)
    }
}

/// Reads an address in the form `02:00:00:00:00:01`.
pub fn parse_mac(words: &str) -> Option<MacAddr> {
    let octets: Option<Vec<u8>> = words.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    Some(MacAddr::new(octets?.try_into().ok()?))
}

/// Whether these words are an address on the PCI bus.
pub fn is_address(words: &str) -> bool {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|octet| octet.is_ascii_hexdigit());
    let parts: Vec<&str> = words.split([':', '.']).collect();
    matches!(parts[..], [domain, bus, device, function]
        if hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1) && words.get(10..11) == Some("."))
}

impl fmt::Display for CardAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CardAttachment { name, address, pairs, descriptors, buffer, transmit, mtu, .. } = self;
        write!(f, "{name} {address} pairs={pairs} descriptors={descriptors} buffer={buffer} transmit={transmit}")?;
        write!(f, " mtu={mtu}")?;
        if self.lro {
            f.write_str(" lro")?;
        }
        if self.zero_copy {
            f.write_str(" zero-copy")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " mac={mac}")?;
        }
        f.write_str(match self.learning {
            Learning::Free => " learning=free",
            Learning::Guarded => " learning=guarded",
            Learning::Uplink => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let plain = CardAttachment::new("nic0", "0000:02:00.1");
        let full = CardAttachment {
            pairs: 16,
            descriptors: 4096,
            lro: true,
            zero_copy: true,
            mac: Some(MacAddr::new([2, 0, 0, 0, 0, 1])),
            learning: Learning::Free,
            ..plain.clone()
        };
        for it in [plain, full] {
            let words = it.to_string();
            assert!(words.len() < 200, "it fits into a request: {words}");
            assert_eq!(CardAttachment::parse(&words), Some(it));
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let good = "nic0 0000:02:00.1";
        assert!(CardAttachment::parse(good).is_some());
        for bad in [
            "pairs=0",
            "pairs=17",
            "descriptors=100",
            "descriptors=8192",
            "buffer=1024",
            "buffer=2049",
            "transmit=1",
            "mtu=10000",
            "mac=01:00:00:00:00:01",
            "mac=00:00:00:00:00:00",
            "lro=1",
            "learning=x",
            "",
        ] {
            assert_eq!(CardAttachment::parse(&format!("{good} {bad}")), None, "{bad}");
        }
        for bad in ["nic0", "p0 0000:02:00.1", "nic0 02:00.1", "nic0 0000:02.00:1", "nic0 000g:02:00.1"] {
            assert_eq!(CardAttachment::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_memory_of_the_default_fits_below_the_usual_limit() {
        let settings = CardAttachment::new("a", "0000:00:00.0").settings(CardModel::Ixgbe, (0, 0), 1);
        assert!(settings.dma_size() < 8 << 20, "{}", settings.dma_size());
    }
}
