//! Drivers that write to a frame while it is forwarded: the switch delivers the octets that it has checked.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, Packet, mac, noise};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::split::Descriptor;
use sv3_tests::guest::{Guest, NetHdr};
use sv3_tests::honest::Honest;

const TX: u16 = 1;
const LINK_LOCAL: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0];
const FRAMES: u16 = 64;
/// Octets from frame to frame.
const APART: u64 = 2048;

/// A guest sends copies of a frame behind a header while octets of it, from `at` on, are `honest` and `hostile` in
/// turns; `looked` sees what a neighbour gets. Some of the attacker's frames arrive.
fn flip(hdr: [u8; 12], octets: &[u8], at: u64, hostile: &[u8], looked: impl Fn(&NetHdr, &[u8])) -> Result<()> {
    let mut honest = Honest::new()?;
    let mut attacker = Guest::config().more_features(CSUM | HOST_TSO4).connect(honest.socket());
    let page = attacker.memory().allocate_whole(u64::from(FRAMES) * APART, 4096);
    let chain = [&hdr[..], octets].concat();
    let heads = attacker.take_descriptors(TX, FRAMES.into());
    for (n, head) in (0..).zip(&heads) {
        let addr = page + n * APART;
        attacker.memory().write(addr, &chain);
        attacker.describe(TX, *head, Descriptor { addr, len: chain.len() as u32, flags: 0, next: 0 });
    }
    let region = &attacker.memory().regions()[0];
    let file = std::fs::File::from(region.file().try_clone_to_owned()?);
    let (begin, over) = (region.offset + (page - region.guest_addr) + at, Arc::new(AtomicBool::new(false)));
    let good = chain[at as usize..at as usize + hostile.len()].to_vec();
    let (hostile, is_over) = (hostile.to_vec(), over.clone());
    let flipper = std::thread::spawn(move || {
        while !is_over.load(Relaxed) {
            for n in 0..u64::from(FRAMES) {
                let _ = file.write_all_at(&hostile, begin + n * APART);
                let _ = file.write_all_at(&good, begin + n * APART);
            }
        }
    });
    let (until, mut arrived) = (Instant::now() + Duration::from_millis(700), 0);
    while Instant::now() < until || arrived == 0 {
        for head in &heads {
            attacker.offer(TX, *head);
        }
        for _ in &heads {
            attacker.take_used(TX);
        }
        while let Some(received) = honest.guest(0).try_receive() {
            arrived += 1;
            looked(&received.hdr, &received.frame);
        }
        while honest.guest(1).try_receive().is_some() {}
    }
    over.store(true, Relaxed);
    flipper.join().map_err(|_| Failure::new("the flipper panicked"))?;
    for index in [0, 1] {
        while honest.guest(index).try_receive().is_some() {}
    }
    attacker.vanish();
    honest.assert_undisturbed()
}

#[test]
fn addresses_that_change_while_a_frame_is_forwarded() -> Result<()> {
    let frame = noise(BROADCAST, mac(9), 300, 1);
    flip([0; 12], &frame, 12, &LINK_LOCAL, |_, frame| assert_ne!(frame[..6], LINK_LOCAL, "to a link-local address"))?;
    flip([0; 12], &frame, 18, &BROADCAST, |_, frame| assert_eq!(frame[6] & 1, 0, "from a group"))
}

#[test]
fn headers_that_change_after_a_segmentation_was_checked() -> Result<()> {
    const PROTOCOL: usize = 14 + 9;
    let mut packet = Packet::tcp(false, 900);
    packet.dst = BROADCAST;
    let (hdr, frame) = packet.unsegmented(200);
    let (tcp, udp) = (frame[PROTOCOL], 17);
    // Whole or in segments: the header leaves the neighbour nothing to do that was not checked.
    flip(hdr.octets(), &frame, 12 + PROTOCOL as u64, &[udp], |hdr, frame| {
        assert_eq!(frame[PROTOCOL], tcp, "{hdr:?}");
    })
}
