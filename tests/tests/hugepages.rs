//! Guests whose memory is of huge pages: sv3 takes none that they do not have, and a guest whose huge pages are used up
//! costs its neighbours nothing.

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::guest::memory::HUGE_PAGE;
use sv3_tests::guest::split::{Descriptor, NEXT};
use sv3_tests::honest::Honest;
use sv3_tests::hugepages::Pool;

const TX: u16 = 1;
/// The pool's pages.
const PAGES: u64 = 8;
/// More memory than the pool has, as a guest with virtio-mem may have it.
const MEMORY: u64 = 4 * PAGES * HUGE_PAGE;

#[test]
#[ignore = "scripts/check runs it"]
fn huge_pages_are_neither_reserved_nor_taken_before_a_guest_uses_them() -> Result<()> {
    let Some(pool) = Pool::enlarge(PAGES)? else { return Ok(()) };
    let mut honest = Honest::new()?;
    let (left, reserved) = (pool.left()?, pool.reserved()?);
    let mut guest = Guest::config().huge_pages().memory(MEMORY).connect(honest.socket());

    let hello = frame(BROADCAST, mac(1), &[1; 600]);
    guest.send(&hello);
    assert_eq!(honest.guest(0).receive_frame(), hello);
    honest.guest(0).send(&frame(mac(1), mac(9), &[2; 600]));
    assert_eq!(guest.receive_frame(), frame(mac(1), mac(9), &[2; 600]));

    assert_eq!(pool.reserved()?, reserved, "reserved huge pages");
    assert!(left - pool.left()? <= 2, "the guest has touched two pages at most");
    guest.vanish();
    honest.assert_undisturbed()
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_whose_huge_pages_are_used_up_is_to_blame() -> Result<()> {
    let Some(pool) = Pool::enlarge(PAGES)? else { return Ok(()) };
    let mut honest = Honest::new()?;
    let mut guest = Guest::config().huge_pages().memory(MEMORY).connect(honest.socket());
    // A frame whose second half is where the file has no page, and the machine none to give.
    let start = guest.memory().allocate(64, 64);
    guest.memory().write(start, &[&[0; 12][..], &frame(BROADCAST, mac(1), &[3; 46])].concat()[..64]);
    let hoard = pool.exhaust()?;
    let chain = guest.take_descriptors(TX, 2);
    let hole = guest.memory().end() - 4096;
    guest.describe(TX, chain[0], Descriptor { addr: start, len: 64, flags: NEXT, next: chain[1] });
    guest.describe(TX, chain[1], Descriptor { addr: hole, len: 64, flags: 0, next: 0 });
    guest.offer(TX, chain[0]);
    honest.await_event(&["blame", "p2", "no free huge page"])?;
    honest.await_event(&["crash", "SIGBUS", "memory of p2"])?;
    honest.await_event(&["quarantine", "p2"])?;
    honest.await_event(&["restart", "took over"])?;
    honest.talk();
    let restarts = honest.status()?.worker.restarts;
    assert!((1..=3).contains(&restarts), "{restarts} workers died");

    // With a page the frame is one like others.
    drop(hoard);
    let control = honest.control().display().to_string();
    let released = honest.home().sv3_output(&["port", "release", "p2", "--control", &control])?;
    assert!(released.status.success(), "{released:?}");
    guest.take_used(TX);
    honest.talk();
    assert_eq!(honest.status()?.worker.restarts, restarts, "no further worker dies of it");
    guest.vanish();
    honest.assert_unharmed()
}
