//! What a frame carries, behind its VLAN tags and SNAP headers.

use super::{LAYERS, Look};

/// What begins like a VLAN tag: 802.1Q, 802.1ad, and what was used before 802.1ad.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// From here on the type field is a type, below it is a length (802.3, 3.2.6).
const FIRST_TYPE: u16 = 0x600;
/// What bridges say to each other: Slow Protocols, MVRP, MMRP, MSRP, TRILL and its IS-IS, LLDP.
const OF_BRIDGES: [u16; 7] = [0x8809, 0x88f5, 0x88f6, 0x22ea, 0x22f3, 0x22f4, 0x88cc];

/// What a frame carries, and where that begins. Of the last two, where what was read ends.
pub(super) enum Payload {
    Arp(usize),
    Rarp(usize),
    Ipv4(usize),
    Ipv6(usize),
    Bridges(usize),
    Other(usize),
}

/// Whether bridges alone listen to a group: 802.1D's and 802.1Q's, of which no switch forwards the first sixteen; and
/// those of CDP, VTP, PVST+ and their kin.
pub(super) fn is_of_bridges(dst: &[u8; 6]) -> bool {
    matches!(
        dst,
        [1, 0x80, 0xc2, 0, 0, ..0x30] | [1, 0, 0x0c, 0xcc, 0xcc, 0xcc | 0xcd] | [1, 0, 0x0c, 0xcd, 0xcd, 0xcd]
    )
}

/// What the frame carries. `None`: it is too short or wrapped too often, or in a way that nobody uses.
pub(super) fn payload(look: &Look<'_>) -> Option<Payload> {
    let mut at = 12;
    for _ in 0..=LAYERS {
        let kind = look.u16(at)?;
        at += 2;
        at += match kind {
            tag if TAGS.contains(&tag) => 2,
            FIRST_TYPE.. => return Some(of_type(kind, at)),
            // 802.2: two addresses, whose lowest bits are not part of them, and what kind of frame it is.
            _ => match *look.array(at)? {
                [0xaa, 0xaa, 0x03] => match *look.array(at + 3)? {
                    [0, 0, 0 | 0xf8] => 6,
                    [0, 0, 0x0c] => return Some(Payload::Bridges(at + 6)),
                    _ => return Some(Payload::Other(at + 6)),
                },
                [0x42 | 0x43, ..] => return Some(Payload::Bridges(at + 3)),
                // SNAP in another form; IP and ARP without SNAP.
                [0xaa | 0xab | 0x06 | 0x07 | 0x98 | 0x99, ..] => return None,
                _ => return Some(Payload::Other(at + 3)),
            },
        };
    }
    None
}

fn of_type(kind: u16, at: usize) -> Payload {
    match kind {
        0x0800 => Payload::Ipv4(at),
        0x0806 => Payload::Arp(at),
        0x8035 => Payload::Rarp(at),
        0x86dd => Payload::Ipv6(at),
        kind if OF_BRIDGES.contains(&kind) => Payload::Bridges(at),
        _ => Payload::Other(at),
    }
}
