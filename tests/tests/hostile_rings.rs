//! Drivers that write nonsense into rings: a bad chain comes back empty and is counted, and the ring goes on; a ring
//! that makes no sense as a whole stops; no other guest notices.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use sv3::status::Link;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::split::{Descriptor, INDIRECT, NEXT, Used, WRITE};
use sv3_tests::guest::{Guest, NetHdr, Shape};
use sv3_tests::honest::Honest;
use sv3_tests::patience::PATIENCE;

const RX: u16 = 0;
const TX: u16 = 1;

/// An attacker with a page of its own memory for buffers, at p2.
struct Attacker {
    guest: Guest,
    /// Guest address of the page, which holds a good frame with its header at its begin.
    page: u64,
    descriptors: Vec<u16>,
}

const GOOD: u32 = 12 + 60;

fn good_frame() -> Vec<u8> {
    noise(BROADCAST, mac(1), 60, 1)
}

impl Attacker {
    fn new(honest: &Honest, features: u64) -> Attacker {
        let mut guest = Guest::config().features(features).regions(2).connect(honest.socket());
        let page = guest.memory().allocate_whole(4096, 4096);
        guest.memory().write(page, &[[0; 12].as_slice(), &good_frame()].concat());
        let descriptors = guest.take_descriptors(TX, 16);
        Attacker { guest, page, descriptors }
    }

    /// Offers a chain whose descriptors are these; `next` counts in the list. It must come back empty.
    #[track_caller]
    fn offer(&mut self, chain: &[Descriptor]) {
        for (index, descriptor) in self.descriptors.iter().zip(chain) {
            let next = self.descriptors.get(usize::from(descriptor.next)).copied().unwrap_or(descriptor.next);
            self.guest.describe(TX, *index, Descriptor { next, ..*descriptor });
        }
        let head = self.descriptors[0];
        self.guest.offer(TX, head);
        assert_eq!(self.guest.take_used(TX), Used { head, len: 0 }, "{chain:x?}");
    }

    /// A valid frame still passes.
    #[track_caller]
    fn assert_served(&mut self, honest: &mut Honest) {
        self.guest.send(&good_frame());
        assert_eq!(honest.guest(0).receive_frame(), good_frame());
        assert_eq!(honest.guest(1).receive_frame(), good_frame());
    }
}

fn piece(addr: u64, len: u32) -> Descriptor {
    Descriptor { addr, len, flags: 0, next: 0 }
}

fn linked(addr: u64, len: u32, next: u16) -> Descriptor {
    Descriptor { addr, len, flags: NEXT, next }
}

fn table(addr: u64, len: u32) -> Descriptor {
    Descriptor { addr, len, flags: INDIRECT, next: 0 }
}

#[test]
fn chains_that_cannot_be() -> Result<()> {
    // CVE-2016-6490, CVE-2016-7422.
    let mut honest = Honest::new()?;
    let mut attacker = Attacker::new(&honest, LINUX);
    let (page, end) = (attacker.page, attacker.guest.memory().end());
    let begin = attacker.guest.memory().regions()[0].guest_addr;
    let write = Descriptor { flags: WRITE, ..piece(page, GOOD) };
    let chains: Vec<Vec<Descriptor>> = vec![
        vec![piece(0, GOOD)],
        vec![piece(begin - 1, GOOD)],
        vec![piece(begin - u64::from(GOOD), GOOD)],
        vec![piece(end, GOOD)],
        vec![piece(end - u64::from(GOOD) + 1, GOOD)],
        vec![piece(u64::MAX, GOOD)],
        vec![piece(u64::MAX - u64::from(GOOD) + 1, GOOD)],
        vec![piece(page, u32::MAX)],
        vec![piece(page, 1 << 31), piece(page, 1 << 31)],
        // A frame that continues outside of memory.
        vec![linked(page, 30, 1), piece(end + 4096, 42)],
        // Loops.
        vec![linked(page, 1, 0)],
        vec![linked(page, 0, 0)],
        vec![linked(page, 12, 1), linked(page, 60, 0)],
        // Behind the table.
        vec![linked(page, GOOD, 256)],
        vec![linked(page, GOOD, u16::MAX)],
        // For the device to write.
        vec![write],
        vec![linked(page, 12, 1), write],
    ];
    let count = chains.len() as u64;
    for chain in chains {
        attacker.offer(&chain);
    }
    // A head beyond the descriptor table.
    for head in [256, u16::MAX] {
        attacker.guest.offer(TX, head);
        assert_eq!(attacker.guest.take_used(TX), Used { head, len: 0 });
    }
    honest.await_drops("p2", "bad_chain", count + 2)?;
    attacker.assert_served(&mut honest);
    attacker.guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn tables_that_cannot_be() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut attacker = Attacker::new(&honest, LINUX);
    let (page, end) = (attacker.page, attacker.guest.memory().end());
    let inner = page + 1024;
    let whole = [piece(page, GOOD)];
    let cases: Vec<(Descriptor, Vec<Descriptor>)> = vec![
        (table(inner, 0), whole.to_vec()),
        (table(inner, 15), whole.to_vec()),
        (table(inner, 17), whole.to_vec()),
        (table(inner, u32::MAX), whole.to_vec()),
        (table(inner, !15), whole.to_vec()),
        (table(end, 16), whole.to_vec()),
        (table(!15, 32), whole.to_vec()),
        (Descriptor { flags: INDIRECT | NEXT, next: 1, ..table(inner, 16) }, whole.to_vec()),
        (table(inner, 16), vec![table(inner, 16)]),
        (table(inner, 32), vec![linked(page, 12, 1), table(inner, 16)]),
        (table(inner, 32), vec![linked(page, 12, 2), piece(page, 60)]),
        (table(inner, 32), vec![linked(page, 12, u16::MAX), piece(page, 60)]),
        (table(inner, 32), vec![linked(page, 12, 1), linked(page, 60, 0)]),
        (table(inner, 16), vec![linked(page, 0, 0)]),
    ];
    let count = cases.len() as u64;
    for (outer, entries) in cases {
        for (at, entry) in (0..).zip(entries) {
            attacker.guest.describe_in(inner, at, entry);
        }
        attacker.offer(&[outer, piece(page, GOOD)]);
    }
    honest.await_drops("p2", "bad_chain", count)?;

    // More pieces than any chain may have, each of one octet.
    let long = attacker.guest.memory().allocate_whole(16 * 2000, 16);
    for at in 0..2000 {
        let last = at == 1999;
        attacker.guest.describe_in(long, at, if last { piece(page, 1) } else { linked(page, 1, at + 1) });
    }
    attacker.offer(&[table(long, 16 * 2000)]);
    honest.await_drops("p2", "bad_chain", count + 1)?;
    attacker.assert_served(&mut honest);
    attacker.guest.vanish();

    // Not negotiated.
    let mut attacker = Attacker::new(&honest, LINUX & !INDIRECT_DESC);
    attacker.guest.describe_in(attacker.page + 1024, 0, piece(attacker.page, GOOD));
    attacker.offer(&[table(attacker.page + 1024, 16)]);
    attacker.assert_served(&mut honest);
    attacker.guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn chains_that_are_strange_and_right() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut attacker = Attacker::new(&honest, LINUX);
    let octets = [[0; 12].as_slice(), &good_frame()].concat();
    let end = attacker.guest.memory().end();
    let border = attacker.guest.memory().regions()[1].guest_addr;
    let (page, nowhere) = (attacker.page, 0xdead_beef_0000);
    attacker.guest.memory().write(end - u64::from(GOOD), &octets);
    let mut chains = vec![
        // The last octets of memory.
        vec![piece(end - u64::from(GOOD), GOOD)],
        // CVE-2020-10725: an address that is in no region.
        vec![linked(nowhere, 0, 1), piece(page, GOOD)],
        vec![linked(page, 12, 1), linked(u64::MAX, 0, 2), piece(page + 12, 60)],
        vec![linked(page, GOOD, 1), piece(nowhere, 0)],
    ];
    // Across two files.
    let kept = attacker.guest.memory().octets(border - 20, GOOD as usize);
    attacker.guest.memory().write(border - 20, &octets);
    chains.push(vec![piece(border - 20, GOOD)]);
    for chain in chains {
        attacker.offer(&chain);
        assert_eq!(honest.guest(0).receive_frame(), good_frame(), "{chain:x?}");
        honest.guest(1).receive();
    }
    attacker.guest.memory().write(border - 20, &kept);
    assert!(honest.port("p2")?.drops.is_empty());
    attacker.guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn frames_too_short_and_too_long() -> Result<()> {
    // CVE-2022-2132: chains as long as the header, and shorter.
    let mut honest = Honest::new()?;
    let mut attacker = Attacker::new(&honest, LINUX);
    for len in [0, 1, 11, 12, 13, 25] {
        attacker.offer(&[piece(attacker.page, len)]);
    }
    honest.await_drops("p2", "short_frame", 6)?;
    let begin = attacker.guest.memory().regions()[0].guest_addr;
    for len in [65_612, 200_000, 1 << 20] {
        attacker.offer(&[piece(begin, len)]);
    }
    honest.await_drops("p2", "long_frame", 3)?;
    attacker.assert_served(&mut honest);
    attacker.guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn one_head_twice() -> Result<()> {
    // CVE-2026-45782.
    let mut honest = Honest::new()?;
    let mut attacker = Attacker::new(&honest, LINUX);
    let head = attacker.descriptors[0];
    attacker.guest.describe(TX, head, piece(attacker.page, GOOD));
    for _ in 0..20 {
        attacker.guest.offer(TX, head);
    }
    for _ in 0..20 {
        assert_eq!(attacker.guest.take_used(TX), Used { head, len: 0 });
        assert_eq!(honest.guest(0).receive_frame(), good_frame());
        honest.guest(1).receive();
    }
    attacker.guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn more_available_than_the_ring_has() -> Result<()> {
    let mut honest = Honest::new()?;
    for (ring, ahead) in [(TX, 257), (TX, 32_768), (TX, u16::MAX), (RX, 257), (RX, 40_000)] {
        let mut attacker = Attacker::new(&honest, LINUX);
        attacker.assert_served(&mut honest);
        attacker.guest.await_sent();
        let used = attacker.guest.queue(ring).ring.split().used_index(attacker.guest.memory());
        attacker.guest.claim(ring, used.wrapping_add(ahead));
        // The switch looks at a receive ring when there is a frame for it.
        let deadline = Instant::now() + PATIENCE;
        while honest.status()?.ports.iter().flat_map(|port| &port.rings).all(|ring| ring.fault.is_none()) {
            assert!(Instant::now() < deadline, "no fault in ring {ring} that claims {ahead}");
            honest.guest(0).send(&frame(BROADCAST, mac(9), b"anything"));
            honest.guest(1).receive();
        }
        assert_eq!(honest.status()?.ports[2].link, Link::Down);
        honest.await_event(&["ring_fault", "more entries available"])?;
        // A driver that begins anew is served again.
        attacker.guest.reset_device(LINUX);
        attacker.assert_served(&mut honest);
        attacker.guest.vanish();
        honest.await_ports(2)?;
    }
    honest.assert_undisturbed()
}

#[test]
fn receive_buffers_that_cannot_be() -> Result<()> {
    for features in [LINUX, LINUX & !MRG_RXBUF] {
        let mut honest = Honest::new()?;
        let mut guest = Guest::config().features(features).ring_size(32).connect(honest.socket());
        // The driver has made all its buffers available; then it changes their descriptors.
        let end = guest.memory().end();
        let bad =
            [piece(guest.memory().regions()[0].guest_addr, 2048), Descriptor { flags: WRITE, ..piece(end, 2048) }];
        for index in 0..32 {
            guest.describe(RX, index, bad[usize::from(index) % 2]);
        }
        for n in 0..32u8 {
            honest.guest(0).send(&frame(BROADCAST, mac(9), &[n; 46]));
            honest.guest(1).receive();
        }
        for _ in 0..32 {
            assert_eq!(guest.take_used(RX).len, 0, "handed back empty");
        }
        honest.await_drops("p2", "rx_bad_chain", 32)?;
        guest.reset_device(features);
        let hello = frame(BROADCAST, mac(9), b"hello");
        honest.guest(0).send(&hello);
        assert_eq!(guest.receive_frame(), hello);
        guest.vanish();
        honest.guest(1).receive();
        honest.assert_undisturbed()?;
    }
    Ok(())
}

#[test]
fn a_bad_buffer_in_the_middle_of_a_frame() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = Guest::config().ring_size(16).connect(honest.socket());
    let end = guest.memory().end();
    // The third of those that a frame of 5,000 octets takes.
    guest.describe(RX, 2, Descriptor { flags: WRITE, ..piece(end, 2048) });
    let large = noise(BROADCAST, mac(9), 5000, 1);
    for _ in 0..3 {
        honest.guest(0).send(&large);
        honest.guest(1).receive();
    }
    // A buffer that comes back is empty or belongs to a whole frame.
    let mut octets = 0;
    while octets < 2 * 5012 {
        octets += guest.take_used(RX).len;
    }
    assert_eq!(octets, 2 * 5012, "two of three frames, whole");
    honest.await_drops("p2", "rx_bad_chain", 1)?;
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn descriptors_that_change_while_they_are_read() -> Result<()> {
    // CVE-2020-14374 to -14378.
    let mut honest = Honest::new()?;
    let mut guest = Guest::config().features(LINUX).connect(honest.socket());
    let (descriptors, _, _) = guest.queue(TX).ring.addrs();
    let region = &guest.memory().regions()[0];
    let at = region.offset + (descriptors - region.guest_addr);
    let file = std::fs::File::from(region.file().try_clone_to_owned()?);
    let over = Instant::now() + Duration::from_millis(700);
    // Addresses near and far, lengths small and huge, flags, links: over the whole table, again and again.
    let flipper = std::thread::spawn(move || {
        let mut seed = 0;
        while Instant::now() < over {
            seed += 1;
            let mut table = noise([0; 6], [0; 6], 14 + 256 * 16, seed).split_off(14);
            for (entry, n) in table.chunks_exact_mut(16).zip(0u32..) {
                if (n + seed) % 3 != 0 {
                    // In memory, of a length that may be right.
                    let addr = 0x1_0000_0000 + u64::from(seed % 4096) * 512;
                    entry[..8].copy_from_slice(&addr.to_le_bytes());
                    entry[8..12].copy_from_slice(&(seed % 3000).to_le_bytes());
                }
                entry[12] &= 7;
                entry[13] = 0;
            }
            let _ = file.write_all_at(&table, at);
        }
    });
    while Instant::now() < over {
        for head in 0..256 {
            guest.offer(TX, head);
        }
        for _ in 0..256 {
            guest.take_used(TX);
        }
    }
    flipper.join().map_err(|_| sv3_tests::failure::Failure::new("the flipper panicked"))?;
    drain(&mut honest);
    guest.vanish();
    honest.assert_undisturbed()
}

/// Takes frames that an attacker has flooded.
fn drain(honest: &mut Honest) {
    for index in [0, 1] {
        while honest.guest(index).try_receive().is_some() {}
    }
}

#[test]
fn tables_and_rings_of_noise() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = Guest::config().connect(honest.socket());
    for seed in 0..300u32 {
        let features = if seed % 2 == 0 { LINUX } else { LINUX & !(EVENT_IDX | MRG_RXBUF) };
        guest.reset_device(features);
        let rings: Vec<_> = [RX, TX].iter().map(|ring| guest.queue(*ring).ring.addrs()).collect();
        for (n, (descriptors, used, available)) in (0..).zip(rings) {
            let table = noise([0; 6], [0; 6], 14 + 256 * 16, seed * 2 + n).split_off(14);
            guest.memory().write(descriptors, &table);
            if seed % 3 == 0 {
                guest.memory().write(used, &table[..256]);
                guest.memory().write(available, &table[256..512]);
            } else {
                // A valid index and invalid heads.
                guest.memory().write(available + 4, &table[..512]);
                guest.memory().store16(available + 2, 200);
            }
        }
        guest.kick(TX);
        honest.guest(0).send(&noise(BROADCAST, mac(9), 3000, seed));
        drain(&mut honest);
    }
    guest.reset_device(LINUX);
    drain(&mut honest);
    guest.send(&good_frame());
    // Frames that the noise has flooded may still be in flight.
    while honest.guest(0).receive().frame != good_frame() {}
    guest.vanish();
    drain(&mut honest);
    honest.assert_undisturbed()
}

#[test]
fn a_sender_that_never_stops_starves_nobody() -> Result<()> {
    // CVE-2019-3900.
    let mut honest = Honest::new()?;
    let path = honest.socket().to_path_buf();
    let over = Instant::now() + Duration::from_secs(1);
    let flooder = std::thread::spawn(move || {
        let mut guest = Guest::connect(&path);
        // To itself, so that the switch uses the sender's own ring only.
        let frame = noise(mac(66), mac(66), 60, 1);
        let mut sent = 0u64;
        while Instant::now() < over {
            while guest.try_send_on(0, &NetHdr::default(), &frame, Shape::default()) {
                sent += 1;
            }
            guest.publish(TX);
        }
        guest.vanish();
        sent
    });
    honest.await_ports(3)?;
    let mut talks = 0;
    while Instant::now() < over {
        let start = Instant::now();
        honest.talk();
        assert!(start.elapsed() < PATIENCE / 10, "{:?} for twenty frames", start.elapsed());
        talks += 1;
    }
    let flooded = flooder.join().map_err(|_| sv3_tests::failure::Failure::new("the flooder panicked"))?;
    assert!(talks > 5 && flooded > 1000, "{talks} talks beside {flooded} frames");
    honest.assert_undisturbed()
}

#[test]
fn a_guest_that_takes_nothing_back() -> Result<()> {
    // CVE-2016-5403: frames that it does not take are dropped, and kept nowhere.
    let mut honest = Honest::new()?;
    let guest = Guest::config().ring_size(64).connect(honest.socket());
    for n in 0..20_000u32 {
        honest.guest(0).send(&noise(BROADCAST, mac(9), 1500, n));
        while honest.guest(1).try_receive().is_some() {}
    }
    honest.guest(0).await_sent();
    drain(&mut honest);
    honest.await_drops("p2", "no_rx_buffers", 20_000 - 64)?;
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
fn two_ports_bridged_inside_a_guest() -> Result<()> {
    // CVE-2021-3416: the guest itself keeps up a loop, which only a broadcast can enter.
    let mut honest = Honest::new()?;
    let mut left = Guest::config().ring_size(32).connect(honest.socket());
    let mut right = Guest::config().ring_size(32).connect(honest.socket());
    honest.guest(0).send(&frame(BROADCAST, mac(9), b"round and round"));
    for _ in 0..1000 {
        while let Some(received) = left.try_receive() {
            right.send(&received.frame);
        }
        while let Some(received) = right.try_receive() {
            left.send(&received.frame);
        }
        drain(&mut honest);
    }
    honest.talk();
    left.vanish();
    right.vanish();
    honest.await_ports(2)?;
    drain(&mut honest);
    honest.assert_undisturbed()
}
