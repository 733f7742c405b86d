//! How long a sender may be paused, and what a paused frame waits for in rings of both kinds.

mod pauses;

use proptest::prelude::*;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTQ_DESC_F_WRITE};

use crate::port::vring::driver::{BASE, Driver, PackedDriver};
use crate::port::vring::virtqueue::{Chain, Virtqueue};
use crate::port::wait_budget::{LEAST_NS, LONGEST_NS, SAVED_NS, SHARE, WaitBudget};

proptest! {
    #[test]
    fn pauses_take_their_share_of_time_and_no_more(
        steps in proptest::collection::vec((0u64..30_000_000, 0u64..40_000_000, 0u64..3_000_000), 1..500),
    ) {
        let mut wait_budget = WaitBudget::default();
        let start = 1_000_000_000_000;
        wait_budget.left(start);
        let (mut now, mut paused) = (start, 0);
        for (gap, wanted, late) in steps {
            now += gap;
            let longest = wait_budget.left(now);
            prop_assert!(longest <= LONGEST_NS);
            prop_assert!(longest == 0 || longest >= LEAST_NS);
            // The kernel wakes the thread late.
            let took = if wanted < longest { wanted } else if longest > 0 { longest + late } else { 0 };
            now += took;
            paused += took;
            wait_budget.spend(took);
            prop_assert!(paused <= SAVED_NS + 3_000_000 + (now - start) / SHARE, "{} of {}", paused, now - start);
        }
    }
}

#[test]
fn a_ring_that_was_never_paused_has_a_budget_and_one_that_spent_it_gets_it_back() {
    let mut wait_budget = WaitBudget::default();
    let now = 1_000_000_000_000;
    assert_eq!(wait_budget.left(now), LONGEST_NS);
    wait_budget.spend(SAVED_NS);
    assert_eq!(wait_budget.left(now), 0);
    assert_eq!(wait_budget.left(now + SHARE * LEAST_NS - SHARE), 0);
    assert_eq!(wait_budget.left(now + SHARE * LEAST_NS), LEAST_NS);
    // A clock that goes back adds no budget.
    assert_eq!(wait_budget.left(0), LEAST_NS);
}

const FEATURES: [u64; 2] = [VIRTIO_F_VERSION_1.mask(), VIRTIO_F_VERSION_1.mask() | VIRTIO_RING_F_EVENT_IDX.mask()];

#[test]
fn a_split_ring_is_ready_when_it_has_more_than_it_had() {
    for features in FEATURES {
        let mut driver = Driver::new(8);
        let mut ring = driver.ring(features);
        for head in 0..3 {
            driver.describe(head, (BASE + 0x2_0000, 100, VIRTQ_DESC_F_WRITE, 0));
            driver.offer(head);
        }
        let cursor = ring.position().wrapping_add(3);
        assert!(!ring.is_ready(cursor) && !ring.arm_at(cursor), "three are too few");
        driver.offer(3);
        assert!(ring.is_ready(cursor) && ring.arm_at(cursor));
        // Another frame has used them, and more that came.
        for _ in 0..4 {
            ring.complete(&Chain::default(), 0);
        }
        assert!(ring.is_ready(cursor), "to be tried again, from where the ring is now");
        assert!(!ring.arm());
    }
}

#[test]
fn a_packed_ring_is_ready_when_it_has_more_than_it_had() {
    for features in FEATURES {
        let mut driver = PackedDriver::new(4);
        let mut ring = driver.ring(features);
        let buffer = [(BASE + 0x2_0000, 100, VIRTQ_DESC_F_WRITE)];
        // Across the ring's end, where the wrap counter flips.
        for lap in 0..9 {
            for _ in 0..3 {
                assert!(driver.offer(lap, &buffer));
            }
            let ahead = |by: u16| {
                (0..by).fold(ring.position(), |at, _| if at & 0x7fff == 3 { at & !0x7fff ^ 1 << 15 } else { at + 1 })
            };
            let (cursor, full) = (ahead(3), ahead(4));
            assert!(!ring.is_ready(cursor) && !ring.arm_at(cursor), "lap {lap}");
            assert!(driver.offer(lap, &buffer));
            assert!(ring.is_ready(cursor) && ring.arm_at(cursor), "lap {lap}");
            assert!(!ring.is_ready(full), "a whole lap ahead is what was not given back");
            for _ in 0..4 {
                ring.complete(&Chain { id: lap, descriptors: 1, len: Some(100) }, 0);
            }
            assert!(ring.is_ready(cursor), "to be tried again, from where the ring is now");
            ring.publish();
            assert!((0..4).all(|_| driver.take_used().is_some()));
            // Moves on by one, so that laps begin at each place.
            assert!(driver.offer(lap, &buffer));
            ring.complete(&Chain { id: lap, descriptors: 1, len: Some(100) }, 0);
            ring.publish();
            driver.take_used().unwrap();
        }
    }
}
