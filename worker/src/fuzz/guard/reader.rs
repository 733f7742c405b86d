//! A plain reader of frames: it takes octets off the front, layer by layer, and lists each rule that the frame breaks.
//! Written from the RFCs and not from the guard.

use sv3::drop_reason::DropReason::{self, GuardIp, GuardMac, GuardRole};
use sv3::rules::{Guard, Sources};

/// Octets that are read at most.
const KNOWN: usize = 256;

type Mac = [u8; 6];

struct Reader<'a> {
    rules: &'a Guard,
    /// The addresses that the port has used, with room for so many.
    used: &'a [Mac],
    /// What is left of the frame, and how many octets of it are behind what is known.
    rest: &'a [u8],
    unknown: usize,
    broken: Vec<DropReason>,
}

/// A frame, or a part of it, that cannot be read.
struct Unreadable;

/// The rules that a frame breaks; the guard tells the first one. `used`: the addresses that the port has used first.
pub fn broken(rules: &Guard, frame: &[u8], used: &mut Vec<Mac>) -> Vec<DropReason> {
    let src: Mac = frame[6..12].try_into().unwrap();
    let before = used.len();
    if let Sources::First(most) = rules.macs {
        let is_source = src[0] & 1 == 0 && src != [0; 6];
        if is_source && !used.contains(&src) && used.len() < usize::from(most) {
            used.push(src);
        }
    }
    let broken = all_broken(rules, frame, used);
    // Only a frame that passes makes its source the port's own.
    used.truncate(if broken.is_empty() { used.len() } else { before });
    broken
}

fn all_broken(rules: &Guard, frame: &[u8], used: &[Mac]) -> Vec<DropReason> {
    let known = &frame[..frame.len().min(KNOWN)];
    let src: Mac = frame[6..12].try_into().unwrap();
    let mut reader = Reader { rules, used, rest: &known[12..], unknown: frame.len() - known.len(), broken: Vec::new() };
    reader.hold_mac(src);
    let bridges = [[1, 0, 0x0c, 0xcc, 0xcc, 0xcc], [1, 0, 0x0c, 0xcc, 0xcc, 0xcd], [1, 0, 0x0c, 0xcd, 0xcd, 0xcd]];
    let is_of_bridges = frame[..5] == [1, 0x80, 0xc2, 0, 0] && frame[5] < 0x30;
    if rules.no_bridge && (is_of_bridges || bridges.iter().any(|group| frame.starts_with(group))) {
        reader.broken.push(GuardRole);
    }
    if reader.layers().is_err() {
        reader.broken.push(reader.unreadable(rules.ipv4.is_some() || rules.ipv6.is_some()));
    }
    reader.broken
}

impl<'a> Reader<'a> {
    fn unreadable(&self, listed: bool) -> DropReason {
        let has_role = self.rules.no_dhcp_server || self.rules.no_router || self.rules.no_bridge;
        if listed {
            GuardIp
        } else if has_role {
            GuardRole
        } else {
            GuardMac
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Unreadable> {
        let (now, rest) = self.rest.split_at_checked(n).ok_or(Unreadable)?;
        self.rest = rest;
        Ok(now)
    }

    /// Nothing behind so many octets is part of a first fragment.
    fn cut(&mut self, octets: usize) {
        self.rest = self.rest.get(..octets).unwrap_or(self.rest);
    }

    fn number(&mut self) -> Result<u16, Unreadable> {
        self.take(2).map(|octets| u16::from(octets[0]) << 8 | u16::from(octets[1]))
    }

    fn hold_mac(&mut self, mac: Mac) {
        let has = match &self.rules.macs {
            Sources::Any => true,
            Sources::First(_) => self.used.contains(&mac),
            Sources::Listed(macs) => macs.contains(&mac),
        };
        if !has {
            self.broken.push(GuardMac);
        }
    }

    fn has_v4(&self, address: &[u8]) -> bool {
        self.rules.ipv4.as_ref().is_none_or(|list| list.iter().any(|it| alike(&it.address, address, it.len)))
    }

    fn has_v6(&self, address: &[u8]) -> bool {
        self.rules.ipv6.as_ref().is_none_or(|list| list.iter().any(|it| alike(&it.address, address, it.len)))
    }

    fn hold(&mut self, holds: bool, reason: DropReason) {
        if !holds {
            self.broken.push(reason);
        }
    }

    fn layers(&mut self) -> Result<(), Unreadable> {
        let lists_ip = self.rules.ipv4.is_some() || self.rules.ipv6.is_some();
        let mut wrappings = 0;
        loop {
            let kind = self.number()?;
            if let 0x8100 | 0x88a8 | 0x9100 = kind {
                self.take(2)?;
            } else if kind >= 1536 {
                return self.protocol(kind, lists_ip);
            } else {
                let llc = self.take(3)?;
                let (target, exact) = (llc[0] & 0xfe, llc == [0xaa, 0xaa, 3]);
                let is_bridges = match target {
                    0xaa if !exact => return Err(Unreadable),
                    0x06 | 0x98 => return Err(Unreadable),
                    0xaa => match self.take(3)? {
                        [0, 0, 0 | 0xf8] => None,
                        [0, 0, 0x0c] => Some(true),
                        _ => Some(false),
                    },
                    target => Some(target == 0x42),
                };
                if let Some(is_bridges) = is_bridges {
                    self.hold(!(self.rules.no_bridge && is_bridges), GuardRole);
                    self.hold(!lists_ip, GuardIp);
                    return Ok(());
                }
            }
            wrappings += 1;
            if wrappings > 4 {
                return Err(Unreadable);
            }
        }
    }

    fn protocol(&mut self, kind: u16, lists_ip: bool) -> Result<(), Unreadable> {
        let rules = self.rules;
        let holds_macs = rules.macs != Sources::Any;
        let (read, listed) = match kind {
            0x0806 if holds_macs || rules.ipv4.is_some() => (self.arp(false), rules.ipv4.is_some()),
            0x8035 if holds_macs || rules.ipv4.is_some() || rules.no_dhcp_server => {
                (self.arp(true), rules.ipv4.is_some())
            }
            0x0800 if rules.ipv4.is_some() || rules.no_dhcp_server || rules.no_router => {
                (self.ipv4(), rules.ipv4.is_some())
            }
            0x86dd if holds_macs || rules.ipv6.is_some() || rules.no_dhcp_server || rules.no_router => {
                (self.ipv6(), rules.ipv6.is_some())
            }
            0x0806 | 0x8035 | 0x0800 | 0x86dd => return Ok(()),
            other => {
                let is_bridges = [0x8809, 0x88cc, 0x88f5, 0x88f6, 0x22ea, 0x22f3, 0x22f4].contains(&other);
                self.hold(!(rules.no_bridge && is_bridges), GuardRole);
                self.hold(!lists_ip, GuardIp);
                return Ok(());
            }
        };
        if read.is_err() {
            self.broken.push(self.unreadable(listed));
        }
        Ok(())
    }

    fn arp(&mut self, is_reverse: bool) -> Result<(), Unreadable> {
        let arp = self.take(28)?;
        if !matches!(arp[..6], [0, 1 | 6, 8, 0, 6, 4]) {
            return Err(Unreadable);
        }
        let op = u16::from(arp[6]) << 8 | u16::from(arp[7]);
        self.hold_mac(arp[8..14].try_into().unwrap());
        let asks = if is_reverse { true } else { op == 1 };
        let sender = &arp[14..18];
        let serves = is_reverse && op != 3;
        self.hold(!(serves && (self.rules.no_dhcp_server || self.rules.ipv4.is_some())), GuardRole);
        self.hold(self.has_v4(sender) || asks && sender == [0; 4], GuardIp);
        Ok(())
    }

    fn ipv4(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest.len() + self.unknown;
        let fixed = self.take(20)?;
        let words = usize::from(fixed[0] & 0xf);
        if fixed[0] >> 4 != 4 || words < 5 || words * 4 > rest {
            return Err(Unreadable);
        }
        let options = words * 4 - 20;
        self.rest = self.rest.get(options..).unwrap_or(&[]);
        let has_more = fixed[6] & 0x20 != 0;
        let offset = u16::from(fixed[6] & 0x1f) << 8 | u16::from(fixed[7]);
        let (protocol, source, target) = (fixed[9], &fixed[12..16], &fixed[16..20]);
        if has_more && offset == 0 {
            let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
            self.cut(total.saturating_sub(words * 4));
        }
        let upper = self.rest;
        let is_request = protocol == 17 && upper.starts_with(&[0, 68, 0, 67]);
        let is_first_boot = source == [0; 4] && target == [255; 4] && is_request && !has_more && offset == 0;
        self.hold(self.has_v4(source) || is_first_boot, GuardIp);
        if offset > 0 {
            return Ok(());
        }
        if protocol == 17 && self.rules.no_dhcp_server {
            let (from, to) = (self.number()?, self.number()?);
            self.hold(from != 67 && to != 68, GuardRole);
        }
        if protocol == 1 && self.rules.no_router {
            let kind = self.take(1)?[0];
            self.hold(kind != 5 && kind != 9, GuardRole);
        }
        Ok(())
    }

    fn ipv6(&mut self) -> Result<(), Unreadable> {
        let fixed = self.take(40)?;
        if fixed[0] >> 4 != 6 {
            return Err(Unreadable);
        }
        let whole = self.rest.len() + self.unknown;
        let payload = match usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) {
            0 => whole,
            len => len.min(whole),
        };
        // What is left of the payload when so many octets of the frame are left.
        let padding = whole - payload;
        let source = &fixed[8..24];
        let (mut next, mut is_fragment) = (fixed[6], false);
        let (mut beyond, mut read) = (false, 0);
        loop {
            let unit = match next {
                0 | 43 | 60 | 135 | 139 | 140 => 8,
                51 => 4,
                44 => 0,
                _ => break,
            };
            let head = if beyond { &[] } else { self.rest };
            let (Some(after), Some(len)) = (head.first(), head.get(1)) else { return Err(Unreadable) };
            let mut is_later = false;
            if next == 44 {
                let (Some(high), Some(low)) = (head.get(2), head.get(3)) else { return Err(Unreadable) };
                is_later = *high != 0 || low & 0xf8 != 0;
                is_fragment |= is_later || low & 1 != 0;
            }
            next = *after;
            let octets = 8 + unit * usize::from(*len);
            read += octets;
            beyond = octets > self.rest.len();
            self.rest = self.rest.get(octets..).unwrap_or(&[]);
            if is_later {
                self.hold(self.has_v6(source), GuardIp);
                return Ok(());
            }
            if is_fragment && read > payload {
                return Err(Unreadable);
            }
        }
        if is_fragment {
            self.cut(payload - read);
        }
        let has_source = self.has_v6(source);
        match next {
            58 => return self.icmp(source, is_fragment, padding),
            17 if self.rules.no_dhcp_server => {
                self.hold(has_source, GuardIp);
                let (from, to) = (self.number()?, self.number()?);
                self.hold(from != 547 && to != 546, GuardRole);
            }
            _ => self.hold(has_source, GuardIp),
        }
        Ok(())
    }

    fn icmp(&mut self, source: &[u8], is_fragment: bool, padding: usize) -> Result<(), Unreadable> {
        let is_bare = source == [0; 16] && !self.has_v6(source);
        self.hold(is_bare || self.has_v6(source), GuardIp);
        let all = self.rest;
        let kind = self.take(1)?[0];
        if !(133..=137).contains(&kind) {
            let is_listener = [131, 132, 143].contains(&kind) && !is_fragment;
            self.hold(!is_bare || is_listener, GuardIp);
            return Ok(());
        }
        if self.rules.no_router && (kind == 134 || kind == 137) {
            self.broken.push(GuardRole);
        }
        if is_fragment {
            return Err(Unreadable);
        }
        if matches!(kind, 135 | 136) && (kind == 136 || is_bare) && self.rules.ipv6.is_some() {
            let target = all.get(8..24).ok_or(Unreadable)?;
            self.hold(self.has_v6(target), GuardIp);
        } else if kind == 136 && all.len() < 24 {
            return Err(Unreadable);
        }
        self.hold(!is_bare || matches!(kind, 133 | 135), GuardIp);
        if kind == 137 || self.rules.macs == Sources::Any {
            return Ok(());
        }
        self.rest = all;
        let fixed = if kind == 133 {
            8
        } else if kind == 134 {
            16
        } else {
            24
        };
        let left = |reader: &Reader<'_>| (reader.rest.len() + reader.unknown).saturating_sub(padding);
        if left(self) <= fixed {
            return Ok(());
        }
        self.take(fixed)?;
        while left(self) > 0 {
            let option = self.rest;
            let (Some(kind), Some(len)) = (option.first(), option.get(1)) else { return Err(Unreadable) };
            if *len == 0 {
                return Err(Unreadable);
            }
            if matches!(kind, 1 | 2) {
                let mac = option.get(2..8).ok_or(Unreadable)?;
                self.hold_mac(mac.try_into().unwrap());
            }
            let octets = 8 * usize::from(*len);
            if octets > self.rest.len() {
                // The end of the packet, or of what is known of it.
                return if left(self) > octets { Err(Unreadable) } else { Ok(()) };
            }
            self.rest = &self.rest[octets..];
        }
        Ok(())
    }
}

/// Whether the first `bits` bits are the same.
fn alike(one: &[u8], other: &[u8], bits: u8) -> bool {
    (0..usize::from(bits)).all(|bit| (one[bit / 8] ^ other[bit / 8]) >> (7 - bit % 8) & 1 == 0)
}
