//! IPv4 (RFC 791): its source, and what only DHCP servers and routers send.

use sv3::drop_reason::DropReason;

use super::{Decided, Guard, Look};

const ICMP: u8 = 1;
const UDP: u8 = 17;
/// Ports of DHCP's servers and clients (RFC 2131, 4.1).
pub(super) const DHCP: (u16, u16) = (67, 68);
/// Redirects (RFC 792) and router advertisements (RFC 1256).
const OF_ROUTERS: [u8; 2] = [5, 9];

/// A header.
struct Ipv4 {
    source: u32,
    target: u32,
    protocol: u8,
    /// It has an offset that is not 0: what is behind the header is the middle of something.
    is_later_fragment: bool,
    /// It is not the whole datagram.
    is_fragment: bool,
    /// Where it ends.
    end: usize,
    /// Where the datagram ends, by its length field.
    total_end: usize,
}

fn header(look: &Look<'_>, at: usize) -> Option<Ipv4> {
    let [first, _, t, u, _, _, f, g, _, protocol, _, _, a, b, c, d, p, q, r, s] = *look.array(at)?;
    let (words, fragment) = (usize::from(first & 15), u16::from_be_bytes([f, g]));
    let end = at + words * 4;
    let header = Ipv4 {
        source: u32::from_be_bytes([a, b, c, d]),
        target: u32::from_be_bytes([p, q, r, s]),
        protocol,
        is_later_fragment: fragment & 0x1fff != 0,
        is_fragment: fragment & 0x3fff != 0,
        end,
        total_end: at + usize::from(u16::from_be_bytes([t, u])),
    };
    (first >> 4 == 4 && words >= 5 && end <= look.len).then_some(header)
}

impl Guard {
    pub(super) fn check_ipv4(&self, look: &Look<'_>, at: usize) -> Result<Decided, DropReason> {
        if self.ipv4.is_none() && !self.no_dhcp_server && !self.no_router {
            return Ok(Decided::until(at));
        }
        let unreadable = || self.unreadable(self.ipv4.is_some());
        let ip = header(look, at).ok_or_else(unreadable)?;
        if self.ipv4.as_ref().is_some_and(|list| !list.iter().any(|net| net.has(ip.source)))
            && !asks_for_an_address(look, &ip)
        {
            return Err(DropReason::GuardIp);
        }
        if ip.is_later_fragment {
            return Ok(Decided::until(ip.end));
        }
        let look = &if ip.is_fragment { look.until(ip.total_end) } else { *look };
        match ip.protocol {
            UDP if self.no_dhcp_server => {
                let (from, to) = ports(look, ip.end).ok_or_else(unreadable)?;
                // Clients do not look at the port that an answer comes from.
                match from == DHCP.0 || to == DHCP.1 {
                    true => Err(DropReason::GuardRole),
                    false => Ok(Decided::until(ip.end + 4)),
                }
            }
            ICMP if self.no_router => match OF_ROUTERS.contains(&look.u8(ip.end).ok_or_else(unreadable)?) {
                true => Err(DropReason::GuardRole),
                false => Ok(Decided::until(ip.end + 1)),
            },
            // Without an address, it is let pass for its ports.
            _ => Ok(Decided::until(if ip.source == 0 { ip.end + 4 } else { ip.end })),
        }
    }
}

/// Whether it is the request of a DHCP client that has no address yet.
fn asks_for_an_address(look: &Look<'_>, ip: &Ipv4) -> bool {
    let is_bare = ip.source == 0 && ip.target == u32::MAX && ip.protocol == UDP && !ip.is_fragment;
    is_bare && ports(look, ip.end) == Some((DHCP.1, DHCP.0))
}

/// Source and destination of UDP.
pub(super) fn ports(look: &Look<'_>, at: usize) -> Option<(u16, u16)> {
    Some((look.u16(at)?, look.u16(at + 2)?))
}
