//! Frames wait for a receiver that is a little behind, for a bounded time
//! (docs/understand/fairness.md).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sv3::status::PortStatus;
use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::feature::RING_PACKED;
use sv3_tests::guest::{Config, Guest, NetHdr, Shape};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::Switch;

const SENDER: u8 = 1;
const SLOW: u8 = 2;
const OTHER: u8 = 3;

/// The longest pause, and the most that a queue saves up for pauses, in microseconds (worker/src/poll/pause.rs).
const LONGEST_US: u64 = 20_000;
const SAVED_US: u64 = 50_000;

/// Most rings that a thread pauses at a time.
const MOST: usize = 16;
/// Stations of pairs from this number on: a sender, its slow receiver, the next sender and so on.
const PAIRS: u8 = 10;

/// One thread, which receivers kick; or two, of which the one that executes no commands serves the sender.
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
        // To an unknown address: all others receive it.
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
        // The host may take the test's processor away for longer than frames wait, so one good round of some is enough.
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
            if dropped == 0 && after.paused_others.times > before.paused_others.times {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{round} rounds, each with a loss");
        }
        let (sender, receiver) = (switch.port("p1")?, switch.port("p0")?);
        assert_eq!(sender.paused, receiver.paused_others);
        assert_eq!((sender.paused_others.times, receiver.paused.times), (0, 0));
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
        let (paused, paused_others) = (switch.port("p1")?.paused, switch.port("p0")?.paused_others);
        assert_eq!(paused, paused_others);
        // A command in the meantime ends a pause, and the next one begins.
        assert!(paused.times <= 3 && paused.us >= LONGEST_US, "{paused:?}");
    }
    Ok(())
}

#[test]
fn a_receiver_that_trickles_takes_no_more_than_its_share_of_a_senders_time() -> Result<()> {
    for threads in THREADS {
        let (switch, [mut sender, mut slow, mut other]) = three((Guest::config(), threads))?;
        let start = Instant::now();
        let before = switch.port("p1")?.paused;
        let mut flow = Flow::new(SENDER, OTHER, 60);
        let (mut n, mut taken_at) = (0, start);
        while start.elapsed() < Duration::from_secs(2) {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
            flow.send(&mut sender, 1);
            n += 1;
            // It gives a buffer just often enough that the sender goes on waiting for it.
            while !flow.is_complete() {
                if let Some(received) = other.try_receive() {
                    flow.note(&received);
                }
                if taken_at.elapsed() > Duration::from_millis(15) && slow.try_receive().is_some() {
                    taken_at = Instant::now();
                }
            }
        }
        let paused = switch.port("p1")?.paused.us - before.us;
        let passed = start.elapsed().as_micros() as u64;
        assert!(paused > passed / 10, "{paused} us of {passed}: it was not waited for");
        assert!(paused <= passed / 2 + SAVED_US + LONGEST_US, "{paused} us of {passed}");
        assert!(n > 100, "{n} frames for others");
    }
    Ok(())
}

#[test]
fn a_ring_that_is_paused_stops_at_once_and_goes_on_where_it_stopped() -> Result<()> {
    // Only the driver of a packed ring knows what it has taken back.
    for threads in THREADS {
        let (switch, [mut sender, mut slow, _other]) = three((Guest::config(), threads))?;
        let (mut sent, mut came) = (0, 0);
        for round in 0..20 {
            for n in 0..12 {
                sender.send(&noise(mac(SLOW), mac(SENDER), 60, round * 12 + n));
                sent += 1;
            }
            // Most of these come while the ring is paused: the receiver has eight frames and took none.
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
fn a_receiver_that_goes_while_it_is_waited_for_pauses_no_one() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, slow, mut other]) = three(kind)?;
        for n in 0..50 {
            sender.send(&noise(mac(SLOW), mac(SENDER), 60, n));
        }
        slow.vanish();
        let last = noise(mac(OTHER), mac(SENDER), 60, 99);
        sender.send(&last);
        // Frames to an unknown address come as well.
        while other.receive_frame() != last {}
        sender.await_sent();
        assert_eq!(switch.status()?.worker.restarts, 0);
    }
    Ok(())
}

#[test]
fn a_worker_that_dies_while_a_ring_is_paused_loses_nothing_of_it() -> Result<()> {
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

/// Connects pairs, each of a sender and a receiver of eight buffers, whose addresses are known: ports `p0` and `p1`,
/// ...
fn pairs(switch: &Switch, config: &Config, count: u8) -> Vec<[Guest; 2]> {
    let connect = |station: u8, size: u16| {
        let mut guest = config.clone().ring_size(size).connect(switch.socket());
        // To itself, so that no other guest receives it.
        guest.send(&noise(mac(station), mac(station), 60, 0));
        guest.await_sent();
        guest
    };
    let stations = (PAIRS..).step_by(2).take(count.into());
    stations.map(|sender| [connect(sender, 32), connect(sender + 1, 8)]).collect()
}

/// The frame of that number from the sender of a pair to its receiver.
fn frame_of(pair: usize, number: u32) -> Vec<u8> {
    let sender = PAIRS + 2 * pair as u8;
    noise(mac(sender + 1), mac(sender), 60, number)
}

#[test]
fn pairs_that_fill_all_that_a_thread_pauses_harm_no_others() -> Result<()> {
    for threads in 1..=2 {
        let switch = Switch::with(&["--threads", &threads.to_string()])?;
        let mut colluding = pairs(&switch, &Guest::config(), 3 * MOST as u8);
        let mut honest = [SENDER, OTHER].map(|station| {
            let mut guest = Guest::connect(switch.socket());
            guest.send(&noise(mac(station), mac(station), 60, 0));
            guest.await_sent();
            guest
        });
        let mut flow = Flow::new(SENDER, OTHER, 60);
        let mut sent = vec![0u64; colluding.len()];
        let mut came = vec![0; colluding.len()];
        let start = Instant::now();
        let mut taken_at = vec![start; colluding.len()];
        let mut asked = 0;
        while start.elapsed() < Duration::from_secs(2) {
            for (pair, [sender, receiver]) in colluding.iter_mut().enumerate() {
                // As many as its ring takes, to a receiver that gives a buffer just often enough that the sender goes
                // on waiting.
                while sender.try_send_on(0, &NetHdr::default(), &frame_of(pair, sent[pair] as u32), Shape::default()) {
                    sent[pair] += 1;
                }
                sender.publish(1);
                if taken_at[pair].elapsed() > Duration::from_millis(15) && receiver.try_receive().is_some() {
                    (taken_at[pair], came[pair]) = (Instant::now(), came[pair] + 1);
                }
            }
            let [from, to] = &mut honest;
            while let Some(received) = to.try_receive() {
                flow.note(&received);
            }
            if flow.is_complete() {
                flow.send(from, 8);
                asked += 8;
            }
        }
        let status = switch.status()?;
        let passed = start.elapsed().as_micros() as u64;
        flow.await_complete(&mut honest[1]);

        let port = |at: usize| status.ports.iter().find(|port| port.name == format!("p{at}")).expect("it is there");
        let paused: Vec<_> = (0..colluding.len()).map(|pair| port(2 * pair).paused.us).collect();
        for paused in &paused {
            // Half of the time, and more where the machine keeps the worker from ending a pause.
            assert!(*paused <= passed * 3 / 4 + SAVED_US + LONGEST_US, "{paused} us of {passed}");
        }
        let together: u64 = paused.iter().sum();
        assert!(together <= (MOST * threads) as u64 * passed, "{together} us of {passed}: more than {MOST} at a time");
        assert!(together > passed, "{together} us of {passed}: they were not waited for");
        let [from, to] = [0, 1].map(|at| port(2 * colluding.len() + at));
        assert_eq!((from.paused.times, to.paused_others.times, drops(to)), (0, 0, 0), "others were harmed");
        // How many depends on the machine. Whether they were made to wait is told by the figures above.
        assert!(asked >= 80, "others sent {asked} frames in {passed} us");

        let known = await_known(&switch, &sent, |pair| {
            came[pair] += std::iter::from_fn(|| colluding[pair][1].try_receive()).count() as u64;
            came[pair]
        })?;
        assert_eq!(known, sent, "each comes once or is counted");
        colluding.iter_mut().for_each(|[sender, _]| sender.await_sent());
        assert_eq!(switch.status()?.worker.restarts, 0);
    }
    Ok(())
}

#[test]
fn workers_that_die_while_more_rings_wait_than_a_thread_pauses_lose_nothing_of_them() -> Result<()> {
    for (config, threads) in kinds() {
        let switch = Switch::with(&["--threads", threads])?;
        let mut pairs = pairs(&switch, &config, MOST as u8 + 4);
        for round in 0..3 {
            for (pair, [sender, _]) in pairs.iter_mut().enumerate() {
                (0..12).for_each(|n| sender.send(&frame_of(pair, round * 12 + n)));
            }
            switch.kill_worker("KILL")?;
        }
        // What was published to the receiver and not yet to the sender comes twice.
        let mut came = vec![BTreeSet::new(); pairs.len()];
        await_known(&switch, &vec![36; pairs.len()], |pair| {
            came[pair].extend(std::iter::from_fn(|| pairs[pair][1].try_receive()).map(|received| received.frame));
            came[pair].len() as u64
        })?;
        pairs.iter_mut().for_each(|[sender, _]| sender.await_sent());
        for (pair, came) in came.into_iter().enumerate() {
            let sent: BTreeSet<_> = (0..36).map(|number| frame_of(pair, number)).collect();
            assert!(came.is_subset(&sent), "another's frame");
        }
    }
    Ok(())
}

/// Waits until for each pair the frames that came and those that were dropped are so many together; returns the counts.
/// `came` receives for a pair and says how many frames came in all.
fn await_known(switch: &Switch, sent: &[u64], mut came: impl FnMut(usize) -> u64) -> Result<Vec<u64>> {
    until("what was sent", || {
        let came: Vec<u64> = (0..sent.len()).map(&mut came).collect();
        let status = switch.status()?;
        let port = |at: usize| status.ports.iter().find(|port| port.name == format!("p{at}"));
        let known = came.iter().enumerate().map(|(pair, came)| came + port(2 * pair + 1).map_or(0, drops));
        let known: Vec<u64> = known.collect();
        let all = known.iter().zip(sent).all(|(known, sent)| known >= sent);
        Ok(all.then_some(known))
    })
}

#[test]
fn a_sender_that_is_reset_while_it_is_paused_starts_anew() -> Result<()> {
    for kind in kinds() {
        let (switch, mut guests) = three(kind)?;
        // Counts what has come back to the sender.
        guests.iter_mut().for_each(Guest::await_sent);
        let [mut sender, mut slow, mut other] = guests;
        // From the sender; to the receiver, and dropped there; to the other one.
        let count = || -> Result<[u64; 4]> {
            let [slow, sender, other] = [switch.port("p0")?, switch.port("p1")?, switch.port("p2")?];
            Ok([sender.from_guest.frames, slow.to_guest.frames, drops(&slow), other.to_guest.frames])
        };
        let before = count()?;
        let mut flow = Flow::new(SENDER, OTHER, 60);
        let mut came = 0;
        for round in 0..10 {
            fill(&mut sender, &mut slow, round * 12)?;
            sender.reset_device(sender.features());
            // The guest may send again what it has not got back, and sends nothing behind it.
            flow.send(&mut sender, 8);
            flow.await_complete(&mut other);
            sender.await_sent();
            came += std::iter::from_fn(|| slow.try_receive()).count() as u64;
        }
        let after = count()?;
        let [forwarded, delivered, dropped, others]: [u64; 4] = std::array::from_fn(|at| after[at] - before[at]);
        assert_eq!((came, others), (delivered, 80));
        assert_eq!(forwarded, delivered + dropped + others, "each came or was counted");
        assert!(came >= 80, "{came}");
        assert_eq!(switch.port("p1")?.paused, switch.port("p0")?.paused_others);
        assert_eq!(switch.status()?.worker.restarts, 0);
    }
    Ok(())
}

#[test]
fn a_receiver_that_is_reset_while_it_is_waited_for_pauses_no_one_and_gets_later_frames() -> Result<()> {
    for kind in kinds() {
        let (switch, [mut sender, mut slow, mut other]) = three(kind)?;
        let mut flow = Flow::new(SENDER, OTHER, 60);
        for round in 0..10 {
            fill(&mut sender, &mut slow, round * 12)?;
            slow.reset_device(slow.features());
            flow.send(&mut sender, 8);
            while !flow.is_complete() {
                // Frames for it may have come here in its absence.
                let received = other.receive();
                if received.frame[..6] == mac(OTHER) {
                    flow.note(&received);
                }
            }
            sender.await_sent();
            let last = noise(mac(SLOW), mac(SENDER), 60, 1000 + round);
            while slow.try_receive().is_some() {}
            sender.send(&last);
            while slow.receive_frame() != last {}
        }
        let status = switch.status()?;
        let all = |count: fn(&PortStatus) -> u64| status.ports.iter().map(count).sum::<u64>();
        let dropped = all(|port| port.drops.values().sum());
        assert!(all(|port| port.to_guest.frames) + dropped >= all(|port| port.from_guest.frames));
        assert_eq!(status.worker.restarts, 0);
    }
    Ok(())
}

/// Sends twelve frames at once to the receiver of eight buffers, until some are delivered; so the others wait.
fn fill(sender: &mut Guest, slow: &mut Guest, first: u32) -> Result<()> {
    for n in first..first + 12 {
        let frame = noise(mac(SLOW), mac(SENDER), 60, n);
        assert!(sender.try_send_on(0, &NetHdr::default(), &frame, Shape::default()));
    }
    sender.publish(1);
    until("the first frames", || Ok(slow.queue(0).ring.has_used(slow.memory()).then_some(())))
}

fn drops(port: &PortStatus) -> u64 {
    port.drops.get("no_rx_buffers").copied().unwrap_or(0)
}
