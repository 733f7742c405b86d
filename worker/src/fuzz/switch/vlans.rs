//! The model's VLANs, written from 802.1Q and the meaning of the rules ([`sv3::rules::Vlan`]).

use sv3::drop_reason::DropReason;
use sv3::rules::{Isolation, PortRules, TagType, VidRange, Vids, Vlan};

use super::bounds::bound;
use super::bridge::Sent;

/// Whether a frame may leave by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Goes,
    /// The port is not in the frame's VLAN.
    Elsewhere,
    /// The frame would leave with a tag in front that is not the switch's.
    Hops,
}

/// Some rules, by two octets.
pub fn rules([a, b]: [u8; 2]) -> PortRules {
    let both = || Vids([10, 20].map(|vid| VidRange { first: vid, last: vid }).to_vec());
    let trunk = |native, tag| Vlan::Trunk { native, allowed: both(), tag };
    let rules = PortRules {
        vlan: match a & 7 {
            0 | 1 => Vlan::Unaware,
            2 => Vlan::Access { vid: 10 },
            3 => Vlan::Access { vid: 20 },
            4 => Vlan::Tunnel { vid: 10 },
            5 => trunk(None, TagType::Customer),
            6 => trunk(Some(10), TagType::Customer),
            _ => trunk(None, TagType::Service),
        },
        isolation: match a >> 3 & 7 {
            1 => Isolation::Isolated,
            2 => Isolation::Group(1),
            3 => Isolation::Group(2),
            _ => Isolation::Open,
        },
        flood: b & 1 == 0,
        mcast_flood: b & 2 == 0,
        bcast_flood: b & 4 == 0,
        learning: b & 8 == 0,
        max_addresses: [0, 1, 2, 8][usize::from(b >> 4 & 3)],
        ..PortRules::default()
    };
    bound(rules, b >> 6)
}

fn word(frame: &[u8], at: usize) -> u16 {
    let octet = |at: usize| frame.get(at).copied().unwrap_or(0);
    u16::from_be_bytes([octet(at), octet(at + 1)])
}

fn is_tag(kind: u16) -> bool {
    [0x8100, 0x88a8, 0x9100].contains(&kind)
}

/// What the tags begin with that a port gives a meaning to.
fn own_tag(vlan: &Vlan) -> Option<u16> {
    match vlan {
        Vlan::Access { .. } => Some(0x8100),
        Vlan::Trunk { tag: TagType::Customer, .. } => Some(0x8100),
        Vlan::Trunk { tag: TagType::Service, .. } => Some(0x88a8),
        _ => None,
    }
}

/// Octets of the tag that says a frame's VLAN.
fn tag_len(vlan: &Vlan, frame: &[u8]) -> usize {
    if own_tag(vlan) == Some(word(frame, 12)) { 4 } else { 0 }
}

/// The type of a frame, behind one tag.
pub fn ether_type(frame: &[u8]) -> [u8; 2] {
    let at = if [0x8100, 0x88a8].contains(&word(frame, 12)) { 16 } else { 12 };
    word(frame, at).to_be_bytes()
}

/// The VLAN of a frame from a port with these VLANs.
pub fn of_frame(vlan: &Vlan, sent: &Sent) -> Result<u16, DropReason> {
    let (kind, said) = (word(&sent.frame, 12), word(&sent.frame, 14) & 0xfff);
    let of_untagged = match vlan {
        Vlan::Unaware => return Ok(0),
        Vlan::Access { vid } | Vlan::Tunnel { vid } => Some(*vid),
        Vlan::Trunk { native, .. } => *native,
    };
    let vid = match (vlan, is_tag(kind)) {
        (Vlan::Tunnel { .. }, _) | (_, false) => of_untagged,
        _ if own_tag(vlan) != Some(kind) => None,
        (_, true) if said == 0 => of_untagged,
        (Vlan::Trunk { allowed, .. }, true) => Some(said).filter(|said| allowed.contains(*said)),
        _ => None,
    };
    let (vid, tag) = (vid.ok_or(DropReason::VlanTag)?, tag_len(vlan, &sent.frame));
    if tag > 0 && sent.frame.len() < 18 {
        return Err(DropReason::ShortFrame);
    }
    // A checksum that begins within the tag.
    let begins = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]));
    if sent.hdr[0] & 1 != 0 && begins < 14 + tag {
        return Err(DropReason::BadOffload);
    }
    Ok(vid)
}

/// Whether frames of a VLAN leave by a port without a tag; `None`: they do not leave.
fn leaves_untagged(vlan: &Vlan, vid: u16) -> Option<bool> {
    match vlan {
        Vlan::Unaware => (vid == 0).then_some(true),
        Vlan::Access { vid: own } | Vlan::Tunnel { vid: own } => (*own == vid).then_some(true),
        Vlan::Trunk { native, allowed, .. } => allowed.contains(vid).then_some(*native == Some(vid)),
    }
}

/// Whether a frame of this VLAN may go from one port to the other.
pub fn way(from: &Vlan, to: &Vlan, (sent, vid): (&Sent, u16)) -> Way {
    let behind = word(&sent.frame, 12 + tag_len(from, &sent.frame));
    let is_free = matches!(to, Vlan::Unaware | Vlan::Tunnel { .. });
    match leaves_untagged(to, vid) {
        None => Way::Elsewhere,
        Some(true) if is_tag(behind) && !is_free => Way::Hops,
        Some(_) => Way::Goes,
    }
}

/// The frame as the other port gets it.
pub fn arriving(from: &Vlan, to: &Vlan, sent: &Sent) -> Sent {
    let (frame, vid) = (&sent.frame, of_frame(from, sent).unwrap_or(0));
    let old = tag_len(from, frame);
    let bits = if old > 0 { word(frame, 14) & 0xf000 } else { 0 };
    let new = match (to, leaves_untagged(to, vid)) {
        (Vlan::Trunk { tag, .. }, Some(false)) => [tag.ethertype(), bits | vid].map(u16::to_be_bytes).concat(),
        _ => Vec::new(),
    };
    let mut hdr = sent.hdr;
    if hdr[0] & 1 != 0 {
        let begins = u16::from_le_bytes([hdr[6], hdr[7]]) + new.len() as u16 - old as u16;
        [hdr[6], hdr[7]] = begins.to_le_bytes();
    }
    Sent { hdr, frame: [&frame[..12], &new, &frame[12 + old..]].concat(), ..sent.clone() }
}
