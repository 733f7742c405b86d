//! What a frame is made of, as far as a card looks into it.

/// The EtherTypes that a card knows.
const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;

/// The network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, with options or without.
    V4 { options: bool },
    /// IPv6, with extension headers or without.
    V6 { extensions: bool },
}

/// The transport layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A frame that was looked into. All offsets are in octets from the beginning of the frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers {
    /// The tag's content, if there is one.
    pub vlan: Option<u16>,
    /// What it carries, and where its header is.
    pub network: Option<(Network, usize)>,
    /// What that carries, and where its header is. None for fragments other than the first.
    pub transport: Option<(Transport, usize)>,
    /// It is a part of a fragmented packet, the first one or another.
    pub fragment: bool,
    /// Where the packet ends by its own length; what follows is padding.
    pub end: usize,
}

/// Two octets, big-endian; none past the end.
pub fn word(frame: &[u8], at: usize) -> Option<u16> {
    let octets = frame.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([octets[0], octets[1]]))
}

impl Headers {
    /// Looks into a frame that came from the wire. Headers that are cut off or malformed are not there.
    pub fn of(frame: &[u8]) -> Headers {
        let mut it = Headers { end: frame.len(), ..Headers::default() };
        let Some(mut ether_type) = word(frame, 12) else { return it };
        let mut at = 14;
        if ether_type == VLAN {
            let (Some(tag), Some(next)) = (word(frame, 14), word(frame, 16)) else { return it };
            (it.vlan, ether_type, at) = (Some(tag), next, 18);
        }
        match ether_type {
            IPV4 => it.ipv4(frame, at),
            IPV6 => it.ipv6(frame, at),
            _ => None,
        };
        it
    }

    fn ipv4(&mut self, frame: &[u8], at: usize) -> Option<()> {
        let first = *frame.get(at)?;
        let header = usize::from(first & 0xF) * 4;
        let total = usize::from(word(frame, at + 2)?);
        if first >> 4 != 4 || header < 20 || total < header || frame.len() < at + total {
            return None;
        }
        self.network = Some((Network::V4 { options: header > 20 }, at));
        self.end = at + total;
        let fragment = word(frame, at + 6)?;
        self.fragment = fragment & 0x3FFF != 0;
        if fragment & 0x1FFF == 0 {
            self.transport(frame, *frame.get(at + 9)?, at + header);
        }
        Some(())
    }

    fn ipv6(&mut self, frame: &[u8], at: usize) -> Option<()> {
        let payload = usize::from(word(frame, at + 4)?);
        if frame.get(at)? >> 4 != 6 || frame.len() < at + 40 + payload {
            return None;
        }
        self.end = at + 40 + payload;
        let (mut next, mut header) = (*frame.get(at + 6)?, at + 40);
        let mut extensions = false;
        self.network = Some((Network::V6 { extensions }, at));
        // Hop-by-hop options, routing, fragment, destination options.
        while matches!(next, 0 | 43 | 44 | 60) {
            extensions = true;
            self.network = Some((Network::V6 { extensions }, at));
            let len = if next == 44 { 8 } else { usize::from(*frame.get(header + 1)?) * 8 + 8 };
            if next == 44 {
                self.fragment = true;
                if word(frame, header + 2)? & 0xFFF8 != 0 {
                    return None;
                }
            }
            next = *frame.get(header)?;
            header += len;
        }
        self.transport(frame, next, header);
        Some(())
    }

    fn transport(&mut self, frame: &[u8], protocol: u8, at: usize) {
        let (kind, header) = match protocol {
            6 => (Transport::Tcp, 20),
            17 => (Transport::Udp, 8),
            132 => (Transport::Sctp, 12),
            _ => return,
        };
        if at + header <= self.end && self.end <= frame.len() {
            self.transport = Some((kind, at));
        }
    }

    /// The type of packet that a receive descriptor tells (data sheet, table 7.16): bits 4 to 16 of its first word.
    pub fn packet_type(&self) -> u32 {
        let network = match self.network {
            None => 0,
            Some((Network::V4 { options }, _)) => 0x10 | u32::from(options) << 5,
            Some((Network::V6 { extensions }, _)) => 0x40 | u32::from(extensions) << 7,
        };
        let transport = match self.transport {
            None => 0,
            Some((Transport::Tcp, _)) => 0x100,
            Some((Transport::Udp, _)) => 0x200,
            Some((Transport::Sctp, _)) => 0x400,
        };
        network | transport
    }
}
