//! ICMPv6 (RFC 4443): neighbour discovery (RFC 4861, RFC 4862) and what only routers send (RFC 6105).

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;

use super::ipv6::Ipv6;
use super::sources::Macs;
use super::{Decided, Guard, Look};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Reports and "done" of multicast listeners (RFC 2710, RFC 3810), which a host may send before it has an address
/// (RFC 3590).
const LISTENERS: [u8; 3] = [131, 132, 143];
/// Where the target of a solicitation or an advertisement is.
const TARGET: usize = 8;
/// Options: link-layer address of the source, of the target.
const LINK_ADDRESSES: [u8; 2] = [1, 2];

impl Guard {
    pub(super) fn check_icmp(&self, look: &Look<'_>, packet: &Ipv6) -> Result<Decided, DropReason> {
        let unreadable = self.unreadable(self.ipv6.is_some());
        let kind = look.u8(packet.at).ok_or(unreadable)?;
        let is_bare = packet.source == 0 && !self.may_be_ipv6(0);
        let is_discovery = (ROUTER_SOLICITATION..=REDIRECT).contains(&kind);
        if !is_discovery {
            let may_be_bare = LISTENERS.contains(&kind) && !packet.is_fragment;
            return match is_bare && !may_be_bare {
                true => Err(DropReason::GuardIp),
                false => Ok(Decided::until(packet.at + 1)),
            };
        }
        if self.no_router && matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT) {
            return Err(DropReason::GuardRole);
        }
        // No receiver takes these (RFC 6980).
        if packet.is_fragment {
            return Err(unreadable);
        }
        let target = || look.array(packet.at + TARGET).map(|octets| u128::from_be_bytes(*octets)).ok_or(unreadable);
        let has_right = match kind {
            // Whoever asks without an address asks whether the target is free, for itself.
            SOLICITATION if is_bare => self.may_be_ipv6(target()?),
            ADVERTISEMENT => self.may_be_ipv6(target()?) && !is_bare,
            ROUTER_SOLICITATION => true,
            _ => !is_bare,
        };
        if !has_right {
            return Err(DropReason::GuardIp);
        }
        let options = match kind {
            ROUTER_SOLICITATION => 8,
            ROUTER_ADVERTISEMENT => 16,
            SOLICITATION | ADVERTISEMENT => 24,
            // The addresses in it are those of others, so nothing is known about them.
            _ => return Ok(Decided::until(packet.at + 1)),
        };
        let end = self.check_options(look, packet.at + options, packet.end)?;
        Ok(Decided { end, checksum: Some(packet.at + 2) })
    }

    /// Holds the link-layer addresses among the options to the port's. Returns where what was looked at ends.
    fn check_options(&self, look: &Look<'_>, mut at: usize, end: usize) -> Result<usize, DropReason> {
        let unreadable = self.unreadable(self.ipv6.is_some());
        if self.macs == Macs::Any {
            return Ok(at);
        }
        while at < end {
            let [kind, words] = *look.array(at).ok_or(unreadable)?;
            if words == 0 {
                return Err(unreadable);
            }
            if LINK_ADDRESSES.contains(&kind) {
                let mac = MacAddr::new(*look.array(at + 2).ok_or(unreadable)?);
                if !self.is_own(mac, look) {
                    return Err(DropReason::GuardMac);
                }
            }
            at += 8 * usize::from(words);
        }
        Ok(at)
    }
}
