//! Vrings that a worker takes over.

use std::sync::atomic::Ordering::Relaxed;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::*;
use crate::port::vring::driver::Driver;

const RINGS: u16 = 8;

/// Each ring may take its time: of a guest that migrates, the chains are looked at. Many of them are no hang.
#[test]
fn a_take_over_of_many_rings_shows_progress_from_ring_to_ring() {
    let (mut worker, driver) = (Worker::new(true), Driver::new(64));
    let threads = worker.thread.threads;
    std::thread::spawn(|| threads.mapper.run(|| threads.first().nudge()));
    let (port, kind, addr) = (0, PortKind::Vrings, driver.addr());
    assert_eq!(worker.tell(Command::PortAdd { port, kind, learning: Learning::Free }), None);
    for (region, file) in &driver.regions {
        assert_eq!(worker.tell_with(Command::RegionAdd { port, region: *region }, file), None);
    }
    for ring in 0..RINGS {
        let kick = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let start = Command::RingStart { port, ring, size: 64, addr, base: 0, run: 1 };
        assert_eq!(worker.tell_with(start, &std::os::fd::AsFd::as_fd(&kick)), None);
    }
    let state = &worker.thread.ledger.workers[0].threads[0];
    let before = state.heartbeat.load(Relaxed);
    worker.thread.promote();
    assert!(state.heartbeat.load(Relaxed).wrapping_sub(before) >= RINGS.into());
    assert_eq!(state.port.load(Relaxed), 0, "it works for nobody any more");
    let begun = |ring| worker.thread.queue(QueueId::new(port, ring)).unwrap().vring().unwrap().begun;
    assert!((0..RINGS).all(|ring| begun(ring) == 1));
}
