//! Target `guard`: any frame held to any guard. A plain reader of the standards (`reader`) says which rules a frame breaks,
//! and the guard drops the frame for the first of these, or for none if there is none.

pub mod reader;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::drop_reason::DropReason;
use sv3::frame::MacAddr;
use sv3::fuzz::Input;
use sv3::rules::{self, LIST_MAX, Prefix4, Prefix6, Sources};

use crate::memory::frame_head::{FrameHead, WINDOW_LEN, Window};
use crate::memory::slice::GuestSlice;
use crate::port::guard::{Guard, WINDOW, claim};

/// Addresses that a guarded port may have.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A guard by its parts, one bit for each: listed MAC addresses, the first two, IPv4, IPv6, no DHCP server, no router, no
/// bridge.
pub fn rules(parts: u8) -> rules::Guard {
    let has = |bit: u8| parts >> bit & 1 != 0;
    let (mut net, mut local) = ([0; 16], [0; 16]);
    net[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    (local[0], local[1], local[15]) = (0xfe, 0x80, 1);
    rules::Guard {
        macs: match (has(0), has(1)) {
            (true, _) => Sources::Listed(MACS.to_vec()),
            (false, true) => Sources::First(2),
            (false, false) => Sources::Any,
        },
        ipv4: has(2)
            .then(|| vec![Prefix4 { address: [10, 0, 0, 0], len: 24 }, Prefix4 { address: [192, 0, 2, 1], len: 32 }]),
        ipv6: has(3).then(|| vec![Prefix6 { address: net, len: 64 }, Prefix6 { address: local, len: 128 }]),
        no_dhcp_server: has(4),
        no_router: has(5),
        no_bridge: has(6),
    }
}

/// Octets: the parts of the guard (1), then a frame.
pub fn guard(octets: &[u8]) {
    let mut input = Input::new(octets);
    let rules = rules(input.u8());
    let frame = input.take(4096);
    let Some(guard) = Guard::of(&rules) else { return };
    if frame.len() < 14 {
        return;
    }
    let claimed = [const { AtomicU64::new(0) }; LIST_MAX];
    let mut used = Vec::new();
    // The second time the port's addresses are known.
    for _ in 0..2 {
        let broken = reader::broken(&rules, frame, &mut used);
        let said = guard.check(&frame[..frame.len().min(WINDOW)], frame.len(), &claimed);
        match said {
            Ok(decided) => {
                assert!(broken.is_empty(), "{broken:?} passed");
                let src = MacAddr::new(*frame[6..].first_chunk().unwrap());
                assert!(claim(guard.claims(src, &claimed), src));
                // Nothing else decides.
                let mut other = frame.to_vec();
                for (at, octet) in other.iter_mut().enumerate() {
                    *octet = if decided.spares(at) && (at == 0 || decided.spares(at - 1)) { !*octet } else { *octet };
                }
                assert_eq!(guard.check(&other[..other.len().min(WINDOW)], other.len(), &claimed), said);
            }
            Err(reason) => assert_eq!(Some(&reason), broken.first(), "of {broken:?}"),
        }
        assert_eq!(claimed.iter().filter(|place| place.load(Relaxed) != 0).count(), used.len());
    }
    usual(&guard, &claimed, frame);
}

/// What is usual passes.
fn usual(guard: &Guard, claimed: &[AtomicU64], frame: &[u8]) {
    let mut chain = [&[0; 12], frame].concat();
    if chain.len() < WINDOW_LEN {
        return;
    }
    let slices = [GuestSlice::of_host(&mut chain)];
    let window = Window::read(&FrameHead::read(&slices), &slices);
    if guard.is_usual(&window, claimed) {
        let said = guard.check(&frame[..frame.len().min(WINDOW)], frame.len(), claimed);
        assert!(said.is_ok_and(|decided| decided.spares(WINDOW_LEN - 12)), "a usual frame: {said:?}");
        assert_eq!(said.err(), None::<DropReason>);
    }
}
