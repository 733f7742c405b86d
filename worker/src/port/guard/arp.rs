//! ARP (RFC 826), probes and announcements (RFC 5227), and RARP (RFC 903).

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;

use super::sources::{Macs, Net4};
use super::{Decided, Guard, Look};

/// Octets of ARP between Ethernet and IPv4.
const LEN: usize = 28;
const REQUEST: u16 = 1;
const REVERSE_REQUEST: u16 = 3;

impl Guard {
    /// Whatever an ARP frame is, it makes receivers believe that its sender has an address. So that address must be the
    /// port's. Only a request may have none (0.0.0.0): it asks whether an address is free.
    pub(super) fn check_arp(&self, look: &Look<'_>, at: usize, is_reverse: bool) -> Result<Decided, DropReason> {
        if self.macs == Macs::Any && self.ipv4.is_none() && !(is_reverse && self.no_dhcp_server) {
            return Ok(Decided::until(at));
        }
        let unreadable = || self.unreadable(self.ipv4.is_some());
        let octets: &[u8; LEN] = look.array(at).ok_or_else(unreadable)?;
        // Ethernet or IEEE 802, IPv4.
        let [0, 1 | 6, 8, 0, 6, 4, op @ .., a, b, c, d, e, f, p, q, r, s, _, _, _, _, _, _, _, _, _, _] = *octets
        else {
            return Err(unreadable());
        };
        if !self.is_own(MacAddr::new([a, b, c, d, e, f]), look) {
            return Err(DropReason::GuardMac);
        }
        let op = u16::from_be_bytes(op);
        // Who answers RARP says what address another host has, as a DHCP server does.
        if is_reverse && op != REVERSE_REQUEST && (self.no_dhcp_server || self.ipv4.is_some()) {
            return Err(DropReason::GuardRole);
        }
        let sender = u32::from_be_bytes([p, q, r, s]);
        let may_have_none = is_reverse || op == REQUEST;
        let is_own = |list: &[Net4]| sender == 0 && may_have_none || list.iter().any(|net| net.has(sender));
        match self.ipv4.as_deref().is_none_or(is_own) {
            true => Ok(Decided::until(at + LEN)),
            false => Err(DropReason::GuardIp),
        }
    }
}
