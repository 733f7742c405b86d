//! A worker that the host does not let run does not count as hung, and no client is blamed. A worker that runs and
//! makes no progress is found, with the ring that it was at.

use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::stopped::{Freezer, spin};
use sv3_tests::switch::Switch;

/// It polls for so long that it is awake when it is frozen.
const AWAKE: [&str; 2] = ["--poll-us", "5000000"];

fn letter(number: u8) -> Vec<u8> {
    frame(BROADCAST, mac(1), &[number; 60])
}

fn count(switch: &Switch, name: &str) -> Result<usize> {
    Ok(switch.events()?.iter().filter(|event| event["event"] == name).count())
}

#[test]
fn a_worker_that_is_not_let_run_is_left_alone() -> Result<()> {
    let switch = Switch::with(&AWAKE)?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let worker = switch.worker_pid()?;
    let mut freezer = Freezer::around(worker)?;
    for round in 0..3 {
        a.send(&letter(2 * round));
        assert_eq!(b.receive_frame(), letter(2 * round));
        freezer.freeze()?;
        a.send(&letter(2 * round + 1));
        let meanwhile = b.receive_within(Duration::from_millis(750));
        assert!(meanwhile.is_none() || !freezer.is_tight(), "it is not frozen");
        freezer.thaw()?;
        let heard = meanwhile.map_or_else(|| b.receive_frame(), |received| received.frame);
        assert_eq!(heard, letter(2 * round + 1));
    }
    let status = switch.status()?;
    assert_eq!((status.worker.pid, status.worker.restarts), (Some(worker), 0));
    assert_eq!(["crash", "blame", "standby_lost"].map(|name| count(&switch, name).ok()), [Some(0); 3]);
    Ok(())
}

#[test]
fn a_worker_that_is_never_let_run_is_replaced_and_nobody_blamed() -> Result<()> {
    let switch = Switch::with(&AWAKE)?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let worker = switch.worker_pid()?;
    let mut freezer = Freezer::around(worker)?;
    if !freezer.is_tight() {
        // Without root it always runs a little; the supervisor's own tests show this.
        return Ok(());
    }
    a.send(&letter(0));
    assert_eq!(b.receive_frame(), letter(0));
    a.await_sent();
    freezer.freeze()?;
    let start = Instant::now();
    a.send(&letter(1));
    while switch.status()?.worker.restarts == 0 && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() > Duration::from_secs(9), "after {:?}", start.elapsed());
    // The dead worker may still be frozen.
    assert_eq!(b.receive_frame(), letter(1));
    let crash = switch.await_event(&["\"crash\"", "stuck"])?;
    assert_eq!(crash["worker_pid"].as_u64(), Some(worker.into()));
    assert_eq!(count(&switch, "blame")?, 0);
    freezer.thaw()
}

#[test]
fn a_worker_that_hangs_is_found_and_replaced() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        // Only root may trace another user's process; the supervisor's own tests show this for others.
        return Ok(());
    }
    let switch = Switch::with(&AWAKE)?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    // The second worker is promoted, and has not slept since.
    for round in 0..2 {
        a.send(&letter(2 * round));
        assert_eq!(b.receive_frame(), letter(2 * round));
        // If it hung before it completed the frame, the next worker would send it again.
        a.await_sent();
        let worker = switch.worker_pid()?;
        let start = Instant::now();
        spin(worker)?;
        a.send(&letter(2 * round + 1));
        assert_eq!(b.receive_frame(), letter(2 * round + 1));
        assert!(start.elapsed() > Duration::from_millis(400), "it ran for no longer than {:?}", start.elapsed());
        let crash = switch.await_event(&["\"crash\"", "hangs", &worker.to_string()])?;
        assert_eq!(crash["worker_pid"].as_u64(), Some(worker.into()));
    }
    Ok(())
}
