//! All settings that are no queue's ring (82599, 4.6.3 to 4.6.8). The queues are off, and so are the receiver and the
//! transmitter.

use sv3::card::CardSettings;

use super::registers::*;
use super::statistics;
use crate::nic::address::{self, Mac};
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::interrupts::Interrupts;
use crate::nic::queue_registers::split_value;
use crate::nic::wait;

/// GPIE: a vector for each pair, each of which masks itself.
const GPIE_VALUE: u32 = GPIE_MULTIPLE_MSIX | GPIE_OCD | GPIE_EIAME | GPIE_PBA_SUPPORT;
/// Octets of the only receive packet buffer, and of the only transmit packet buffer: all that there is.
const RXPBSIZE: u32 = 512 * 1024;
const TXPBSIZE: u32 = 160 * 1024;
/// KiB in the transmit packet buffer from which on no further frame is fetched: room for the longest is left.
const TXPBTHRESH: u32 = 160 - 10;
/// Packet buffers.
const BUFFERS: u32 = 8;
/// Octets of a frame that are not payload: header and CRC.
const FRAME: u32 = 18;
/// Longest frame, with CRC, without [`HLREG0_JUMBOEN`].
const LONGEST: u32 = 1518;
/// Two octets repeated: the hash of a flow is that of its other direction, so both have the same pair.
const RSS_KEY: u32 = 0x5a6d_5a6d;
/// Flags of TCP in segments: FIN and PSH only in the last one, CWR only in the first one (RFC 3168, 6.1.2).
const FIRST: u32 = 0xff6;
const MIDDLE: u32 = 0xf76;
const LAST: u32 = 0xf7f;
/// Interrupts a second of a vector, until the port says how many.
const RATE: u32 = 8_000;

/// The card has these settings: nobody has reset it since.
pub fn is_done(bar: &impl Bar) -> Result<bool, Fault> {
    Ok(wait::read(bar, GPIE)? & GPIE_VALUE == GPIE_VALUE && wait::read(bar, CTRL_EXT)? & CTRL_EXT_DRV_LOAD != 0)
}

/// Writes all of them. `fresh`: what the card has counted is not ours.
pub fn configure(bar: &impl Bar, settings: &CardSettings, mac: Mac, fresh: bool) -> Result<(), Fault> {
    wait::set(bar, CTRL_EXT, CTRL_EXT_NS_DIS | CTRL_EXT_DRV_LOAD)?;
    flow_control_off(bar);
    packet_buffers(bar)?;
    filters(bar, mac, fresh)?;
    receive(bar, settings)?;
    spread(bar, settings.pairs);
    frames(bar, settings.mtu)?;
    segments(bar);
    queues(bar, settings)?;
    if fresh {
        statistics::discard(bar);
    }
    Ok(())
}

/// Vectors of the pairs, and the last one for all else. GPIE is written last: it says that all is done.
pub fn vectors(bar: &impl Bar, interrupts: &Interrupts) {
    let pairs = u32::from(interrupts.pairs);
    for first in (0..pairs).step_by(2) {
        // For an even pair and the odd one behind it: a receive and a transmit queue each.
        let vector = |pair: u32| if pair < pairs { (IVAR_VALID | pair) * 0x0101 } else { 0 };
        bar.write(ivar(first), vector(first) | vector(first + 1) << 16);
    }
    bar.write(IVAR_MISC, (IVAR_VALID | pairs) << IVAR_MISC_OTHER);
    let vectors = (1u32 << pairs.min(16)) - 1;
    bar.write(EIAC, vectors);
    bar.write(EIAM_EX, vectors);
    (0..=interrupts.pairs).for_each(|vector| interrupts.set_rate(bar, vector, RATE));
    bar.write(GPIE, GPIE_VALUE);
}

/// The card neither sends pause frames nor obeys any, and passes none on. A frame that finds no room is counted.
fn flow_control_off(bar: &impl Bar) {
    bar.write(MFLCN, MFLCN_DPF);
    bar.write(FCCFG, 0);
    (0..BUFFERS).for_each(|buffer| bar.write(fcrth(buffer), 0));
}

/// One packet buffer has it all: there are no traffic classes.
fn packet_buffers(bar: &impl Bar) -> Result<(), Fault> {
    for buffer in 0..BUFFERS {
        let (receive, transmit, threshold) = if buffer == 0 { (RXPBSIZE, TXPBSIZE, TXPBTHRESH) } else { (0, 0, 0) };
        bar.write(rxpbsize(buffer), receive);
        bar.write(txpbsize(buffer), transmit);
        bar.write(txpbthresh(buffer), threshold);
    }
    // MTQC may change only while the arbiter stands still (8.2.3.9.15).
    wait::set(bar, RTTDCS, RTTDCS_ARBDIS)?;
    bar.write(MTQC, 0);
    bar.write(DTXMXSZRQ, 0xfff);
    wait::clear(bar, RTTDCS, RTTDCS_ARBDIS)
}

/// A switch needs the frames of all its guests, whose addresses it learns from what they send. So the card passes all.
/// VLAN tags stay in the frames.
fn filters(bar: &impl Bar, mac: Mac, fresh: bool) -> Result<(), Fault> {
    let (low, high) = address::to_words(mac);
    bar.write(ral(0), low);
    bar.write(ral(0) + 4, high | RAH_AV);
    if fresh {
        (1..RAR_ENTRIES).for_each(|entry| bar.write(ral(entry) + 4, 0));
        (0..MTA_ENTRIES).for_each(|entry| bar.write(mta(entry), 0));
    }
    bar.write(FCTRL, FCTRL_MPE | FCTRL_UPE | FCTRL_BAM);
    wait::clear(bar, VLNCTRL, VLNCTRL_VFE)
}

/// The receiver: checksums are looked at always, RSC joins segments if the person wants it.
fn receive(bar: &impl Bar, settings: &CardSettings) -> Result<(), Fault> {
    wait::clear(bar, RDRXCTL, RDRXCTL_RSCFRSTSIZE)?;
    wait::set(bar, RDRXCTL, RDRXCTL_CRCSTRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX)?;
    match settings.lro {
        true => wait::clear(bar, RFCTL, RFCTL_RSC_DIS)?,
        false => wait::set(bar, RFCTL, RFCTL_RSC_DIS)?,
    }
    // Headers are not split, but RSC needs the type of those that it joins (4.6.7.2).
    bar.write(PSRTYPE, if settings.lro { PSRTYPE_TCP } else { 0 });
    // Its hash takes the place of a fragment's checksum in the descriptor; nobody uses either.
    wait::set(bar, RXCSUM, RXCSUM_PCSD)
}

/// Frames of a flow go to one pair. With one pair there is nothing to choose.
fn spread(bar: &impl Bar, pairs: u16) {
    if pairs <= 1 {
        return bar.write(MRQC, 0);
    }
    (0..10).for_each(|word| bar.write(rssrk(word), RSS_KEY));
    for entry in 0..32 {
        let queue = |at: u32| (4 * entry + at) % u32::from(pairs);
        bar.write(reta(entry), queue(0) | queue(1) << 8 | queue(2) << 16 | queue(3) << 24);
    }
    bar.write(MRQC, MRQC_RSS | MRQC_FIELDS);
}

/// Which frames are too long, and what the card adds and takes away.
fn frames(bar: &impl Bar, mtu: u16) -> Result<(), Fault> {
    let longest = u32::from(mtu) + FRAME;
    let clear = HLREG0_JUMBOEN | HLREG0_LPBK | HLREG0_RXLNGTHERREN;
    let jumbo = if longest > LONGEST { HLREG0_JUMBOEN } else { 0 };
    let set = HLREG0_TXCRCEN | HLREG0_RXCRCSTRP | HLREG0_TXPADEN | jumbo;
    bar.write(HLREG0, wait::read(bar, HLREG0)? & !clear | set);
    bar.write(MAXFRS, longest.max(LONGEST) << 16);
    Ok(())
}

/// The masks are written since cards do not begin with those of the data sheet: they leave CWR in middle segments.
fn segments(bar: &impl Bar) {
    bar.write(DTXTCPFLGL, FIRST | MIDDLE << 16);
    bar.write(DTXTCPFLGH, LAST);
}

/// What a queue needs beside its ring.
fn queues(bar: &impl Bar, settings: &CardSettings) -> Result<(), Fault> {
    for queue in 0..u32::from(settings.pairs) {
        bar.write(srrctl(queue), split_value(settings, SRRCTL_DROP_EN));
        bar.write(receive_queue(queue) + RSCCTL, rscctl(settings));
        // A descriptor must not reach memory before the frame that it tells of. So what is written keeps its order; what
        // is read need not.
        let dca = wait::read(bar, dca_rxctrl(queue))?;
        bar.write(dca_rxctrl(queue), dca & !(DCA_RXCTRL_BIT_12 | DCA_RXCTRL_WRO) | DCA_RXCTRL_DESC_RRO);
        let at = transmit_queue(queue) + DCA_TXCTRL;
        let dca = wait::read(bar, at)? & !DCA_TXCTRL_DESC_WRO;
        bar.write(at, dca | DCA_TXCTRL_DESC_RRO | DCA_TXCTRL_DATA_RRO);
    }
    Ok(())
}

/// RSC's limit: the descriptors of a joined frame hold less than 64 KiB together (8.2.3.8.13). It also ends with each
/// interval of EITR, and wants the CRC stripped.
fn rscctl(settings: &CardSettings) -> u32 {
    if !settings.lro {
        return 0;
    }
    let maxdesc = match settings.buffer {
        0..=4095 => 3,
        4096..=8191 => 2,
        8192..=16383 => 1,
        16384.. => 0,
    };
    RSCCTL_RSCEN | maxdesc << RSCCTL_MAXDESC
}
