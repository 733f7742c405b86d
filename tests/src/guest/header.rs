//! `struct virtio_net_hdr` (virtio 1.3, 5.1.6), independently of sv3's.

/// `flags`: the checksum is partial.
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum was verified.
pub const DATA_VALID: u8 = 2;
/// `gso_type`: not to be segmented.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP.
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type`, beside another: the first segment alone has CWR.
pub const GSO_ECN: u8 = 0x80;

/// The header in front of each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHdr {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Octets of the headers that each segment has.
    pub hdr_len: u16,
    /// Octets of payload that a segment has.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where it goes, from `csum_start`.
    pub csum_offset: u16,
    /// Buffers that the frame takes; for a receiver.
    pub num_buffers: u16,
}

impl NetHdr {
    /// All twelve octets, of which a legacy driver without MRG_RXBUF has ten.
    pub fn octets(&self) -> [u8; 12] {
        let mut octets = [0; 12];
        octets[0] = self.flags;
        octets[1] = self.gso_type;
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (place, word) in octets[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        octets
    }

    /// From ten octets or twelve.
    pub fn parse(octets: &[u8]) -> NetHdr {
        let word = |at: usize| octets.get(at..at + 2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]));
        NetHdr {
            flags: octets[0],
            gso_type: octets[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }
}
