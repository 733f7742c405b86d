//! A model of a bridge, written from 802.1Q and virtio and not from the switch: whether a frame is forwarded and to
//! which ports, and which frames a port may have got.

use std::collections::HashMap;

use sv3::attachment::Learning;
use sv3::drop_reason::DropReason;
use sv3::frame::{ETHERNET_LEN, MAX_FRAME};
use sv3::virtio::*;

use crate::forward::fdb::AGE_S;
use crate::forward::offload;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The destination of frames that look for loops.
pub const PROBES: Mac = [0x73, 0x76, 0x33, 0, 0, 1];
/// Every rule, to choose one by its number.
pub const RULES: [Learning; 3] = [Learning::Free, Learning::Guarded, Learning::Uplink];

/// A frame as it was sent.
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

/// The ports that frames may go to, and the learnt addresses.
pub struct Bridge {
    /// Port and second of each address's last frame.
    learnt: HashMap<Mac, (u16, u64)>,
    /// Which addresses each port may take. Free, if it is not there.
    pub rules: HashMap<u16, Learning>,
}

impl Bridge {
    /// A bridge that has learnt nothing.
    pub fn new() -> Bridge {
        Bridge { learnt: HashMap::new(), rules: HashMap::new() }
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
        if src[0] & 1 != 0 || src == [0; 6] {
            return Err(DropReason::BadSource);
        }
        if dst[..5] == [1, 0x80, 0xc2, 0, 0] && dst[5] < 16 {
            return Err(DropReason::LinkLocal);
        }
        let rule = |port: u16| self.rules.get(&port).copied().unwrap_or_default();
        let of_sender = rule(sent.from);
        if of_sender == Learning::Uplink && *dst == PROBES && frame[12..14] == [0x88, 0xb5] {
            return Err(DropReason::LoopProbe);
        }
        // A guest that runs keeps its address, if the sender is not free.
        let owner = self.learnt.get(&src).filter(|(_, seen)| now - seen < AGE_S).map(|(owner, _)| *owner);
        let is_guest = |port: &u16| *port != sent.from && up.contains(port) && rule(*port) != Learning::Uplink;
        match (owner.filter(is_guest), of_sender) {
            (Some(_), Learning::Uplink) => return Err(DropReason::UplinkEcho),
            (Some(_), Learning::Guarded) => return Err(DropReason::AddressConflict),
            _ => {}
        }
        self.learn(sent, now);
        match self.learnt.get(dst).filter(|(_, seen)| dst[0] & 1 == 0 && now - seen < AGE_S) {
            Some((to, _)) if *to == sent.from => Err(DropReason::Hairpin),
            Some((to, _)) if *dst != [0; 6] => Ok(vec![*to]),
            _ => {
                let others: Vec<u16> = up.iter().copied().filter(|to| *to != sent.from).collect();
                if others.is_empty() { Err(DropReason::NoDestination) } else { Ok(others) }
            }
        }
    }

    /// Learns the source of a frame that is not refused. A frame that waits has arrived as well.
    pub fn learn(&mut self, sent: &Sent, now: u64) {
        self.learnt.insert(sent.frame[6..12].try_into().unwrap(), (sent.from, now));
    }
}

/// Compares what a port got with the frames for it, in order. Returns how many frames it did not get completely.
pub fn missing(due: &[&Sent], got: &[Got]) -> usize {
    let mut due = due.iter();
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
            current = due.next().map(|sent| (*sent, 0));
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
