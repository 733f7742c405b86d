//! Where the headers of a frame are.

use sv3::frame::ETHERNET_LEN;

/// Octets of a frame's beginning in which headers are looked for.
pub const HEAD: usize = 256;
/// TCP as protocol of IP.
pub const TCP: u8 = 6;
/// UDP as protocol of IP.
pub const UDP: u8 = 17;
/// Octets of an IPv6 header.
pub const IPV6: usize = 40;

/// The headers of an IP datagram that is not a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where the IP header begins, behind the Ethernet header and up to two VLAN tags.
    pub l3: usize,
    /// Where its payload begins, behind options or extension headers (RFC 8200, 4).
    pub l4: usize,
    /// What that is.
    pub protocol: u8,
    /// IPv6, not IPv4.
    pub v6: bool,
}

impl Headers {
    /// Finds them in a frame's first octets.
    pub fn find(head: &[u8]) -> Option<Headers> {
        let mut l3 = ETHERNET_LEN;
        for _ in 0..3 {
            match be16(head, l3 - 2)? {
                0x8100 | 0x88a8 => l3 += 4,
                0x0800 => return Headers::of_ipv4(head, l3),
                0x86dd => return Headers::of_ipv6(head, l3),
                _ => return None,
            }
        }
        None
    }

    fn of_ipv4(head: &[u8], l3: usize) -> Option<Headers> {
        let (first, fragment) = (*head.get(l3)?, be16(head, l3 + 6)? & 0x3fff);
        let len = usize::from(first & 0xf) * 4;
        let it = Headers { l3, l4: l3 + len, protocol: *head.get(l3 + 9)?, v6: false };
        (first >> 4 == 4 && len >= 20 && fragment == 0).then_some(it)
    }

    fn of_ipv6(head: &[u8], l3: usize) -> Option<Headers> {
        let (mut l4, mut protocol) = (l3 + IPV6, *head.get(l3 + 6)?);
        // Hop-by-hop options, routing, destination options; their length is in units of eight octets.
        while matches!(protocol, 0 | 43 | 60) {
            protocol = *head.get(l4)?;
            l4 += 8 + usize::from(*head.get(l4 + 1)?) * 8;
        }
        (head.get(l3)? >> 4 == 6).then_some(Headers { l3, l4, protocol, v6: true })
    }

    /// Where a TCP header ends.
    pub fn tcp_end(&self, head: &[u8]) -> Option<usize> {
        let words = usize::from(*head.get(self.l4 + 12)? >> 4);
        (self.protocol == TCP && words >= 5).then_some(self.l4 + words * 4)
    }
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]))
}
