//! Names and layouts of virtio 1.3 that both processes use: feature bits, the net header, descriptor flags.

/// A virtio or vhost-user feature bit with its specification's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Bit number.
    pub bit: u32,
    /// Name as in the specification.
    pub name: &'static str,
}

impl Feature {
    /// The feature as a mask.
    pub const fn mask(self) -> u64 {
        1 << self.bit
    }

    /// Whether `features` contains it.
    pub const fn of(self, features: u64) -> bool {
        features & self.mask() != 0
    }
}

macro_rules! features {
    ($(#[$doc:meta] $name:ident = $bit:literal;)*) => {
        $(#[$doc] pub const $name: Feature = Feature { bit: $bit, name: stringify!($name) };)*
        /// Every virtio feature that sv3 knows by name.
        pub const KNOWN: &[Feature] = &[$($name),*];
    };
}

features! {
    /// Driver's frames may have partial checksums (virtio 1.3, 5.1.3).
    VIRTIO_NET_F_CSUM = 0;
    /// Driver accepts frames with partial checksums.
    VIRTIO_NET_F_GUEST_CSUM = 1;
    /// Device reports its maximum MTU.
    VIRTIO_NET_F_MTU = 3;
    /// Driver accepts TSOv4.
    VIRTIO_NET_F_GUEST_TSO4 = 7;
    /// Driver accepts TSOv6.
    VIRTIO_NET_F_GUEST_TSO6 = 8;
    /// Driver accepts TSO with ECN.
    VIRTIO_NET_F_GUEST_ECN = 9;
    /// Driver accepts UFO.
    VIRTIO_NET_F_GUEST_UFO = 10;
    /// Device accepts TSOv4.
    VIRTIO_NET_F_HOST_TSO4 = 11;
    /// Device accepts TSOv6.
    VIRTIO_NET_F_HOST_TSO6 = 12;
    /// Device accepts TSO with ECN.
    VIRTIO_NET_F_HOST_ECN = 13;
    /// Device accepts UFO.
    VIRTIO_NET_F_HOST_UFO = 14;
    /// Driver can merge receive buffers.
    VIRTIO_NET_F_MRG_RXBUF = 15;
    /// Driver announces the guest when it is told to, after a live migration.
    VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
    /// Device has several queue pairs.
    VIRTIO_NET_F_MQ = 22;
    /// vhost: log all writes to guest memory (live migration).
    VHOST_F_LOG_ALL = 26;
    /// Descriptors may point to tables of descriptors (virtio 1.3, 2.7.5.3).
    VIRTIO_RING_F_INDIRECT_DESC = 28;
    /// Notifications are suppressed by index (virtio 1.3, 2.7.7, 2.7.10).
    VIRTIO_RING_F_EVENT_IDX = 29;
    /// vhost-user: protocol features are to be negotiated.
    VHOST_USER_F_PROTOCOL_FEATURES = 30;
    /// Virtio 1.0 and later.
    VIRTIO_F_VERSION_1 = 32;
    /// Device accesses memory through an IOMMU.
    VIRTIO_F_ACCESS_PLATFORM = 33;
    /// Packed rings (virtio 1.3, 2.8).
    VIRTIO_F_RING_PACKED = 34;
    /// Buffers are used in the order in which they were made available (virtio 1.3, 2.7.9).
    VIRTIO_F_IN_ORDER = 35;
    /// Driver accepts USO over IPv4 (virtio 1.3, 5.1.3).
    VIRTIO_NET_F_GUEST_USO4 = 54;
    /// Driver accepts USO over IPv6.
    VIRTIO_NET_F_GUEST_USO6 = 55;
    /// Device accepts USO, over IPv4 and IPv6.
    VIRTIO_NET_F_HOST_USO = 56;
}

/// The names of the bits set in `features`, in bit order; a bit without a name is `bit N`.
pub fn feature_names(features: u64) -> Vec<String> {
    (0..u64::BITS)
        .filter(|bit| features & (1 << bit) != 0)
        .map(|bit| match KNOWN.iter().find(|known| known.bit == bit) {
            Some(known) => known.name.to_string(),
            None => format!("bit {bit}"),
        })
        .collect()
}

/// The virtio and vhost features that sv3 offers to a net front-end. Only features of which the data path serves all,
/// since QEMU accepts every offered feature.
pub const OFFERED: u64 = VIRTIO_NET_F_CSUM.mask()
    | VIRTIO_NET_F_GUEST_CSUM.mask()
    | VIRTIO_NET_F_MTU.mask()
    | VIRTIO_NET_F_GUEST_TSO4.mask()
    | VIRTIO_NET_F_GUEST_TSO6.mask()
    | VIRTIO_NET_F_GUEST_ECN.mask()
    | VIRTIO_NET_F_HOST_TSO4.mask()
    | VIRTIO_NET_F_HOST_TSO6.mask()
    | VIRTIO_NET_F_HOST_ECN.mask()
    | VIRTIO_NET_F_MRG_RXBUF.mask()
    | VIRTIO_NET_F_GUEST_ANNOUNCE.mask()
    | VIRTIO_NET_F_MQ.mask()
    | VHOST_F_LOG_ALL.mask()
    | VIRTIO_RING_F_INDIRECT_DESC.mask()
    | VIRTIO_RING_F_EVENT_IDX.mask()
    | VHOST_USER_F_PROTOCOL_FEATURES.mask()
    | VIRTIO_F_VERSION_1.mask()
    | VIRTIO_F_RING_PACKED.mask()
    | VIRTIO_F_IN_ORDER.mask()
    | VIRTIO_NET_F_GUEST_USO4.mask()
    | VIRTIO_NET_F_GUEST_USO6.mask()
    | VIRTIO_NET_F_HOST_USO.mask();

/// Descriptor flag: the chain goes on at `next` (virtio 1.3, 2.7.5).
pub const VIRTQ_DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const VIRTQ_DESC_F_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const VIRTQ_DESC_F_INDIRECT: u16 = 4;
/// `avail.flags`: the driver wants no interrupts.
pub const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;
/// `used.flags`: the device wants no kicks.
pub const VIRTQ_USED_F_NO_NOTIFY: u16 = 1;

/// `virtio_net_hdr.flags`: checksum from `csum_start` to the end is partial (virtio 1.3, 5.1.6).
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
/// `virtio_net_hdr.flags`: the checksum is known to be right.
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
/// `virtio_net_hdr.gso_type`: not segmented.
pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
/// `virtio_net_hdr.gso_type`: TCP over IPv4.
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// `virtio_net_hdr.gso_type`: TCP over IPv6.
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
/// `virtio_net_hdr.gso_type`: UDP datagrams of one flow, over IPv4 or IPv6.
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
/// `virtio_net_hdr.gso_type`: ECN is set in the frame.
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

/// Length of the net header with MRG_RXBUF or VERSION_1, in octets.
pub const NET_HDR_LEN: usize = 12;
/// Length of the net header of a legacy driver without MRG_RXBUF, in octets.
pub const NET_HDR_LEN_LEGACY: usize = 10;

/// `struct virtio_net_hdr` as one plain value (virtio 1.3, 5.1.6), little-endian on the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHdr {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of the headers up to the payload, in octets; a hint.
    pub hdr_len: u16,
    /// Payload octets of one segment.
    pub gso_size: u16,
    /// Where the checksum begins, in octets from the frame's begin.
    pub csum_start: u16,
    /// Where the checksum is stored, in octets from `csum_start`.
    pub csum_offset: u16,
    /// Number of buffers that the frame takes (receive side only).
    pub num_buffers: u16,
}

impl NetHdr {
    /// The header of a complete frame.
    pub const NONE: NetHdr =
        NetHdr { flags: 0, gso_type: 0, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0, num_buffers: 0 };

    /// The header of a complete frame whose checksum is known to be right, for a receiver that negotiated
    /// [`VIRTIO_NET_F_GUEST_CSUM`].
    pub const VERIFIED: NetHdr = NetHdr { flags: VIRTIO_NET_HDR_F_DATA_VALID, ..NetHdr::NONE };

    /// The header of a complete frame.
    #[inline]
    pub const fn of_complete(verified: bool) -> &'static NetHdr {
        if verified { &NetHdr::VERIFIED } else { &NetHdr::NONE }
    }

    /// Decodes the 12 octets of the ring's form. For a legacy header, the caller adds two zero octets.
    pub fn from_bytes(b: [u8; NET_HDR_LEN]) -> NetHdr {
        let u16_at = |lo: u8, hi: u8| u16::from_le_bytes([lo, hi]);
        NetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16_at(b[2], b[3]),
            gso_size: u16_at(b[4], b[5]),
            csum_start: u16_at(b[6], b[7]),
            csum_offset: u16_at(b[8], b[9]),
            num_buffers: u16_at(b[10], b[11]),
        }
    }

    /// The ring's form as numbers: octets 0 to 7 and 8 to 11, the first one lowest.
    #[inline]
    pub fn to_words(self) -> (u64, u32) {
        let kind = u64::from(self.flags) | u64::from(self.gso_type) << 8;
        let sizes = u64::from(self.hdr_len) << 16 | u64::from(self.gso_size) << 32 | u64::from(self.csum_start) << 48;
        (kind | sizes, u32::from(self.csum_offset) | u32::from(self.num_buffers) << 16)
    }

    /// The ring's form. A legacy receiver gets the first ten octets.
    pub fn to_bytes(self) -> [u8; NET_HDR_LEN] {
        let (first, second) = self.to_words();
        let ([a, b, c, d, e, f, g, h], [i, j, k, l]) = (first.to_le_bytes(), second.to_le_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_header_survives_the_round_trip() {
        let hdr = NetHdr {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type: VIRTIO_NET_HDR_GSO_TCPV6,
            hdr_len: 0x1234,
            gso_size: 1440,
            csum_start: 54,
            csum_offset: 16,
            num_buffers: 3,
        };
        assert_eq!(NetHdr::from_bytes(hdr.to_bytes()), hdr);
    }

    #[test]
    fn unknown_bits_are_shown_and_not_hidden() {
        assert_eq!(feature_names(1 << 15 | 1 << 63), ["VIRTIO_NET_F_MRG_RXBUF", "bit 63"]);
    }
}
