//! Registers of the 82599 (data sheet, 8.2 and 8.3): offsets in BAR 0, which ones exist, and what they hold.

mod table;

use table::KNOWN;
pub use table::{Kind, Known};

/// Octets of the registers in BAR 0.
pub const BAR_SIZE: u32 = 0x2_0000;

/// Device control. GIO_DIS 2, LNK_RST 3, RST 26.
pub const CTRL: u32 = 0x0000;
/// Device status. LAN_ID 2 to 3, LINK_UP 7, GIO master enabled 19.
pub const STATUS: u32 = 0x0008;
/// Extended device control. DRV_LOAD 28.
pub const CTRL_EXT: u32 = 0x0018;
/// Pins defined by software. SDP2: an SFP+ module is in the cage.
pub const ESDP: u32 = 0x0020;
/// I2C by single bits. CLK_IN 0, CLK_OUT 1, DATA_IN 2, DATA_OUT 3.
pub const I2CCTL: u32 = 0x0028;
/// A timer that runs freely.
pub const FRTIMER: u32 = 0x0048;

/// Receive queues below 64 begin here; those above at [`RECEIVE_HIGH`].
pub const RECEIVE: u32 = 0x1000;
/// Receive queues 64 to 127.
pub const RECEIVE_HIGH: u32 = 0xD000;
/// Octets of one queue's registers.
pub const QUEUE: u32 = 0x40;
/// SRRCTL of queues below 16.
pub const SRRCTL: u32 = 0x2100;
/// DCA_RXCTRL of queues below 16.
pub const DCA_RXCTRL: u32 = 0x2200;
/// Queue drop enable.
pub const QDE: u32 = 0x2F04;
/// Receive DMA control. CRCSTRIP 1, DMAIDONE 3, RSCFRSTSIZE 17 to 21, RSCACKC 25.
pub const RDRXCTL: u32 = 0x2F00;
/// Receive control. RXEN 0.
pub const RXCTRL: u32 = 0x3000;
/// RSC data buffer control. RSCACKDIS 7.
pub const RSCDBU: u32 = 0x3028;
/// Sizes of the receive packet buffers.
pub const RXPBSIZE: u32 = 0x3C00;
/// Missed packets, of 8 packet buffers.
pub const MPC: u32 = 0x3FA0;
/// Frames that found no descriptor at first, of 8 packet buffers.
pub const RNBC: u32 = 0x3FC0;
/// Frames with a wrong check sequence.
pub const CRCERRS: u32 = 0x4000;
/// FCTRL: damaged frames are stored.
pub const SBP: u32 = 1 << 1;
/// MAC control. TXCRCEN 0, RXCRCSTRP 1, JUMBOEN 2, TXPADEN 10, LPBK 15.
pub const HLREG0: u32 = 0x4240;
/// Longest frame (MFS 16 to 31), with its check sequence.
pub const MAXFRS: u32 = 0x4268;
/// DMA transmit control. TE 0.
pub const DMATXCTL: u32 = 0x4A80;
/// Flags of TCP in the first and in middle segments.
pub const DTXTCPFLGL: u32 = 0x4A88;
/// Flags of TCP in the last segment.
pub const DTXTCPFLGH: u32 = 0x4A8C;
/// Receive checksum control. IPPCSE 12, PCSD 13.
pub const RXCSUM: u32 = 0x5000;
/// Receive filter control. NFSW_DIS 6, NFSR_DIS 7, RSC_DIS 5.
pub const RFCTL: u32 = 0x5008;
/// Filter control. SBP 1, MPE 8, UPE 9, BAM 10.
pub const FCTRL: u32 = 0x5080;
/// VLAN control. VET 0 to 15, VFE 30.
pub const VLNCTRL: u32 = 0x5088;
/// Multicast control. MO 0 to 1, MFE 2.
pub const MCSTCTRL: u32 = 0x5090;
/// Multicast table, 128.
pub const MTA: u32 = 0x5200;
/// Receive addresses 0 to 15, as they were in the 82598.
pub const RAL_LOW: u32 = 0x5400;
/// Multiple receive queues. MRQE 0 to 3, fields of RSS 16 to 31.
pub const MRQC: u32 = 0x5818;
/// Redirection table, 32 registers of 4 entries.
pub const RETA: u32 = 0x5C00;
/// Key of RSS, 10.
pub const RSSRK: u32 = 0x5C80;
/// Transmit queues, 128.
pub const TRANSMIT: u32 = 0x6000;
/// QBTC_L and QBTC_H of 16 queues.
pub const QBTC: u32 = 0x8700;
/// VLAN table, 128.
pub const VFTA: u32 = 0xA000;
/// Receive addresses 0 to 127: RAL and RAH (AV 31).
pub const RAL: u32 = 0xA200;
/// Pools of a receive address, 128 times two.
pub const MPSAR: u32 = 0xA600;

/// The registers without behaviour of their own: what was written is read.
pub struct Registers {
    words: Vec<u32>,
    kinds: Vec<Kind>,
}

impl Default for Registers {
    fn default() -> Registers {
        let count = (BAR_SIZE / 4) as usize;
        let mut it = Registers { words: vec![0; count], kinds: vec![Kind::Unknown; count] };
        for known in KNOWN {
            known.offsets().for_each(|at| it.kinds[(at / 4) as usize] = known.kind);
        }
        it.reset();
        it
    }
}

impl Registers {
    /// All registers hold what the data sheet says that they hold after a reset.
    pub fn reset(&mut self) {
        self.words.fill(0);
        for known in KNOWN.iter().filter(|known| known.reset != 0) {
            known.offsets().for_each(|at| self.words[(at / 4) as usize] = known.reset);
        }
    }

    /// What the register holds; offsets outside of the BAR hold 0.
    #[inline]
    pub fn get(&self, at: u32) -> u32 {
        self.words.get((at / 4) as usize).copied().unwrap_or(0)
    }

    /// Changes what the register holds.
    #[inline]
    pub fn set(&mut self, at: u32, value: u32) {
        if let Some(word) = self.words.get_mut((at / 4) as usize) {
            *word = value;
        }
    }

    /// Adds to a counter of 32 bits, which stays at its end (data sheet, 8.2.3.23).
    #[inline]
    pub fn count(&mut self, at: u32, more: u32) {
        self.set(at, self.get(at).saturating_add(more));
    }

    /// Adds to a counter of 36 bits, the low half at `at` and the high one behind it.
    #[inline]
    pub fn count_octets(&mut self, at: u32, more: u64) {
        let sum = (u64::from(self.get(at + 4)) << 32 | u64::from(self.get(at))).wrapping_add(more);
        self.set(at, sum as u32);
        self.set(at + 4, (sum >> 32) as u32 & 0xF);
    }

    /// How the register behaves.
    #[inline]
    pub fn kind(&self, at: u32) -> Kind {
        self.kinds.get((at / 4) as usize).copied().unwrap_or(Kind::Unknown)
    }
}

/// The register's name, for complaints.
pub fn name(at: u32) -> String {
    let it = KNOWN.iter().find_map(|known| Some((known, known.offsets().position(|offset| offset == at)?)));
    match it {
        Some((known, _)) if known.count == 1 => known.name.to_string(),
        Some((known, index)) => format!("{}[{index}]", known.name),
        None => format!("{at:#07x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_registers_share_an_offset() {
        let mut seen = std::collections::BTreeMap::new();
        for known in KNOWN {
            for at in known.offsets() {
                assert!(at % 4 == 0 && at < BAR_SIZE, "{}", known.name);
                assert_eq!(seen.insert(at, known.name), None, "{at:#x} {}", known.name);
            }
        }
    }

    #[test]
    fn a_counter_of_octets_carries() {
        let mut it = Registers::default();
        it.count_octets(0x4088, 0xFFFF_FFFF);
        it.count_octets(0x4088, 2);
        assert_eq!((it.get(0x4088), it.get(0x408C)), (1, 1));
    }
}
