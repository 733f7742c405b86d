//! A guest that sends long frames from memory which it takes away at once. A card that reads guests' memory must be done
//! with it when the switch answers: from then on the memory holds [`POISON`] alone.

use std::path::Path;

use crate::frames::{Mac, frame, mac};
use crate::guest::split::{Descriptor, NEXT};
use crate::guest::{GSO_TCPV4, Guest, NEEDS_CSUM, NetHdr};
use crate::network::POISON;

const RING: u16 = 1;
const REGION: u64 = 1 << 20;
/// Frames that are sent from a region, and octets of each behind its headers.
const FRAMES: u64 = 6;
const PAYLOAD: u32 = 20_000;
/// Octets of Ethernet, IPv4 and TCP.
const HEADERS: usize = 54;

/// A guest of a switch, and who gets its frames.
pub struct LeavingMemory {
    guest: Guest,
    to: Mac,
}

impl LeavingMemory {
    /// Connects station `number`.
    pub fn connect(socket: &Path, number: u8, to: Mac) -> LeavingMemory {
        let mut guest = Guest::config().connect(socket);
        guest.send(&frame(to, mac(number), &[0; 46]));
        guest.await_sent();
        LeavingMemory { guest, to }
    }

    /// Sends frames of a station from a new region, and takes the region away after `meanwhile`.
    pub fn come_and_go(&mut self, number: u8, meanwhile: impl FnOnce()) {
        let LeavingMemory { guest, to } = self;
        let region = guest.add_region(REGION);
        let begin = guest.memory().regions()[region].guest_addr;
        guest.memory().write(begin, &vec![0x11; REGION as usize]);
        let head = [&header().octets()[..], &headers(*to, mac(number))].concat();
        let at = guest.memory().allocate(128, 64);
        guest.memory().write(at, &head);
        for frame in 0..FRAMES {
            let descriptors = guest.take_descriptors(RING, 2);
            let (first, second) = (descriptors[0], descriptors[1]);
            let payload = begin + frame * u64::from(PAYLOAD);
            guest.describe(RING, first, Descriptor { addr: at, len: head.len() as u32, flags: NEXT, next: second });
            guest.describe(RING, second, Descriptor { addr: payload, len: PAYLOAD, flags: 0, next: 0 });
            guest.offer(RING, first);
        }
        meanwhile();
        guest.unplug(region);
        guest.memory().write(begin, &vec![POISON; REGION as usize]);
        (0..FRAMES).for_each(|_| _ = guest.take_used(RING));
    }

    /// Ends it in order.
    pub fn finish(self) {
        self.guest.disconnect();
    }
}

fn header() -> NetHdr {
    NetHdr {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: HEADERS as u16,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..NetHdr::default()
    }
}

/// Of a segment of TCP to a port that nobody listens at.
fn headers(to: Mac, from: Mac) -> Vec<u8> {
    let len = (HEADERS - 14) as u16 + PAYLOAD as u16;
    let mut headers = [&to[..], &from, &[8, 0, 0x45, 0], &len.to_be_bytes(), &[0, 1, 0x40, 0, 64, 6, 0, 0]].concat();
    headers.extend([10, 9, 0, 3, 10, 9, 0, 9, 0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0]);
    // The sum of the pseudo-header (RFC 9293, 3.1), in which TCP has number 6.
    let words = [0x0a09, 3, 0x0a09, 9, 6, u32::from(len) - 20];
    let sum = words.iter().sum::<u32>();
    headers.extend(((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
    headers.extend([0, 0]);
    headers
}
