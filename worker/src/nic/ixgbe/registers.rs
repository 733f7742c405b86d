//! Registers of the Intel 82599's physical function, by the names of its data sheet (revision 3.4, section 8.2.3). The
//! X540 has the same, unless a comment says otherwise.

// General (8.2.3.1, 8.2.3.2).
/// Device control.
pub const CTRL: u32 = 0x0;
/// PCIe master disable: the card asks for no memory any more.
pub const CTRL_GIO_DIS: u32 = 1 << 2;
/// Device reset.
pub const CTRL_RST: u32 = 1 << 26;
/// Device status.
pub const STATUS: u32 = 0x8;
/// Which port of the card it is.
pub const STATUS_LAN_ID: u32 = 3 << 2;
/// PCIe master enable status.
pub const STATUS_GIO: u32 = 1 << 19;
/// Extended device control.
pub const CTRL_EXT: u32 = 0x18;
/// No-snoop disable.
pub const CTRL_EXT_NS_DIS: u32 = 1 << 16;
/// A driver is loaded, for the card's firmware.
pub const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
/// Software defined pins.
pub const ESDP: u32 = 0x20;
/// Pin 3 turns the laser of an SFP+ module off (82599 only).
pub const ESDP_SDP3: u32 = 1 << 3;
/// Lines to the SFP+ module.
pub const I2CCTL: u32 = 0x28;
/// The clock, as it is driven.
pub const I2CCTL_CLK_OUT: u32 = 1 << 1;
/// Data, as it is.
pub const I2CCTL_DATA_IN: u32 = 1 << 2;
/// Data, as it is driven.
pub const I2CCTL_DATA_OUT: u32 = 1 << 3;
/// Core analog configuration.
pub const CORECTL: u32 = 0x14f00;
/// EEPROM read.
pub const EERD: u32 = 0x10014;
/// Begin.
pub const EERD_START: u32 = 1;
/// Done; the word is in the upper half.
pub const EERD_DONE: u32 = 1 << 1;
/// Software semaphore.
pub const SWSM: u32 = 0x10140;
/// Between drivers; reading sets it.
pub const SWSM_SMBI: u32 = 1;
/// Between software and firmware.
pub const SWSM_SWESMBI: u32 = 1 << 1;
/// General software semaphore: who has which resource.
pub const GSSR: u32 = 0x10160;
/// The lines of port 0.
pub const GSSR_PHY0: u32 = 1 << 1;
/// The lines of port 1.
pub const GSSR_PHY1: u32 = 1 << 2;
/// Registers of the MAC that ports and firmware share.
pub const GSSR_MAC_CSR: u32 = 1 << 3;
/// EEPROM control. The X540 has it for its flash memory.
pub const EEC: u32 = 0x10010;
/// The EEPROM has been read.
pub const EEC_ARD: u32 = 1 << 9;
/// An EEPROM is there.
pub const EEC_PRES: u32 = 1 << 8;

/// PCIe control extended.
pub const GCR_EXT: u32 = 0x11050;
/// What was asked of memory and did not come is forgotten.
pub const GCR_EXT_BUFFERS_CLEAR: u32 = 1 << 30;

// Interrupts (8.2.3.5).
/// Cause, clear on read.
pub const EICR: u32 = 0x800;
/// The link changed.
pub const EICR_LSC: u32 = 1 << 20;
/// An error in the card's own memory.
pub const EICR_ECC: u32 = 1 << 28;
/// Cause set. Reading it tells the causes and clears none.
pub const EICS: u32 = 0x808;
/// Causes of queues, in each of these registers. The others are none.
pub const EICR_QUEUES: u32 = 0xffff;
/// Mask clear.
pub const EIMC: u32 = 0x888;
/// Mask set.
pub const EIMS: u32 = 0x880;
/// Causes that clear when their message is sent.
pub const EIAC: u32 = 0x810;
/// Mask set, vectors of queues.
pub const EIMS_EX: u32 = 0xaa0;
/// Mask clear, vectors of queues.
pub const EIMC_EX: u32 = 0xab0;
/// Vectors that are masked when their message is sent.
pub const EIAM_EX: u32 = 0xad0;
/// General purpose interrupt enable.
pub const GPIE: u32 = 0x898;
/// MSI-X with more than one vector.
pub const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
/// Reading EICR clears only what is no queue's.
pub const GPIE_OCD: u32 = 1 << 5;
/// EIAM counts.
pub const GPIE_EIAME: u32 = 1 << 30;
/// MSI-X pending bits.
pub const GPIE_PBA_SUPPORT: u32 = 1 << 31;
/// Vectors of the causes that are no queue's.
pub const IVAR_MISC: u32 = 0xa00;
/// A vector in IVAR or IVAR_MISC is valid. Each has 8 bits.
pub const IVAR_VALID: u32 = 1 << 7;
/// Where IVAR_MISC has the vector of all causes but the TCP timer.
pub const IVAR_MISC_OTHER: u32 = 8;

/// Vectors of two queue pairs.
pub fn ivar(pair: u32) -> u32 {
    0x900 + 4 * (pair / 2)
}

/// Interrupt throttle of a vector below 24.
pub fn eitr(vector: u32) -> u32 {
    0x820 + 4 * vector
}

// Receive (8.2.3.7, 8.2.3.8).
/// Filter control.
pub const FCTRL: u32 = 0x5080;
/// Multicast promiscuous.
pub const FCTRL_MPE: u32 = 1 << 8;
/// Unicast promiscuous.
pub const FCTRL_UPE: u32 = 1 << 9;
/// Broadcast accept.
pub const FCTRL_BAM: u32 = 1 << 10;
/// VLAN control.
pub const VLNCTRL: u32 = 0x5088;
/// VLAN filter enable.
pub const VLNCTRL_VFE: u32 = 1 << 30;
/// Receive checksum control.
pub const RXCSUM: u32 = 0x5000;
/// Checksum of fragments is off, the hash of RSS takes its place.
pub const RXCSUM_PCSD: u32 = 1 << 13;
/// Receive filter control.
pub const RFCTL: u32 = 0x5008;
/// RSC is off for all queues.
pub const RFCTL_RSC_DIS: u32 = 1 << 5;
/// Number of entries of [`mta`].
pub const MTA_ENTRIES: u32 = 128;
/// Number of entries of [`ral`].
pub const RAR_ENTRIES: u32 = 128;
/// The address is valid.
pub const RAH_AV: u32 = 1 << 31;
/// Multiple receive queues command.
pub const MRQC: u32 = 0x5818;
/// RSS is on.
pub const MRQC_RSS: u32 = 1;
/// RSS by the fields of TCP and IPv4, IPv4, IPv6, TCP and IPv6.
pub const MRQC_FIELDS: u32 = 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21;
/// Receive control.
pub const RXCTRL: u32 = 0x3000;
/// Receive enable.
pub const RXCTRL_RXEN: u32 = 1;
/// Receive DMA control.
pub const RDRXCTL: u32 = 0x2f00;
/// CRC strip; the same as in HLREG0.
pub const RDRXCTL_CRCSTRIP: u32 = 1 << 1;
/// DMA initialization done.
pub const RDRXCTL_DMAIDONE: u32 = 1 << 3;
/// Size of the first frame of RSC; 0.
pub const RDRXCTL_RSCFRSTSIZE: u32 = 0x1f << 17;
/// To be set with RSC.
pub const RDRXCTL_RSCACKC: u32 = 1 << 25;
/// To be set with RSC.
pub const RDRXCTL_FCOE_WRFIX: u32 = 1 << 26;
/// RSC control: on.
pub const RSCCTL_RSCEN: u32 = 1;
/// The header types by which headers are split, of the first pool.
pub const PSRTYPE: u32 = 0x5480;
/// TCP, needed by RSC.
pub const PSRTYPE_TCP: u32 = 1 << 4;
/// Security receive control.
pub const SECRXCTRL: u32 = 0x8d00;
/// Receiving stops behind the next frame.
pub const SECRXCTRL_RX_DIS: u32 = 1 << 1;
/// Security receive status.
pub const SECRXSTAT: u32 = 0x8d04;
/// The path is empty.
pub const SECRXSTAT_SECRX_RDY: u32 = 1;

/// Octets of a receive packet buffer.
pub fn rxpbsize(buffer: u32) -> u32 {
    0x3c00 + 4 * buffer
}

/// Multicast table.
pub fn mta(entry: u32) -> u32 {
    0x5200 + 4 * entry
}

/// Receive address low. RAH follows it. Entry 0 has the address of the EEPROM after a reset.
pub fn ral(entry: u32) -> u32 {
    if entry < 16 { 0x5400 + 8 * entry } else { 0xa200 + 8 * entry }
}

/// Redirection table of RSS, four queues each.
pub fn reta(entry: u32) -> u32 {
    0x5c00 + 4 * entry
}

/// Key of RSS.
pub fn rssrk(word: u32) -> u32 {
    0x5c80 + 4 * word
}

/// Of a receive queue, from RDBAL: RSCCTL.
pub const RSCCTL: u32 = 0x2c;

/// The first register of a receive queue below 64: RDBAL.
pub fn receive_queue(queue: u32) -> u32 {
    0x1000 + 0x40 * queue
}

/// Where RSCCTL has MAXDESC: 1, 4, 8 or 16 descriptors.
pub const RSCCTL_MAXDESC: u32 = 2;

/// SRRCTL of a queue below 16.
pub fn srrctl(queue: u32) -> u32 {
    0x2100 + 4 * queue
}

/// SRRCTL.DROP_EN.
pub const SRRCTL_DROP_EN: u32 = 1 << 28;

/// DCA_RXCTRL of a queue below 16.
pub fn dca_rxctrl(queue: u32) -> u32 {
    0x2200 + 4 * queue
}

/// Descriptors are read with relaxed ordering.
pub const DCA_RXCTRL_DESC_RRO: u32 = 1 << 9;
/// Has to be cleared for each queue (4.6.7).
pub const DCA_RXCTRL_BIT_12: u32 = 1 << 12;
/// Payload and headers are written with relaxed ordering.
pub const DCA_RXCTRL_WRO: u32 = 1 << 13 | 1 << 15;

// Transmit (8.2.3.9).
/// DMA transmit control.
pub const DMATXCTL: u32 = 0x4a80;
/// Transmit enable.
pub const DMATXCTL_TE: u32 = 1;
/// Flags of TCP that the first segments of a frame and the middle ones keep.
pub const DTXTCPFLGL: u32 = 0x4a88;
/// Flags of TCP that the last segment keeps.
pub const DTXTCPFLGH: u32 = 0x4a8c;
/// Arbiter control.
pub const RTTDCS: u32 = 0x4900;
/// The arbiter stands still.
pub const RTTDCS_ARBDIS: u32 = 1 << 6;
/// Multiple transmit queues command.
pub const MTQC: u32 = 0x8120;
/// Most octets that are requested of memory at a time.
pub const DTXMXSZRQ: u32 = 0x8100;

/// Octets of a transmit packet buffer.
pub fn txpbsize(buffer: u32) -> u32 {
    0xcc00 + 4 * buffer
}

/// Threshold of a transmit packet buffer in KiB.
pub fn txpbthresh(buffer: u32) -> u32 {
    0x4950 + 4 * buffer
}

/// The first register of a transmit queue: TDBAL.
pub fn transmit_queue(queue: u32) -> u32 {
    0x6000 + 0x40 * queue
}

/// Of a transmit queue, from TDBAL: DCA_TXCTRL.
pub const DCA_TXCTRL: u32 = 0xc;
/// Descriptors are read with relaxed ordering.
pub const DCA_TXCTRL_DESC_RRO: u32 = 1 << 9;
/// Descriptors, or the head, are written back with relaxed ordering.
pub const DCA_TXCTRL_DESC_WRO: u32 = 1 << 11;
/// Payload is read with relaxed ordering.
pub const DCA_TXCTRL_DATA_RRO: u32 = 1 << 13;

// Flow control (8.2.3.3, 8.2.3.22).
/// Flow control configuration: which pause frames the card sends.
pub const FCCFG: u32 = 0x3d00;
/// MAC flow control: which pause frames the card obeys.
pub const MFLCN: u32 = 0x4294;
/// Pass or discard pause frames: discard.
pub const MFLCN_DPF: u32 = 1 << 1;

/// Threshold at which a packet buffer asks for a pause.
pub fn fcrth(buffer: u32) -> u32 {
    0x3260 + 4 * buffer
}

// MAC (8.2.3.22).
/// Highlander control 0.
pub const HLREG0: u32 = 0x4240;
/// The card appends the CRC.
pub const HLREG0_TXCRCEN: u32 = 1;
/// The card strips the CRC.
pub const HLREG0_RXCRCSTRP: u32 = 1 << 1;
/// Jumbo frames.
pub const HLREG0_JUMBOEN: u32 = 1 << 2;
/// The card pads short frames.
pub const HLREG0_TXPADEN: u32 = 1 << 10;
/// Loopback.
pub const HLREG0_LPBK: u32 = 1 << 15;
/// Frames whose length field is wrong are errors.
pub const HLREG0_RXLNGTHERREN: u32 = 1 << 27;
/// Longest frame, in the upper half; with CRC, without VLAN tags.
pub const MAXFRS: u32 = 0x4268;
/// Automatic negotiation control. The X540 has none: its PHY does that.
pub const AUTOC: u32 = 0x42a0;
/// Restart of the negotiation.
pub const AUTOC_RESTART: u32 = 1 << 12;
/// Link mode select.
pub const AUTOC_LMS: u32 = 7 << 13;
/// The link mode's highest bit.
pub const AUTOC_LMS_HIGH: u32 = 4 << 13;
/// Link mode: 10 Gbit/s, serial, which is SFI for SFP+.
pub const AUTOC_LMS_10G_SERIAL: u32 = 3 << 13;
/// Link status.
pub const LINKS: u32 = 0x42a4;
/// Link up.
pub const LINKS_UP: u32 = 1 << 30;
/// Link speed.
pub const LINKS_SPEED: u32 = 3 << 28;
/// Negotiation control 2.
pub const AUTOC2: u32 = 0x42a8;
/// Which serial interface.
pub const AUTOC2_10G_SERIAL: u32 = 3 << 16;
/// The link is off by the EEPROM's word.
pub const AUTOC2_LINK_DISABLE: u32 = 7 << 28;
/// Negotiation, link partner.
pub const ANLP1: u32 = 0x42b0;
/// The state of its machine.
pub const ANLP1_STATE: u32 = 0xf << 16;
/// SFI.
pub const AUTOC2_10G_SFI: u32 = 2 << 16;
