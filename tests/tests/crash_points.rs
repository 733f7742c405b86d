//! The worker dies at each store of the publish sequence in turn, under traffic, and no frame is lost.
//!
//! Ignored by a plain `cargo test`, since it builds a worker of its own: `scripts/check` runs it.

#![allow(clippy::panic, reason = "a scenario that cannot go on has failed")]

use std::collections::BTreeMap;

use sv3_tests::failure::Result;
use sv3_tests::flow::Flow;
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::{Config, Guest};
use sv3_tests::switch::{Home, Switch};

/// The points at which it can die.
const POINTS: usize = 11;
/// Deaths of one switch: after more in a row the supervisor delays the next worker.
const DEATHS: u64 = 8;
/// Switches until every point has been seen. The chance that all miss a given point is 1 in 10^8.
const SWITCHES: usize = 25;

fn dies_everywhere(options: &[&str], config: &Config, octets: usize) -> Result<()> {
    let mut seen = BTreeMap::new();
    for _ in 0..SWITCHES {
        // Otherwise the sender of the current frame would be blamed.
        let switch = Home::with_crash_points()?.start(&[options, &["--blame", "0"]].concat())?;
        storm(&switch, config, octets)?;
        for event in switch.events()? {
            let message = event["message"].as_str().unwrap_or_default();
            if let Some((_, point)) = message.split_once("crash point ") {
                *seen.entry(point.to_string()).or_insert(0) += 1;
            }
        }
        if seen.len() == POINTS {
            return Ok(());
        }
    }
    panic!("it died only at {seen:?}");
}

/// Two guests send to each other until workers have died often enough. No frame may be lost or come three times, and no
/// descriptor may be stuck.
fn storm(switch: &Switch, config: &Config, octets: usize) -> Result<()> {
    // A split and a packed ring together pass all points.
    let mut a = config.clone().connect(switch.socket());
    let packed = RING_PACKED | VERSION_1;
    let mut b = config.clone().more_features(packed).connect(switch.socket());
    // The switch learns the addresses without a frame that a death would send again.
    for (guest, station) in [(&mut a, 1), (&mut b, 2)] {
        guest.send(&frame(mac(station), mac(station), b"to myself"));
        guest.await_sent();
    }
    let (mut there, mut back) = (Flow::new(1, 2, octets), Flow::new(2, 1, octets));
    while switch.status()?.worker.restarts < DEATHS {
        for _ in 0..10 {
            there.send(&mut a, 50);
            back.send(&mut b, 50);
            there.await_complete(&mut b);
            back.await_complete(&mut a);
        }
    }
    a.await_sent();
    b.await_sent();
    while let Some(late) = b.try_receive() {
        there.note(&late);
    }
    while let Some(late) = a.try_receive() {
        back.note(&late);
    }
    there.duplicates();
    back.duplicates();
    for port in switch.status()?.ports {
        assert!(port.drops.keys().all(|reason| reason == "hairpin"), "{}: {:?}", port.name, port.drops);
    }
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn frames_of_one_buffer() -> Result<()> {
    dies_everywhere(&[], &Guest::config().ring_size(512), 200)
}

#[test]
#[ignore = "scripts/check runs it"]
fn frames_of_many_buffers_in_order_without_standby() -> Result<()> {
    let config = Guest::config().features(LINUX | IN_ORDER).ring_size(1024);
    dies_everywhere(&["--no-standby"], &config, 3000)
}

#[test]
#[ignore = "scripts/check runs it"]
fn the_oldest_rings() -> Result<()> {
    dies_everywhere(&[], &Guest::config().features(0).ring_size(512), 200)
}
