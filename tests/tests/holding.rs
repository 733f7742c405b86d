//! Frames wait for a receiver that is a little behind, for a bounded time (docs/fairness.md, "Who waits for whom").

use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::feature::RING_PACKED;
use sv3_tests::guest::{Config, Guest};
use sv3_tests::patience::PATIENCE;
use sv3_tests::switch::Switch;

const SENDER: u8 = 1;
const SLOW: u8 = 2;
const OTHER: u8 = 3;

/// What a hold may take at most, and what may be saved up for holds (worker/src/hold.rs).
const LONGEST_US: u64 = 20_000;
const SAVED_US: u64 = 50_000;

/// One thread, whom receivers kick, or two, of whom the one that is not also obeying commands serves the sender.
const THREADS: [&str; 2] = ["1", "2"];

/// Guests with split rings, and some with packed rings; with one thread and two.
fn kinds() -> impl Iterator<Item = (Config, &'static str)> {
    let kinds = [Guest::config(), Guest::config().more_features(RING_PACKED)];
    kinds.into_iter().flat_map(|config| THREADS.map(|threads| (config.clone(), threads)))
}

/// Connects a receiver of eight buffers whose address is known, a sender, and one more.
fn three((config, threads): (Config, &str)) -> Result<(Switch, [Guest; 3])> {
    let switch = Switch::with(&["--threads", threads])?;
    let sizes = [8, 256, 256];
    let mut guests = sizes.map(|size| config.clone().ring_size(size).connect(switch.socket()));
    let stations = [SLOW, SENDER, OTHER];
    for (at, station) in stations.into_iter().enumerate() {
        // To an address that nobody has: all others take it.
        guests[at].send(&noise(mac(99), mac(station), 60, 0));
        for (other, guest) in guests.iter_mut().enumerate() {
            if other != at {
                guest.receive();
            }
        }
    }
    let [slow, sender, other] = guests;
    Ok((switch, [sender, slow, other]))
}

#[test]
fn a_receiver_that_is_slow_but_takes_frames_loses_none() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, mut slow, _other]) = three(kind)?;
        // A test's processor may be taken away for longer than frames wait, so that one of some rounds must do.
        let start = Instant::now();
        for round in 0.. {
            let before = switch.port("p0")?;
            for n in 0..200 {
                sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
            }
            let mut came = 0;
            while slow.receive_within(Duration::from_millis(200)).is_some() {
                came += 1;
            }
            let after = switch.port("p0")?;
            let dropped = drops(&after) - drops(&before);
            assert_eq!(came + dropped, 200, "a frame comes, once, or is counted");
            if dropped == 0 && after.awaited.times > before.awaited.times {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{round} rounds, each with a loss");
        }
        let (sender, receiver) = (switch.port("p1")?, switch.port("p0")?);
        assert_eq!(sender.held, receiver.awaited);
        assert_eq!((sender.awaited.times, receiver.held.times), (0, 0));
    }
    Ok(())
}

#[test]
fn a_receiver_that_takes_nothing_is_waited_for_once() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, _slow, mut other]) = three(kind)?;
        let mut flow = Flow::new(SENDER, OTHER, 60);
        for n in 0..500 {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
            flow.send(&mut sender, 1);
            flow.await_complete(&mut other);
        }
        switch.await_drops("p0", "no_rx_buffers", 500 - 8)?;
        let (held, awaited) = (switch.port("p1")?.held, switch.port("p0")?.awaited);
        assert_eq!(held, awaited);
        // A command in the meantime ends a hold, and the next one begins.
        assert!(held.times <= 3 && held.us >= LONGEST_US, "{held:?}");
    }
    Ok(())
}

#[test]
fn a_receiver_that_trickles_takes_no_more_than_its_share_of_a_senders_time() -> Result<()> {
    for threads in THREADS {
        let (switch, [mut sender, mut slow, mut other]) = three((Guest::config(), threads))?;
        let start = Instant::now();
        let before = switch.port("p1")?.held;
        let mut flow = Flow::new(SENDER, OTHER, 60);
        let (mut n, mut taken_at) = (0, start);
        while start.elapsed() < Duration::from_secs(2) {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
            flow.send(&mut sender, 1);
            n += 1;
            // It gives a buffer just often enough that waiting for it is not in vain.
            while !flow.is_complete() {
                if let Some(received) = other.try_receive() {
                    flow.note(&received);
                }
                if taken_at.elapsed() > Duration::from_millis(15) && slow.try_receive().is_some() {
                    taken_at = Instant::now();
                }
            }
        }
        let held = switch.port("p1")?.held.us - before.us;
        let passed = start.elapsed().as_micros() as u64;
        assert!(held > passed / 10, "{held} us of {passed}: it was not waited for");
        assert!(held <= passed / 2 + SAVED_US + LONGEST_US, "{held} us of {passed}");
        assert!(n > 100, "{n} frames for others");
    }
    Ok(())
}

#[test]
fn a_ring_that_is_held_stops_at_once_and_goes_on_where_it_stopped() -> Result<()> {
    // Of a packed ring only its driver knows what it has taken back.
    for threads in THREADS {
        let (switch, [mut sender, mut slow, _other]) = three((Guest::config(), threads))?;
        let (mut sent, mut came) = (0, 0);
        for round in 0..20 {
            for n in 0..12 {
                sender.send(&noise(mac(SLOW), mac(SENDER), 60, round * 12 + n));
                sent += 1;
            }
            // Most of these come while the ring is held: the receiver has had eight frames and took none.
            let start = Instant::now();
            let base = sender.stop_ring(1);
            assert!(start.elapsed() < PATIENCE / 10, "{:?}", start.elapsed());
            sender.start_ring(1, base);
            while slow.receive_within(Duration::from_millis(50)).is_some() {
                came += 1;
            }
            sender.await_sent();
        }
        while slow.try_receive().is_some() {
            came += 1;
        }
        assert_eq!(came + drops(&switch.port("p0")?), sent);
    }
    Ok(())
}

#[test]
fn a_receiver_that_goes_while_it_is_waited_for_holds_nobody() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, slow, mut other]) = three(kind)?;
        for n in 0..50 {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
        }
        slow.vanish();
        let last = noise(mac(OTHER), mac(SENDER), 60, 99);
        sender.send(&last);
        // What is for an address that nobody has comes as well.
        while other.receive_frame() != last {}
        sender.await_sent();
        assert_eq!(switch.status()?.worker.restarts, 0);
    }
    Ok(())
}

#[test]
fn a_worker_that_dies_while_a_ring_is_held_loses_nothing_of_it() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, mut slow, _other]) = three(kind)?;
        for n in 0..12 {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
        }
        switch.kill_worker("KILL")?;
        let mut came = 0;
        while slow.receive_within(Duration::from_millis(200)).is_some() {
            came += 1;
        }
        sender.await_sent();
        // What was published to the receiver and not yet to the sender comes twice.
        assert!(came + drops(&switch.port("p0")?) >= 12, "{came}");
    }
    Ok(())
}

fn drops(port: &sv3::status::PortStatus) -> u64 {
    port.drops.get("no_rx_buffers").copied().unwrap_or(0)
}
