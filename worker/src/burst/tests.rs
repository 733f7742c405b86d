//! What a burst may cost: whatever a guest sends, and to however many, its budget and one frame.

use sv3::ledger::LedgerMap;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::*;
use crate::cost::TURN;
use crate::guest::driver::{BASE, Driver};
use crate::guest::queue::Queue;

const SIZE: u16 = 256;
const DATA: u64 = BASE + 0x2_0000;
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 99];

fn port(slot: u16, ring: usize, driver: &mut Driver) -> Port {
    let mut port = Port::new(slot);
    port.features = VIRTIO_F_VERSION_1.mask();
    port.rings[ring].queue = Some(Queue::Split(driver.ring(port.features)));
    port.rings[ring].enabled = true;
    port.memory = std::mem::take(&mut driver.memory);
    port.count_receivers();
    port
}

/// A fabric of receivers with buffers of that many octets, and the driver that port 0 is.
fn house(receivers: u16, buffer: u32) -> (Fabric, Driver, Vec<Driver>) {
    let ledger: &LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    let mut fabric = Fabric::new(ledger, &ledger.lanes[0]);
    let drivers = (1..=receivers).map(|slot| {
        let mut driver = Driver::new(SIZE);
        for head in 0..SIZE {
            driver.describe(head, (DATA, buffer, VIRTQ_DESC_F_WRITE, 0));
            driver.offer(head);
        }
        assert!(fabric.insert(port(slot, 0, &mut driver)));
        driver
    });
    let drivers = drivers.collect();
    (fabric, Driver::new(SIZE), drivers)
}

/// Sends as many frames as the ring holds to an address that nobody has; what becomes of one burst.
fn flood(fabric: &mut Fabric, mut driver: Driver, octets: u32) -> Served {
    driver.write(DATA + 12, &[NOBODY, [2, 0, 0, 0, 0, 1]].concat());
    for head in 0..SIZE {
        driver.describe(head, (DATA, 12 + octets, 0, 0));
        driver.offer(head);
    }
    let mut port = port(0, 1, &mut driver);
    let served = Burst::new(64).serve(fabric, &mut port, 1, TURN).unwrap();
    // What was taken and not served is still there.
    assert_eq!(usize::from(driver.used_idx()), served.chains);
    served
}

#[test]
fn a_batch_of_small_frames_is_within_a_turn() {
    let (mut fabric, driver, receivers) = house(1, 2048);
    let served = flood(&mut fabric, driver, 64);
    assert_eq!(served.chains, 64);
    assert!(served.cost <= TURN + crate::cost::SIGNAL * 2, "{served:?}");
    assert_eq!(receivers[0].used_idx(), 64);
}

#[test]
fn long_frames_are_few() {
    let (mut fabric, driver, receivers) = house(1, 0x1_1000);
    let served = flood(&mut fabric, driver, 60_000);
    assert_eq!((served.chains, receivers[0].used_idx()), (1, 1));
    let (mut fabric, driver, _) = house(1, 2048);
    let served = flood(&mut fabric, driver, 1514);
    assert!(served.chains as u64 * 1514 <= TURN + 1514, "{served:?}");
}

#[test]
fn a_flood_counts_for_each_receiver() {
    let (mut fabric, driver, receivers) = house(20, 2048);
    let served = flood(&mut fabric, driver, 1000);
    let delivered: u64 = receivers.iter().map(|receiver| u64::from(receiver.used_idx())).sum();
    assert_eq!(delivered, 20 * served.chains as u64, "each frame to all or none");
    assert!(served.chains > 0 && delivered * 1000 <= TURN + 20 * 1000, "{served:?}");
}

#[test]
fn descriptors_without_octets_are_counted() {
    let (mut fabric, mut driver, _) = house(1, 2048);
    for head in 0..SIZE {
        driver.describe(head, (0, 0, VIRTQ_DESC_F_NEXT, (head + 1) % SIZE));
        driver.offer(head);
    }
    let mut port = port(0, 1, &mut driver);
    let served = Burst::new(64).serve(&mut fabric, &mut port, 1, TURN).unwrap();
    assert!(served.chains as u64 * u64::from(SIZE) * DESCRIPTOR <= 2 * TURN, "{served:?}");
}
