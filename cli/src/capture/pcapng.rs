//! pcapng, the format that Wireshark and tcpdump read (draft-ietf-opsawg-pcapng). Numbers are little-endian.
//!
//! Each port is an interface. Its Interface Description Block comes before its first frame, so a file tells ports that came
//! later as well. libpcap wants the same link type and snap length of all interfaces.

use std::collections::BTreeMap;
use std::io::{self, Write};

use sv3::capture::{Passage, Record};
use sv3::virtio::{VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE};

use super::line::offloads;

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Options of any block.
const END: u16 = 0;
const COMMENT: u16 = 1;
/// `shb_userappl`.
const PROGRAM: u16 = 4;
/// `if_name`, `if_tsresol`.
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
/// `epb_flags`.
const FLAGS: u16 = 2;
/// `isb_ifrecv`, `isb_osdrop`.
const RECEIVED: u16 = 4;
const LOST: u16 = 7;

/// Bits of `epb_flags`.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
const UNICAST: u32 = 1 << 2;
const MULTICAST: u32 = 2 << 2;
const BROADCAST: u32 = 3 << 2;
const CHECKSUM_NOT_READY: u32 = 1 << 9;
const CHECKSUM_VALID: u32 = 1 << 10;
const SEGMENTED: u32 = 1 << 11;

/// Writes one section.
pub struct Writer<W: Write> {
    out: W,
    snaplen: u32,
    /// By number of the caller's interface: its number in the section.
    described: BTreeMap<usize, u32>,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a section.
    pub fn new(out: W, snaplen: u32) -> io::Result<Writer<W>> {
        let mut writer = Writer { out, snaplen, described: BTreeMap::new(), block: Vec::new() };
        writer.begin(SECTION);
        writer.put(&0x1a2b_3c4d_u32.to_le_bytes());
        writer.put(&[1u16.to_le_bytes(), 0u16.to_le_bytes()].concat());
        writer.put(&u64::MAX.to_le_bytes());
        writer.option(PROGRAM, concat!("sv3 ", env!("CARGO_PKG_VERSION")).as_bytes());
        writer.end()?;
        writer.out.flush()?;
        Ok(writer)
    }

    /// Writes a frame that passed an interface at a time, in nanoseconds since 1970.
    pub fn frame(
        &mut self,
        (interface, name): (usize, &str),
        record: &Record,
        kept: &[u8],
        time: u64,
    ) -> io::Result<()> {
        let number = self.describe(interface, name)?;
        self.begin(PACKET);
        self.put(&number.to_le_bytes());
        self.time(time);
        self.put(&(kept.len() as u32).to_le_bytes());
        self.put(&record.len.to_le_bytes());
        self.put(kept);
        self.pad();
        self.option(FLAGS, &flags(record, kept).to_le_bytes());
        if let Some(reason) = record.dropped {
            self.option(COMMENT, format!("dropped: {}", reason.name()).as_bytes());
        }
        if let Some(offloads) = offloads(record) {
            self.option(COMMENT, offloads.as_bytes());
        }
        self.end()
    }

    /// Writes how many frames each interface had and how many were lost, and ends.
    pub fn finish(&mut self, read: &BTreeMap<usize, u64>, mut lost: u64, time: u64) -> io::Result<()> {
        for (interface, number) in self.described.clone() {
            self.begin(STATISTICS);
            self.put(&number.to_le_bytes());
            self.time(time);
            self.option(RECEIVED, &read.get(&interface).copied().unwrap_or(0).to_le_bytes());
            // Nobody knows of which interface they were: the first one tells all.
            self.option(LOST, &std::mem::take(&mut lost).to_le_bytes());
            self.end()?;
        }
        self.flush()
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn describe(&mut self, interface: usize, name: &str) -> io::Result<u32> {
        if let Some(number) = self.described.get(&interface) {
            return Ok(*number);
        }
        let number = self.described.len() as u32;
        self.described.insert(interface, number);
        self.begin(INTERFACE);
        self.put(&[ETHERNET.to_le_bytes(), [0; 2]].concat());
        self.put(&self.snaplen.to_le_bytes());
        self.option(NAME, name.as_bytes());
        self.option(RESOLUTION, &[9]);
        self.end()?;
        Ok(number)
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.put(&kind.to_le_bytes());
        self.put(&[0; 4]);
    }

    fn put(&mut self, octets: &[u8]) {
        self.block.extend_from_slice(octets);
    }

    fn time(&mut self, time: u64) {
        self.put(&((time >> 32) as u32).to_le_bytes());
        self.put(&(time as u32).to_le_bytes());
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// An option, cut to the longest that its length can tell.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.put(&code.to_le_bytes());
        self.put(&(value.len() as u16).to_le_bytes());
        self.put(value);
        self.pad();
    }

    fn end(&mut self) -> io::Result<()> {
        self.option(END, &[]);
        let len = (self.block.len() as u32 + 4).to_le_bytes();
        self.put(&len);
        if let Some(place) = self.block.get_mut(4..8) {
            place.copy_from_slice(&len);
        }
        self.out.write_all(&self.block)
    }
}

fn flags(record: &Record, frame: &[u8]) -> u32 {
    let direction = match record.passage {
        Passage::In => INBOUND,
        Passage::Out => OUTBOUND,
    };
    let to = match frame.get(..6) {
        Some(to) if to == [0xff; 6] => BROADCAST,
        Some([first, ..]) if first & 1 != 0 => MULTICAST,
        Some(_) => UNICAST,
        None => 0,
    };
    let has = |flag: u8, bit: u32| if record.hdr.flags & flag != 0 { bit } else { 0 };
    let segmented = if record.hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE { 0 } else { SEGMENTED };
    direction
        | to
        | has(VIRTIO_NET_HDR_F_NEEDS_CSUM, CHECKSUM_NOT_READY)
        | has(VIRTIO_NET_HDR_F_DATA_VALID, CHECKSUM_VALID)
        | segmented
}

#[cfg(test)]
mod tests {
    use sv3::drop_reason::DropReason;
    use sv3::virtio::{NetHdr, VIRTIO_NET_HDR_GSO_TCPV4};

    use super::*;

    #[test]
    fn blocks_have_the_lengths_that_they_tell_and_each_interface_is_described_once() {
        let mut out = Vec::new();
        let hdr = NetHdr { flags: 1, gso_type: VIRTIO_NET_HDR_GSO_TCPV4, gso_size: 1448, ..NetHdr::NONE };
        let record = Record {
            captured: 61,
            len: 3000,
            slot: 7,
            passage: Passage::Out,
            dropped: Some(DropReason::RxNoBuffers),
            time_ns: 0,
            hdr,
        };
        let mut writer = Writer::new(&mut out, 262_144).unwrap();
        let frame = [0xff; 61];
        for (interface, name) in [(3, "web"), (0, "p0"), (3, "web")] {
            writer.frame((interface, name), &record, &frame, 0x0123_4567_89ab_cdef).unwrap();
        }
        writer.finish(&BTreeMap::from([(3, 2), (0, 1)]), 9, 5).unwrap();
        let mut kinds = Vec::new();
        let mut rest = out.as_slice();
        while let Some((head, _)) = rest.split_first_chunk::<8>() {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let (kind, len) = (word(0), word(4) as usize);
            assert!(len.is_multiple_of(4) && rest[len - 4..len] == head[4..8], "{kind}");
            kinds.push(kind);
            rest = &rest[len..];
        }
        let wanted = [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET, STATISTICS, STATISTICS];
        assert!(rest.is_empty() && kinds == wanted, "{kinds:?}");
        assert_eq!(flags(&record, &frame), OUTBOUND | BROADCAST | CHECKSUM_NOT_READY | SEGMENTED);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("dropped: no_rx_buffers") && text.contains("1448"));
    }
}
