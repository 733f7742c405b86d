//! A trickle of frames costs its wake-ups and no more; a neighbour that floods costs others time only.

use std::thread;
use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::neighbour::Kind;
use sv3_tests::pingpong::{Effort, LOST, PingPong};
use sv3_tests::switch::Switch;

const TIME: Duration = Duration::from_secs(2);

/// Sends frames from one guest to another at least this far apart; returns what the worker did meanwhile, and the
/// number of frames.
fn trickle(switch: &Switch, pace: Duration) -> Result<(Effort, f64)> {
    let [mut a, mut b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    let mut flow = Flow::new(2, 1, 64);
    let (start, worker) = (Instant::now(), switch.worker_pid()?);
    // The standby has started, and the worker no longer spins for the guests' arrival.
    switch.await_status("a worker on standby", |status| status.worker.standby_pid.is_some())?;
    Effort::during(worker, || {
        let mut frames = 0;
        while start.elapsed() < TIME {
            flow.send(&mut a, 1);
            flow.await_complete(&mut b);
            frames += 1;
            thread::sleep(pace);
        }
        Ok(f64::from(frames))
    })
}

#[test]
fn a_trickle_does_not_take_a_processor() -> Result<()> {
    let switch = Switch::start()?;
    let (effort, frames) = trickle(&switch, Duration::from_millis(5))?;
    // Each frame wakes the worker, or finds it still awake since the last receiver took a buffer.
    let most = 3.0 * frames / TIME.as_secs_f64() + 50.0;
    assert!(effort.sleeps < most, "{effort:?} for {frames} frames");
    assert!(effort.percent < 25.0, "{effort:?} for {frames} frames");
    Ok(())
}

#[test]
fn a_bound_that_is_longer_than_all_gaps_is_spun_for() -> Result<()> {
    let switch = Switch::with(&["--poll-us", "10000000"])?;
    let (effort, frames) = trickle(&switch, Duration::from_millis(1))?;
    assert!(effort.sleeps < 20.0, "{effort:?} for {frames} frames");
    Ok(())
}

#[test]
fn nobody_is_starved_by_a_neighbour() -> Result<()> {
    for kind in Kind::ALL {
        let switch = Switch::start()?;
        let mut pair = PingPong::connect(&switch);
        let mut neighbour = kind.connect(&switch);
        let trips = pair.play(Duration::from_millis(300), Duration::ZERO, &mut || neighbour.refill());
        assert!(trips.quantile(0.0) < LOST.as_secs_f64() * 1e6, "{kind:?}: every round trip was lost");
        assert_eq!(switch.status()?.worker.restarts, 0, "{kind:?}");
    }
    Ok(())
}

#[test]
fn frames_for_others_do_not_wait_for_a_slow_receiver() -> Result<()> {
    let switch = Switch::start()?;
    let mut slow = Guest::config().ring_size(4).connect(switch.socket());
    let [mut sender, mut other] = [(), ()].map(|()| Guest::connect(switch.socket()));
    for (station, guest) in [(3, &mut slow), (2, &mut other)] {
        guest.send(&noise(mac(1), mac(station), 60, 0));
        sender.receive();
    }
    other.receive();
    let mut flow = Flow::new(1, 2, 60);
    // In the same ring, behind frames without a buffer: `slow` has four buffers, of which one is used, and takes none
    // back.
    for n in 0..50 {
        sender.send(&noise(mac(3), mac(1), 60, n));
        flow.send(&mut sender, 1);
    }
    flow.await_complete(&mut other);
    switch.await_drops("p0", "no_rx_buffers", 47)?;
    Ok(())
}
