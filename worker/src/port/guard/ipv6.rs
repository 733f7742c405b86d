//! IPv6 (RFC 8200): its source, and what is behind its extension headers.

use sv3::drop_reason::DropReason;

use super::ipv4::ports;
use super::sources::Macs;
use super::{Decided, Guard, Look};

/// Octets of the header.
const LEN: usize = 40;
const UDP: u8 = 17;
const ICMP: u8 = 58;
/// Extension headers of the common form (RFC 6564): hop-by-hop options, routing, destination options, mobility, HIP, shim6.
const COMMON: [u8; 6] = [0, 43, 60, 135, 139, 140];
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
/// Ports of DHCPv6's servers and clients (RFC 8415, 7.2).
pub(super) const DHCP: (u16, u16) = (547, 546);

/// A packet.
pub(super) struct Ipv6 {
    pub(super) source: u128,
    /// Where the packet ends, by its length field and the frame's end.
    pub(super) end: usize,
    /// Of the upper layer.
    pub(super) protocol: u8,
    /// Where the upper layer begins.
    pub(super) at: usize,
    /// It is not the whole packet.
    pub(super) is_fragment: bool,
    /// Its upper layer is not in it.
    is_later_fragment: bool,
}

/// Follows the chain of extension headers. `None`: it does not end in what is known of the frame.
fn packet(look: &Look<'_>, at: usize) -> Option<Ipv6> {
    let [first, ..] = *look.array::<1>(at)?;
    let len = usize::from(look.u16(at + 4)?);
    let mut packet = Ipv6 {
        source: u128::from_be_bytes(*look.array(at + 8)?),
        // A jumbogram has no length (RFC 2675).
        end: if len == 0 { look.len } else { look.len.min(at + LEN + len) },
        protocol: look.u8(at + 6)?,
        at: at + LEN,
        is_fragment: false,
        is_later_fragment: false,
    };
    if first >> 4 != 6 || look.len < packet.at {
        return None;
    }
    loop {
        let octets = match packet.protocol {
            header if COMMON.contains(&header) => 8 + 8 * usize::from(look.u8(packet.at + 1)?),
            AUTHENTICATION => 8 + 4 * usize::from(look.u8(packet.at + 1)?),
            FRAGMENT => {
                let offset = look.u16(packet.at + 2)?;
                // Neither offset nor more fragments: an atomic fragment (RFC 6946), which is a whole packet.
                packet.is_fragment |= offset & !6 != 0;
                packet.is_later_fragment = offset & !7 != 0;
                8
            }
            _ => return Some(packet),
        };
        packet.protocol = look.u8(packet.at)?;
        packet.at += octets;
        if packet.is_later_fragment {
            return Some(packet);
        }
        if packet.is_fragment && packet.at > packet.end {
            return None;
        }
    }
}

impl Guard {
    pub(super) fn check_ipv6(&self, look: &Look<'_>, at: usize) -> Result<Decided, DropReason> {
        if self.macs == Macs::Any && self.ipv6.is_none() && !self.no_dhcp_server && !self.no_router {
            return Ok(Decided::until(at));
        }
        let unreadable = || self.unreadable(self.ipv6.is_some());
        let packet = packet(look, at).ok_or_else(unreadable)?;
        let look = &if packet.is_fragment { look.until(packet.end) } else { *look };
        let is_bare = packet.source == 0;
        if !is_bare && !self.may_be_ipv6(packet.source) {
            return Err(DropReason::GuardIp);
        }
        match packet.protocol {
            _ if packet.is_later_fragment => self.has_address(&packet, Decided::until(packet.at)),
            UDP if self.no_dhcp_server => {
                let decided = self.has_address(&packet, Decided::until(packet.at + 4))?;
                let (from, to) = ports(look, packet.at).ok_or_else(unreadable)?;
                match from == DHCP.0 || to == DHCP.1 {
                    true => Err(DropReason::GuardRole),
                    false => Ok(decided),
                }
            }
            ICMP => self.check_icmp(look, &packet),
            _ => self.has_address(&packet, Decided::until(packet.at)),
        }
    }

    /// Whether the port has the address.
    pub(super) fn may_be_ipv6(&self, address: u128) -> bool {
        self.ipv6.as_ref().is_none_or(|list| list.iter().any(|net| net.has(address)))
    }

    /// The packet may pass if it needs no address, or has one.
    fn has_address(&self, packet: &Ipv6, decided: Decided) -> Result<Decided, DropReason> {
        let has = packet.source != 0 || self.may_be_ipv6(0);
        has.then_some(decided).ok_or(DropReason::GuardIp)
    }
}
