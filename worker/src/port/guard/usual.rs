//! The frames that most frames are: TCP or UDP behind a plain IP header, to one receiver.

use sv3::frame::MacAddr;

use super::{Claimed, Guard, ipv4, ipv6};
use crate::memory::frame_head::{Window, WindowMask};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Type and first octet of an IPv4 header without options; and of an IPv6 header, where half of the octet may differ.
const IPV4: u64 = 0x08_0045;
const IPV6: u64 = 0x86_dd60;
/// The bit of a group address, in the word whose last four octets begin the frame.
const GROUP: u64 = 1 << 24;

/// What [`Guard::is_usual`] looks at in an IPv4 frame: type, header length, fragment, protocol, source, ports.
static OF_IPV4: WindowMask =
    WindowMask::new([!0 << 40, 0x3fff_00ff_0000_ffff, 0xffff_0000_0000_ffff, 0xffff << 48, 0, 0]);
/// The same of IPv6.
static OF_IPV6: WindowMask = WindowMask::new([!0 << 44, 0xff00_ffff_ffff_ffff, !0, 0xffff << 48, 0, 0xffff_ffff << 16]);

/// A frame that is usual, as an example for others.
#[derive(Clone, Copy)]
pub struct Example<'w> {
    window: &'w Window,
    mask: &'static WindowMask,
}

impl<'w> Example<'w> {
    /// `window` is that of a usual frame.
    #[inline]
    pub fn of(window: &'w Window) -> Example<'w> {
        let [_, _, _, kind, ..] = window.words();
        Example { window, mask: if kind >> 40 == IPV4 { &OF_IPV4 } else { &OF_IPV6 } }
    }

    /// Whether another frame with the same addresses is usual for the same reasons. False: it may be for others.
    #[inline]
    pub fn stands_for(&self, other: &Window) -> bool {
        other.is_like(self.window, self.mask)
    }
}

impl Guard {
    /// Whether a frame to one receiver certainly passes, by its first octets: then [`Guard::check`] lets it pass too.
    /// The frame has a net header of 12 octets and is at least as long as the window.
    #[inline]
    pub fn is_usual(&self, window: &Window, claimed: &Claimed) -> bool {
        // After the header and four octets, the words begin in the frame at octet 4, 12 (its type), 20, 28 and so on.
        let [_, begin, source, kind, a, b, c, _, d] = window.words();
        if begin & GROUP != 0 || !self.macs.have(MacAddr::from_bits(source).bits(), claimed) {
            return false;
        }
        let kind = kind >> 40;
        if kind == IPV4 {
            let address = (a << 16 | b >> 48) as u32;
            let is_whole = a >> 48 & 0x3fff == 0;
            let may = || self.ipv4.as_ref().is_none_or(|list| list.iter().any(|net| net.has(address)));
            return is_whole && self.is_harmless((a >> 32) as u8, (b as u16, (c >> 48) as u16), ipv4::DHCP) && may();
        }
        if kind & !0xf == IPV6 {
            let address = u128::from(a << 16 >> 16) << 80 | u128::from(b) << 16 | u128::from(c >> 48);
            let ports = ((d >> 32) as u16, (d >> 16) as u16);
            return address != 0 && self.is_harmless((a >> 56) as u8, ports, ipv6::DHCP) && self.may_be_ipv6(address);
        }
        false
    }

    /// Whether it is TCP, or UDP that is no DHCP server's.
    #[inline]
    fn is_harmless(&self, protocol: u8, (from, to): (u16, u16), (server, client): (u16, u16)) -> bool {
        protocol == TCP || protocol == UDP && !(self.no_dhcp_server && (from == server || to == client))
    }
}
