//! A model of a bridge, written from 802.1Q and virtio and not from the switch: whether a frame is forwarded and to
//! which ports, and which frames a port may have got.

use std::borrow::Borrow;
use std::collections::HashMap;

use sv3::attachment::Learning;
use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::virtio::*;

use sv3::rules::PortRules;

use super::bounds::Bounds;
use super::vlans::{self, Way};
use crate::forward::fdb::AGE_S;
use crate::forward::offload;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The destination of frames that look for loops.
pub const PROBES: Mac = [0x73, 0x76, 0x33, 0, 0, 1];
/// Every rule, to choose one by its number.
pub const RULES: [Learning; 3] = [Learning::Free, Learning::Guarded, Learning::Uplink];

/// A frame as it was sent.
#[derive(Clone)]
pub struct Sent {
    /// The port that sent it.
    pub from: u16,
    /// The features of that port.
    pub features: u64,
    /// The header's first ten octets.
    pub hdr: [u8; 10],
    /// The octets from the destination address on.
    pub frame: Vec<u8>,
    /// It was sent in a way that is refused in any case.
    pub broken: Option<DropReason>,
}

/// A frame as it was received: the header's first ten octets, and the octets from the destination address on.
pub type Got = ([u8; 10], Vec<u8>);

/// Where an address is.
#[derive(Clone, Copy)]
struct Known {
    port: u16,
    /// Its last frame.
    second: u64,
    is_static: bool,
}

impl Known {
    fn is_valid(&self, now: u64) -> bool {
        self.is_static || now - self.second < AGE_S
    }
}

/// The ports that frames may go to, and the learnt addresses.
pub struct Bridge {
    /// What is known of each address in each VLAN.
    known: HashMap<(Mac, u16), Known>,
    /// What each port is held to. Nothing, if it is not there.
    pub port_rules: HashMap<u16, PortRules>,
    /// Which addresses each port may take. Free, if it is not there.
    pub rules: HashMap<u16, Learning>,
    /// Guards, storm control and limits.
    pub bounds: Bounds,
}

impl Bridge {
    /// A bridge that has learnt nothing.
    pub fn new() -> Bridge {
        Bridge { known: HashMap::new(), port_rules: HashMap::new(), rules: HashMap::new(), bounds: Bounds::default() }
    }

    /// The rules of a port.
    pub fn held_to(&self, port: u16) -> PortRules {
        self.port_rules.get(&port).cloned().unwrap_or_default()
    }

    /// A port has other rules. If its VLANs change, what was learnt of it is forgotten.
    pub fn rule(&mut self, port: u16, rules: PortRules) {
        if self.held_to(port).vlan != rules.vlan {
            self.known.retain(|_, known| known.is_static || known.port != port);
        }
        self.bounds.forget(port);
        self.port_rules.insert(port, rules);
    }

    /// An address is at a port for good.
    pub fn add(&mut self, port: u16, address: (Mac, u16)) {
        self.known.insert(address, Known { port, second: 0, is_static: true });
    }

    /// The opposite.
    pub fn remove(&mut self, port: u16, address: (Mac, u16)) {
        self.known.retain(|other, known| !(known.is_static && known.port == port && *other == address));
    }

    /// The addresses that are somewhere for good, and where.
    pub fn statics(&self) -> impl Iterator<Item = (u16, (Mac, u16))> {
        self.known.iter().filter(|(_, known)| known.is_static).map(|(address, known)| (known.port, *address))
    }

    /// What was learnt of a port is forgotten.
    pub fn flush(&mut self, port: u16) {
        self.known.retain(|_, known| known.is_static || known.port != port);
    }

    /// The ports that a frame is for, or why it is refused, in second `now`. `up`: the ports that take floods.
    pub fn forward(&mut self, sent: &Sent, up: &[u16], now: u64) -> Result<Vec<u16>, DropReason> {
        if let Some(reason) = sent.broken {
            return Err(reason);
        }
        let frame = &sent.frame;
        let (Some(dst), Some(src)) = (frame.first_chunk::<6>(), frame.get(6..12)) else {
            return Err(DropReason::ShortFrame);
        };
        let src: Mac = src.try_into().unwrap();
        match frame.len() {
            ..ETHERNET_LEN => return Err(DropReason::ShortFrame),
            MAX_FRAME.. if frame.len() > MAX_FRAME => return Err(DropReason::LongFrame),
            _ => {}
        }
        // Target `offload` checks that.
        let hdr = NetHdr::from_bytes(std::array::from_fn(|at| sent.hdr.get(at).copied().unwrap_or(0)));
        let head = &frame[..frame.len().min(offload::HEAD)];
        if sent.hdr[..2] != [0, 0] && offload::check(&hdr, head, frame.len(), sent.features).is_err() {
            return Err(DropReason::BadOffload);
        }
        let held = self.held_to(sent.from);
        if src[0] & 1 != 0 || src == [0; 6] {
            return Err(DropReason::BadSource);
        }
        if dst[..5] == [1, 0x80, 0xc2, 0, 0] && dst[5] < 16 {
            return Err(DropReason::LinkLocal);
        }
        let rule = |port: u16| self.rules.get(&port).copied().unwrap_or_default();
        let of_sender = rule(sent.from);
        if of_sender == Learning::Uplink && *dst == PROBES && vlans::ether_type(frame) == [0x88, 0xb5] {
            return Err(DropReason::LoopProbe);
        }
        let vid = vlans::of_frame(&held.vlan, sent)?;
        self.bounds.admit(sent, &held)?;
        let address = (src, vid);
        // A guest that runs keeps its address, if the sender is not free; and whoever has it for good keeps it anyway.
        let owner = self.known.get(&address).filter(|known| known.is_valid(now) && known.port != sent.from);
        let is_guest = |port: u16| up.contains(&port) && rule(port) != Learning::Uplink;
        let is_kept = |owner: &&Known| owner.is_static || of_sender != Learning::Free && is_guest(owner.port);
        if owner.filter(is_kept).is_some() {
            let is_uplink = of_sender == Learning::Uplink;
            return Err(if is_uplink { DropReason::UplinkEcho } else { DropReason::AddressConflict });
        }
        let own = |known: &&Known| known.port == sent.from && !known.is_static && known.is_valid(now);
        let is_known = self.known.get(&address).is_some_and(|known| known.port == sent.from && known.is_valid(now));
        let most = held.max_addresses as usize;
        if held.learning && !is_known && most > 0 && self.known.values().filter(own).count() >= most {
            return Err(DropReason::AddressLimit);
        }
        self.learn(sent, now);
        match self.known.get(&(*dst, vid)).filter(|known| dst[0] & 1 == 0 && known.is_valid(now)) {
            Some(known) if known.port == sent.from => Err(DropReason::Hairpin),
            Some(known) if *dst != [0; 6] && !up.contains(&known.port) => Ok(vec![known.port]),
            Some(known) if *dst != [0; 6] => match self.way(sent, vid, known.port) {
                Way::Goes if held.isolation.permits(self.held_to(known.port).isolation) => Ok(vec![known.port]),
                Way::Goes => Err(DropReason::Isolated),
                Way::Hops => Err(DropReason::VlanHop),
                Way::Elsewhere => Err(DropReason::NoDestination),
            },
            _ => self.flood(sent, (&held, vid), up),
        }
    }

    fn flood(&mut self, sent: &Sent, (held, vid): (&PortRules, u16), up: &[u16]) -> Result<Vec<u16>, DropReason> {
        self.bounds.flood(sent, held)?;
        let others = || up.iter().copied().filter(|to| *to != sent.from);
        let takes = |to: &u16| {
            let rules = self.held_to(*to);
            let floods = match sent.frame[..6] {
                [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => rules.bcast_flood,
                [first, ..] if first & 1 != 0 => rules.mcast_flood,
                _ => rules.flood,
            };
            self.way(sent, vid, *to) == Way::Goes && held.isolation.permits(rules.isolation) && floods
        };
        let to: Vec<u16> = others().filter(takes).collect();
        match to.is_empty() {
            true if others().any(|to| self.way(sent, vid, to) == Way::Hops) => Err(DropReason::VlanHop),
            true => Err(DropReason::NoDestination),
            false => Ok(to),
        }
    }

    fn way(&self, sent: &Sent, vid: u16, to: u16) -> Way {
        vlans::way(&self.held_to(sent.from).vlan, &self.held_to(to).vlan, (sent, vid))
    }

    /// A frame as it arrives at a port that it is for.
    pub fn arriving(&self, sent: &Sent, to: u16) -> Sent {
        vlans::arriving(&self.held_to(sent.from).vlan, &self.held_to(to).vlan, sent)
    }

    /// Learns the source of a frame that is not refused. A frame that waits has arrived as well.
    pub fn learn(&mut self, sent: &Sent, now: u64) {
        let held = self.held_to(sent.from);
        let Ok(vid) = vlans::of_frame(&held.vlan, sent) else { return };
        let _ = self.bounds.admit(sent, &held);
        let address = (sent.frame[6..12].try_into().unwrap(), vid);
        if held.learning && self.known.get(&address).is_none_or(|known| !known.is_static) {
            self.known.insert(address, Known { port: sent.from, second: now, is_static: false });
        }
    }
}

/// Compares what a port got with the frames for it, in order. Returns how many frames it did not get completely.
pub fn missing(due: &[impl Borrow<Sent>], got: &[Got]) -> usize {
    let mut due = due.iter().map(Borrow::borrow);
    let (mut current, mut missing): (Option<(&Sent, usize)>, _) = (None, 0);
    for (hdr, frame) in got {
        loop {
            if let Some((sent, pieces)) = &mut current
                && is_next(hdr, frame, sent, *pieces)
            {
                *pieces += 1;
                break;
            }
            missing += usize::from(current.is_some_and(|(sent, pieces)| !is_whole(sent, pieces)));
            current = due.next().map(|sent| (sent, 0));
            assert!(
                current.is_some(),
                "a frame that was not for this port, or not now: {hdr:?} {} {:?}",
                frame.len(),
                &frame[..frame.len().min(80)]
            );
        }
        // The next one belongs to another frame, even if it is equal.
        if hdr[1] != 0 || current.is_some_and(|(sent, _)| sent.hdr[1] == 0) {
            current = None;
        }
    }
    missing + usize::from(current.is_some_and(|(sent, pieces)| !is_whole(sent, pieces))) + due.len()
}

/// Whether all segments of a frame were received, if it was to be segmented.
fn is_whole(sent: &Sent, segments: usize) -> bool {
    if sent.hdr[1] == 0 {
        return false;
    }
    let payload = sent.frame.len() - headers(sent);
    segments == payload.div_ceil(gso_size(sent)).max(1)
}

fn gso_size(sent: &Sent) -> usize {
    usize::from(u16::from_le_bytes([sent.hdr[4], sent.hdr[5]]))
}

/// Octets of the headers that each segment repeats.
fn headers(sent: &Sent) -> usize {
    let l4 = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]));
    let tcp = usize::from(sent.frame.get(l4 + 12).unwrap_or(&0) >> 4) * 4;
    l4 + if sent.hdr[1] == VIRTIO_NET_HDR_GSO_UDP_L4 { 8 } else { tcp }
}

/// Whether a received frame is what was sent: unchanged, with its checksum completed, or segment number `segments`.
fn is_next(hdr: &[u8; 10], frame: &[u8], sent: &Sent, segments: usize) -> bool {
    let same_but = |from: usize, to: usize| {
        frame.len() == sent.frame.len()
            && frame[..from.min(frame.len())] == sent.frame[..from.min(frame.len())]
            && frame[to.min(frame.len())..] == sent.frame[to.min(frame.len())..]
    };
    let partial = sent.hdr[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    let field = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]))
        + usize::from(u16::from_le_bytes([sent.hdr[8], sent.hdr[9]]));
    let left = hdr[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    match (hdr[1] == sent.hdr[1], left, partial) {
        (true, false, true) => same_but(field, field + 2),
        (true, ..) => left == partial && same_but(0, 0),
        _ if sent.hdr[1] == 0 => false,
        // Target `offload` checks the headers of segments.
        (false, ..) => {
            let head = headers(sent);
            let payload = frame.get(head..).unwrap_or_default();
            let wanted = sent.frame[head..].chunks(gso_size(sent)).nth(segments);
            hdr[1] == 0
                && same_headers(frame, sent, head)
                && payload == wanted.unwrap_or_default()
                && (segments == 0 || wanted.is_some())
        }
    }
}

/// Whether a segment's headers are those of its frame, except for fields that differ between segments.
fn same_headers(segment: &[u8], sent: &Sent, head: usize) -> bool {
    let frame = &sent.frame;
    let l4 = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]));
    let mut l3 = ETHERNET_LEN;
    while matches!(frame.get(l3 - 2..l3), Some([0x81, 0] | [0x88, 0xa8])) {
        l3 += 4;
    }
    // Total length, identification and checksum of IPv4, payload length of IPv6.
    let ip = if frame[l3] >> 4 == 4 { [l3 + 2..l3 + 6, l3 + 10..l3 + 12] } else { [l3 + 4..l3 + 6, 0..0] };
    // Length and checksum of UDP; sequence number, flags and checksum of TCP.
    let transport = match sent.hdr[1] {
        VIRTIO_NET_HDR_GSO_UDP_L4 => [l4 + 4..l4 + 8, 0..0, 0..0],
        _ => [l4 + 4..l4 + 8, l4 + 13..l4 + 14, l4 + 16..l4 + 18],
    };
    let free = |at: usize| ip.iter().chain(&transport).any(|field| field.contains(&at));
    (0..head).all(|at| free(at) || segment.get(at) == frame.get(at))
}
