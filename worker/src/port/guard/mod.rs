//! Holds the frames of a port to the addresses and roles that its rules let it have ([`sv3::rules::Guard`]).
//!
//! Whoever sends the frame may be hostile, so what is not understood is not let pass: a frame is dropped if its headers
//! end too early, contradict themselves, or do not lie within the first [`WINDOW`] octets. It is dropped only if something
//! behind these headers is guarded: a port that is held to MAC addresses alone may send any IPv4.
//!
//! | octets | held to |
//! |---|---|
//! | Ethernet source | the MAC addresses |
//! | VLAN tags (802.1Q, 802.1ad, 0x9100) and SNAP headers (RFC 1042, 802.1H), up to [`LAYERS`] | looked behind |
//! | ARP, RARP (`arp`) | MAC addresses and IPv4 addresses of the sender |
//! | IPv4 (`ipv4`) | source; DHCP servers' ports; ICMP that only routers send |
//! | IPv6 (`ipv6`), behind extension headers, in first fragments | source; DHCPv6 servers' ports; neighbour discovery |
//! | all else | nothing, but if IP addresses are listed it is dropped: it could be IP in some other wrapping |
//!
//! **Fragments** (RFC 7113, RFC 7112). A first fragment must hold all headers up to the ports, in the packet and not in the
//! padding behind it: the receiver takes the octets of the next fragment for what is missing. Later fragments have none
//! and pass: without the first one nobody can put them together. Neighbour discovery in fragments is dropped (RFC 6980).
//!
//! **Offloads.** A sender may ask for a checksum anywhere in its frame, and whoever completes the checksum overwrites two
//! octets that were checked. [`Decided`] says which octets must not be overwritten.
//!
//! Most frames are [`Guard::is_usual`]: TCP or UDP in a plain IP header. The answer for these takes a few comparisons of
//! words; all others take the way of [`Guard::check`].

mod arp;
mod ipv4;
mod ipv6;
mod neighbours;
mod sources;
mod usual;
mod wrapping;

use std::sync::atomic::AtomicU64;

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;

pub use sources::claim;
use sources::{Macs, Net4, Net6};
use wrapping::Payload;

pub use usual::Example;

/// Octets of a frame's beginning that are looked at, at most.
pub const WINDOW: usize = 256;
/// Most VLAN tags and SNAP headers of a frame. Two tags are what 802.1ad has; a receiver takes off no more than four.
pub const LAYERS: usize = 4;

/// What a port's frames are held to.
#[derive(Debug, PartialEq, Eq)]
pub struct Guard {
    macs: Macs,
    ipv4: Option<Box<[Net4]>>,
    ipv6: Option<Box<[Net6]>>,
    no_dhcp_server: bool,
    no_router: bool,
    no_bridge: bool,
}

/// The addresses that a port has used, as the ledger remembers them: so the next worker knows them.
pub type Claimed = [AtomicU64];

/// Which octets of a frame decided that it may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The octets before this one.
    end: usize,
    /// But for the two octets of a checksum here.
    checksum: Option<usize>,
}

impl Decided {
    /// All octets up to `end`.
    fn until(end: usize) -> Decided {
        Decided { end, checksum: None }
    }

    /// Whether the frame may still pass if the two octets at `field` are overwritten.
    pub fn spares(&self, field: usize) -> bool {
        field >= self.end || self.checksum == Some(field)
    }
}

/// A frame to be checked.
#[derive(Clone, Copy)]
struct Look<'a> {
    /// The frame's first octets, all or [`WINDOW`] of them.
    octets: &'a [u8],
    /// Octets of the whole frame.
    len: usize,
    claimed: &'a Claimed,
    /// The Ethernet source, which the port has or may claim.
    src: MacAddr,
}

impl<'a> Look<'a> {
    fn array<const N: usize>(&self, at: usize) -> Option<&'a [u8; N]> {
        self.octets.get(at..)?.first_chunk()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.octets.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).copied().map(u16::from_be_bytes)
    }

    /// The octets before this one alone.
    fn until(&self, end: usize) -> Look<'a> {
        Look { octets: self.octets.get(..end).unwrap_or(self.octets), ..*self }
    }
}

impl Guard {
    /// The guard as the supervisor told it, which was checked. `None`: any frame passes.
    pub fn of(rules: &sv3::rules::Guard) -> Option<Guard> {
        let guard = Guard {
            macs: Macs::of(&rules.macs),
            ipv4: rules.ipv4.as_ref().map(|list| list.iter().map(Net4::of).collect()),
            ipv6: rules.ipv6.as_ref().map(|list| list.iter().map(Net6::of).collect()),
            no_dhcp_server: rules.no_dhcp_server,
            no_router: rules.no_router,
            no_bridge: rules.no_bridge,
        };
        (!rules.is_open()).then_some(guard)
    }

    /// Whether a frame of `len` octets may pass. `octets`: its first ones, all or [`WINDOW`] of them, at least an Ethernet
    /// header. If nothing else forbids it, its source claims one of the places that [`Guard::claims`] returns.
    pub fn check(&self, octets: &[u8], len: usize, claimed: &Claimed) -> Result<Decided, DropReason> {
        let octets = octets.get(..WINDOW).unwrap_or(octets);
        let src = MacAddr::new(*octets.get(6..).and_then(<[u8]>::first_chunk).ok_or(DropReason::ShortFrame)?);
        let look = &Look { octets, len, claimed, src };
        let dst = look.array(0).ok_or(DropReason::ShortFrame)?;
        if self.macs.admit(src, claimed).is_none() {
            return Err(DropReason::GuardMac);
        }
        if self.no_bridge && wrapping::is_of_bridges(dst) {
            return Err(DropReason::GuardRole);
        }
        match wrapping::payload(look).ok_or(self.unreadable(self.lists_ip()))? {
            Payload::Arp(at) => self.check_arp(look, at, false),
            Payload::Rarp(at) => self.check_arp(look, at, true),
            Payload::Ipv4(at) => self.check_ipv4(look, at),
            Payload::Ipv6(at) => self.check_ipv6(look, at),
            Payload::Bridges(_) if self.no_bridge => Err(DropReason::GuardRole),
            Payload::Bridges(_) | Payload::Other(_) if self.lists_ip() => Err(DropReason::GuardIp),
            Payload::Bridges(at) | Payload::Other(at) => Ok(Decided::until(at)),
        }
    }

    /// Whether the port may send from this address.
    pub fn may_have(&self, mac: MacAddr, claimed: &Claimed) -> bool {
        self.macs.have(mac.bits(), claimed)
    }

    /// The places of which an admitted frame's source must [`claim`] one before the frame is forwarded.
    pub fn claims<'c>(&self, src: MacAddr, claimed: &'c Claimed) -> &'c Claimed {
        self.macs.admit(src, claimed).unwrap_or(&[])
    }

    /// Whether an address in a frame is the port's, or the source that the frame may claim.
    fn is_own(&self, mac: MacAddr, look: &Look<'_>) -> bool {
        self.macs.have(mac.bits(), look.claimed) || matches!(self.macs, Macs::First(_)) && mac == look.src
    }

    fn lists_ip(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// The reason of a frame that cannot be read, of a protocol whose addresses are `listed` or not.
    fn unreadable(&self, listed: bool) -> DropReason {
        match listed {
            true => DropReason::GuardIp,
            false if self.no_dhcp_server || self.no_router || self.no_bridge => DropReason::GuardRole,
            false => DropReason::GuardMac,
        }
    }
}

#[cfg(test)]
mod tests;
