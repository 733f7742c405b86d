//! Advanced descriptors (82599, 7.1.6 and 7.2.3; the 82576 has the same, 7.1.5 and 7.2.2): two words of eight octets.
//!
//! What the card writes is decoded into values that cannot be out of range for their types, and nothing more: lengths
//! and indices are checked where they are used.

/// A descriptor in memory.
pub type Words = [u64; 2];

/// What the card writes into a receive descriptor (82599, 7.1.6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteBack {
    low: u32,
    status: u32,
    /// PKT_LEN: octets in this descriptor's buffer.
    pub len: u16,
}

const DD: u32 = 1 << 0;
const EOP: u32 = 1 << 1;
const L4I: u32 = 1 << 5;
const RXE: u32 = 1 << 29;
const TCPE: u32 = 1 << 30;
const IPE: u32 = 1 << 31;

impl WriteBack {
    /// Decodes the words. `None`: the card has not written them (DD).
    #[inline]
    pub fn decode([low, high]: Words) -> Option<WriteBack> {
        let it = WriteBack { low: low as u32, status: high as u32, len: (high >> 32) as u16 };
        (it.status & DD != 0).then_some(it)
    }

    /// EOP: it is the frame's last descriptor. Otherwise status and errors are not valid, but [`WriteBack::next`].
    #[inline]
    pub fn is_last(&self) -> bool {
        self.status & EOP != 0
    }

    /// EOP without RXE: it is the last descriptor of a frame that is not damaged.
    #[inline]
    pub fn is_simple(&self) -> bool {
        self.status & (EOP | RXE) == EOP
    }

    /// NEXTP, of a descriptor of joined frames that is not the last: where the frame goes on. Of the 82599 alone.
    pub fn next(&self) -> u16 {
        (self.status >> 4) as u16
    }

    /// RSCCNT: 0 if the descriptor is not of joined frames; otherwise one more than the frames that begin in it.
    #[inline]
    pub fn joined(&self) -> u16 {
        (self.low >> 17 & 0xf) as u16
    }

    /// RXE: the frame is damaged. Cards give such frames only if they are told to.
    #[inline]
    pub fn is_damaged(&self) -> bool {
        self.status & RXE != 0
    }

    /// The card has looked at the checksum of TCP, UDP or SCTP and found it right (L4I, TCPE), and that of the IP header
    /// is not wrong (IPE). If it is wrong, the receiver finds that out: the 82599 also takes UDP without a checksum for
    /// wrong.
    #[inline]
    pub fn is_verified(&self) -> bool {
        self.status & (L4I | TCPE | IPE) == L4I
    }

    /// The words that a card would write, for tests.
    #[cfg(test)]
    pub fn words(len: u16, status: u32, joined: u16) -> Words {
        [u64::from(joined) << 17, u64::from(len) << 32 | u64::from(status | DD)]
    }
}

/// Status bits for [`WriteBack::words`].
#[cfg(test)]
pub mod status {
    /// The last descriptor.
    pub const LAST: u32 = super::EOP;
    /// The checksum was looked at.
    pub const CHECKED: u32 = super::L4I;
    /// It is wrong.
    pub const WRONG: u32 = super::TCPE;
    /// The frame is damaged.
    pub const DAMAGED: u32 = super::RXE;
}

/// A receive descriptor that is given to the card: the buffer's address, and no header buffer (7.1.6.1).
#[inline]
pub fn receive(buffer: u64) -> Words {
    [buffer, 0]
}

const DTYP_CONTEXT: u64 = 2 << 20;
const DTYP_DATA: u64 = 3 << 20;
const DTYP: u64 = 0xf << 20;
const DCMD_EOP: u64 = 1 << 24;
const DCMD_IFCS: u64 = 1 << 25;
const DCMD_RS: u64 = 1 << 27;
const DEXT: u64 = 1 << 29;
const DCMD_TSE: u64 = 1 << 31;
const CC: u64 = 1 << 39;
const POPTS_IXSM: u64 = 1 << 40;
const POPTS_TXSM: u64 = 1 << 41;
const PAYLEN: u32 = 46;
const TUCMD_IPV4: u64 = 1 << 10;
const TUCMD_L4T_TCP: u64 = 1 << 11;

/// A transmit descriptor that no card may see: it stands where the ring ends.
pub const NOTHING: Words = [0, 0];

/// A context descriptor: which headers the frames behind it have (82599, 7.2.3.2.3). Its index (IDX) is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// MACLEN: octets of the Ethernet header with its tags, up to 127.
    pub mac_len: u8,
    /// IPLEN: octets of the IP header with options or extension headers, up to 511.
    pub ip_len: u16,
    /// IPv4, not IPv6.
    pub ipv4: bool,
    /// TCP, not UDP.
    pub tcp: bool,
    /// L4LEN: octets of the TCP header; 0 if the frame is not segmented.
    pub l4_len: u8,
    /// MSS: octets of payload in a segment; 0 if the frame is not segmented.
    pub mss: u16,
}

impl Context {
    /// The most that MACLEN and IPLEN can say.
    pub const MAC_LEN_MAX: usize = 127;
    /// See [`Context::MAC_LEN_MAX`].
    pub const IP_LEN_MAX: usize = 511;

    /// The descriptor.
    pub fn encode(&self) -> Words {
        let kind = if self.tcp { TUCMD_L4T_TCP } else { 0 } | if self.ipv4 { TUCMD_IPV4 } else { 0 };
        let low = u64::from(self.ip_len) & 0x1ff | (u64::from(self.mac_len) & 0x7f) << 9;
        [low, kind | DTYP_CONTEXT | DEXT | u64::from(self.l4_len) << 40 | u64::from(self.mss) << 48]
    }
}

/// What the card is to do to a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// TXSM: it completes the checksum of TCP or UDP.
    pub checksum: bool,
    /// TSE: it cuts the frame into segments.
    pub segment: bool,
    /// IXSM: it sets the checksum of the IPv4 header.
    pub ip_checksum: bool,
    /// CC: it takes the context into account even if it does nothing of this. Virtual functions of the 82599 need that
    /// for the header's length (7.2.3.2.4).
    pub context: bool,
}

/// Data descriptors of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Data(u64);

impl Data {
    /// Those of a frame, of which `payload` octets count: all, or without headers if it is segmented (PAYLEN).
    #[inline]
    pub fn of(options: Options, payload: u32) -> Data {
        let Options { checksum, segment, ip_checksum, context } = options;
        let bit = |is: bool, bit: u64| if is { bit } else { 0 };
        let what = bit(checksum, POPTS_TXSM) | bit(segment, DCMD_TSE) | bit(ip_checksum, POPTS_IXSM) | bit(context, CC);
        Data(DTYP_DATA | DEXT | DCMD_IFCS | what | u64::from(payload) << PAYLEN)
    }

    /// The only descriptor of a frame of `len` octets at `address`, all of which count.
    #[inline]
    pub fn alone(self, address: u64, len: u16) -> Words {
        [address, self.0 | DCMD_EOP | u64::from(len) | u64::from(len) << PAYLEN]
    }

    /// The descriptor of `len` octets at `address`.
    #[inline]
    pub fn encode(self, address: u64, len: u16, last: bool) -> Words {
        [address, self.0 | u64::from(len) | if last { DCMD_EOP } else { 0 }]
    }
}

/// The second word of a data descriptor, of which the card is to report that it is done (RS).
#[inline]
pub fn reporting(high: u64) -> u64 {
    high | DCMD_RS
}

/// What a transmit descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data at this address.
    Data(u64),
    /// A context.
    Context,
    /// Neither: the end of what was sent, or nonsense.
    Other,
}

/// Reads a transmit descriptor that the worker wrote. The card may have changed it.
pub fn kind([low, high]: Words) -> Kind {
    match high & (DTYP | DEXT) {
        it if it == DTYP_DATA | DEXT => Kind::Data(low),
        it if it == DTYP_CONTEXT | DEXT => Kind::Context,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_back_is_decoded_as_the_data_sheet_says() {
        assert_eq!(WriteBack::decode([u64::MAX, u64::MAX - 1]), None);
        // RSS type 7, packet type, RSCCNT 3; DD, EOP, L4I, IPCS; 1,514 octets.
        let it = WriteBack::decode([7 | 0x13 << 4 | 3 << 17, 1514 << 32 | 0x63]).unwrap();
        assert_eq!(
            (it.len, it.joined(), it.is_last(), it.is_verified(), it.is_damaged()),
            (1514, 3, true, true, false)
        );
        let it = WriteBack::decode([0, 1514 << 32 | 0x63 | 1 << 30]).unwrap();
        assert!(!it.is_verified());
        let it = WriteBack::decode([1 << 17, 2048 << 32 | 0xabc << 4 | 1]).unwrap();
        assert_eq!((it.is_last(), it.next(), it.joined()), (false, 0xabc, 1));
        assert_eq!(WriteBack::decode(WriteBack::words(9, status::LAST, 2)).unwrap().joined(), 2);
    }

    #[test]
    fn transmit_descriptors_are_encoded_as_the_data_sheet_says() {
        let context = Context { mac_len: 14, ip_len: 20, ipv4: true, tcp: true, l4_len: 32, mss: 1448 };
        assert_eq!(context.encode(), [20 | 14 << 9, 0x2020_0000 | 0x400 | 0x800 | 32 << 40 | 1448 << 48]);
        let options = Options { checksum: true, segment: true, ip_checksum: true, context: false };
        let [low, high] = Data::of(options, 60_000).encode(0x1234_5678_9abc, 16_384, true);
        assert_eq!(low, 0x1234_5678_9abc);
        assert_eq!(high as u32, 16_384 | 0x0030_0000 | 1 << 24 | 1 << 25 | 1 << 29 | 1 << 31);
        assert_eq!(high >> 32, 3 << 8 | 60_000 << 14);
        assert_eq!(reporting(high) ^ high, 1 << 27);
        let plain = Data::of(Options { context: true, ..Options::default() }, 60).encode(0, 60, false);
        assert_eq!(plain[1], 60 | 0x0030_0000 | 1 << 25 | 1 << 29 | 1 << 39 | 60 << 46);
        assert_eq!([kind(plain), kind(context.encode()), kind(NOTHING)], [Kind::Data(0), Kind::Context, Kind::Other]);
    }
}
