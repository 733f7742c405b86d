//! Ports whose guests migrate: pages are marked in a log.

use sv3::ids::QueueId;
use sv3::virtio::{VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF};

use super::super::tests::{Fixture, run_at};
use crate::memory::dirty_log::client::LogFile;
use crate::port::vring::driver::{BASE, Driver, REGION};
use crate::port::vring::marks::Marks;
use crate::port::vring::queue::Queue;

/// A receiver of port 1 with mergeable buffers.
pub fn merge(fixture: &Fixture, receiver: &Driver) {
    let features = VIRTIO_F_VERSION_1.mask() | VIRTIO_NET_F_MRG_RXBUF.mask();
    run_at(fixture, 1, 0, Queue::Split(receiver.ring(features)), &receiver.memory, features);
}

/// Pages that a ring writes are marked from now on. Nobody clears a mark, so most marks are there already.
pub fn begin(fixture: &Fixture, (slot, ring): (u16, u16), driver: &Driver) {
    let log = LogFile::new((BASE + 2 * REGION) / 4096 / 8, 0).log();
    let mut lease = fixture.ports.get(slot).unwrap().seize(QueueId::new(slot, ring), || ()).unwrap();
    let vring = lease.vring().unwrap();
    let addr = driver.addr();
    let device_area = driver.memory.guest_addr_of_user(addr.used);
    let mut marks = Marks::new(log.clone(), &driver.memory, device_area, addr.desc);
    marks.only_reads = ring == 1;
    vring.log = Some(log);
    vring.queue.as_mut().unwrap().set_marks(Some(Box::new(marks)));
}
