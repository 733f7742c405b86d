//! A packed ring with an honest driver and with a hostile one, and a worker that dies.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use sv3::virtio::VIRTIO_RING_F_INDIRECT_DESC;

use super::super::driver::{BASE, PackedDriver};
use super::*;
use crate::memory::slice_list::Arena;
use crate::port::batch::MAX_SLICES;
use crate::process::crash_points::armed;
use sv3::ids::Direction;

const EVENT_IDX: u64 = VIRTIO_RING_F_EVENT_IDX.mask();
const DATA: u64 = BASE + 0x1_0000;

/// Takes up to `most` chains and completes them. Returns the octets of each; `None`: it is bad.
fn work(driver: &PackedDriver, ring: &mut PackedRing, most: u16) -> Result<Vec<Option<usize>>, RingFault> {
    let features = VIRTIO_RING_F_INDIRECT_DESC.mask();
    let walker = Walker { memory: &driver.guest.memory, features, direction: Direction::Transmit };
    let mut arena = Arena::new(4 * MAX_SLICES);
    let mut out = arena.list();
    let mut cursor = ring.position();
    let mut chains = Vec::new();
    for _ in 0..ring.prepare(most)? {
        let Some(chain) = ring.take(&mut cursor, &walker, &mut out)? else { break };
        chains.push(chain);
    }
    for chain in &chains {
        if !ring.has_room(1) {
            ring.make_room();
        }
        ring.complete(chain, u32::from(chain.id) + 7);
    }
    Ok(chains.iter().map(|chain| chain.len).collect())
}

fn chain(driver: &mut PackedDriver, buffers: &[(u64, u32, u16)]) -> Result<Vec<Option<usize>>, RingFault> {
    assert!(driver.offer(3, buffers));
    let mut ring = driver.ring(0);
    work(driver, &mut ring, 8)
}

#[test]
fn a_chain_is_its_buffers_in_order() {
    assert_eq!(chain(&mut PackedDriver::new(8), &[(DATA, 12, 0), (DATA + 64, 60, 0)]), Ok(vec![Some(72)]));
}

#[test]
fn a_ring_goes_on_behind_a_bad_chain() {
    let bad: [&[_]; 5] = [
        &[(7, 1, 0)],
        &[(DATA, 1, VIRTQ_DESC_F_WRITE), (DATA, 1, 0)],
        &[(DATA, 16, VIRTQ_DESC_F_INDIRECT), (DATA, 1, 0)],
        &[(DATA, 24, VIRTQ_DESC_F_INDIRECT)],
        &[(DATA, 0, VIRTQ_DESC_F_INDIRECT)],
    ];
    for bad in bad {
        let mut driver = PackedDriver::new(8);
        assert!(driver.offer(5, bad) && driver.offer(6, &[(DATA, 9, 0)]));
        let mut ring = driver.ring(0);
        assert_eq!(work(&driver, &mut ring, 8), Ok(vec![None, Some(9)]), "{bad:?}");
        ring.publish();
        assert_eq!([driver.take_used(), driver.take_used()], [Some((5, 12)), Some((6, 13))]);
    }
}

#[test]
fn a_table_is_a_chain_of_all_its_entries() {
    let mut driver = PackedDriver::new(8);
    for (at, len) in [(0u64, 10u64), (16, 20)] {
        driver.guest.write(BASE + 0x8000 + at, &[DATA.to_le_bytes(), len.to_le_bytes()].concat());
    }
    assert_eq!(chain(&mut driver, &[(BASE + 0x8000, 32, VIRTQ_DESC_F_INDIRECT)]), Ok(vec![Some(30)]));
}

#[test]
fn a_length_of_zero_needs_no_address() {
    // CVE-2020-10725.
    let got = chain(&mut PackedDriver::new(8), &[(0xdead_0000_0000, 0, 0), (DATA, 5, 0)]);
    assert_eq!(got, Ok(vec![Some(5)]));
}

#[test]
fn a_chain_without_end_is_a_fault() {
    let got = chain(&mut PackedDriver::new(4), &[(DATA, 1, VIRTQ_DESC_F_NEXT); 4]);
    assert_eq!(got, Err(RingFault::EndlessChain));
}

#[test]
fn a_ring_must_lie_in_memory_aligned_and_of_a_legal_size() {
    let driver = PackedDriver::new(5);
    let good = driver.setup();
    let fault = |setup: RingSetup| PackedRing::new(&driver.guest.memory, &setup, 0).err();
    assert_eq!(fault(RingSetup { run: 2, base: 4, ..good }), None);
    assert_eq!(fault(RingSetup { run: 3, base: 5, ..good }), Some(RingFault::BadBase));
    assert_eq!(fault(RingSetup { size: 0, ..good }), Some(RingFault::BadSize));
    assert_eq!(fault(RingSetup { size: 32769, ..good }), Some(RingFault::BadSize));
    let mut odd = good;
    odd.addr.avail += 2;
    assert_eq!(fault(odd), Some(RingFault::Misaligned));
    odd.addr.avail = u64::MAX - 3;
    assert_eq!(fault(odd), Some(RingFault::Unmapped));
}

/// Workers die while the client stops the ring, one of them while it publishes. The client gets the base from the ledger and
/// starts the ring there. That is the same run then, and a new one otherwise (`Ring::start` of the supervisor).
#[test]
fn a_ring_whose_base_came_from_the_ledger_goes_on_wherever_its_worker_died() {
    let mut deaths = 0;
    for passes in 0..4 {
        let mut driver = PackedDriver::new(8);
        (0..5).for_each(|id| assert!(driver.offer(id, &[(DATA, 9, 0)])));
        let mut ring = driver.ring(0);
        work(&driver, &mut ring, 5).unwrap();
        armed::arm(passes);
        deaths += u32::from(catch_unwind(AssertUnwindSafe(|| ring.publish())).is_err());
        armed::arm(u32::MAX);
        let setup = driver.setup();
        let word = setup.position.used.load(Relaxed);
        let run = setup.run + u32::from(word >> 32 == 0);
        let mut ring =
            PackedRing::new(&driver.guest.memory, &RingSetup { base: word as u16, run, ..setup }, 0).unwrap();
        assert!(driver.offer(5, &[(DATA, 9, 0)]));
        work(&driver, &mut ring, 8).unwrap();
        ring.publish();
        let used: Vec<_> = std::iter::from_fn(|| driver.take_used()).collect();
        assert_eq!(used, (0..6).map(|id| (id, u32::from(id) + 7)).collect::<Vec<_>>(), "after {passes} points");
    }
    assert_eq!(deaths, 3);
}

#[test]
fn a_ledger_of_nonsense_harms_nobody() {
    let mut driver = PackedDriver::new(8);
    assert!(driver.offer(1, &[(DATA, 9, 0)]));
    let setup = driver.setup();
    drop(driver.ring(0));
    for word in [u64::MAX, 9 << 32, 1 << 32, 2 << 32 | 1 << 15, 1024 << 32 | 7, 0x7fff] {
        for entry in [0, u64::MAX, 8 << 48, 9 << 48] {
            setup.position.used.store(word, Relaxed);
            setup.journal.entries.iter().for_each(|word| word.store(entry, Relaxed));
            if let Ok(mut ring) = PackedRing::new(&driver.guest.memory, &setup, 0) {
                let _ = work(&driver, &mut ring, 8);
                ring.publish();
            }
        }
    }
}

#[test]
fn signals_come_exactly_when_wanted() {
    for size in [5u16, 8] {
        let mut driver = PackedDriver::new(size);
        let mut ring = driver.ring(EVENT_IDX);
        for round in 0..10_000u32 {
            let count = 1 + round % 3;
            let old = Position(driver.used_position());
            let ahead = (round / 3 % u32::from(size)) as u16;
            driver.set_driver_event(old.ahead(ahead, size).0, 2);
            for id in 0..count {
                assert!(driver.offer(id as u16, &[(DATA, 1, 0)]));
            }
            work(&driver, &mut ring, 8).unwrap();
            let signal = ring.publish();
            assert_eq!(signal, round == 0 || u32::from(ahead) < count, "{size} {round}");
            while driver.take_used().is_some() {}
            assert!(!ring.arm());
            assert_eq!(driver.device_event(), (driver.used_position(), 2));
            ring.disarm();
            assert_eq!(driver.device_event().1, 1);
        }
        for (flags, wanted) in [(0, true), (1, false)] {
            driver.set_driver_event(0, flags);
            driver.offer(0, &[(DATA, 1, 0)]);
            assert!(ring.arm());
            work(&driver, &mut ring, 8).unwrap();
            assert_eq!(ring.publish(), wanted);
            driver.take_used();
        }
    }
}

proptest! {
    #[test]
    fn every_chain_comes_back_once_whenever_the_worker_dies(
        size in 1u16..12,
        steps in proptest::collection::vec((1usize..4, 1u16..9, 0u32..8, any::<bool>()), 1..200),
    ) {
        let mut driver = PackedDriver::new(size);
        let mut ring = driver.ring(0);
        let (mut offered, mut back) = (0u16, 0u16);
        for (buffers, most, passes, drain) in steps {
            while driver.offer(offered, &vec![(DATA, 1, 0); buffers]) {
                offered = offered.wrapping_add(1);
            }
            armed::arm(passes);
            let death = catch_unwind(AssertUnwindSafe(|| {
                work(&driver, &mut ring, most).unwrap();
                ring.publish();
            }));
            armed::arm(u32::MAX);
            // The driver continues while there is no worker.
            while let Some(used) = if drain { driver.take_used() } else { None } {
                prop_assert_eq!(used, (back, u32::from(back) + 7));
                back = back.wrapping_add(1);
            }
            while driver.offer(offered, &vec![(DATA, 1, 0); buffers]) {
                offered = offered.wrapping_add(1);
            }
            if death.is_err() {
                ring = driver.ring(0);
            }
        }
        ring = driver.ring(0);
        while back != offered {
            work(&driver, &mut ring, 8).unwrap();
            ring.publish();
            let used = driver.take_used();
            prop_assert_eq!(used, Some((back, u32::from(back) + 7)));
            back = back.wrapping_add(1);
        }
    }
}
