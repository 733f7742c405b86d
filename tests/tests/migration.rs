//! Real guests move from one QEMU to another, each on a port of sv3, under pings and TCP.
//!
//! Ignored by a plain `cargo test`, since guests need a minute each and both processors: `scripts/check` runs the first ones.

mod downtime;
mod journey;
mod libvirt;
mod machines;
mod neighbours;
mod pages;
mod upgrades;

use std::time::{Duration, Instant};

use journey::{Journey, join};
use sv3_tests::failure::Result;
use sv3_tests::switch::Switch;

/// A guest moves twice on one switch, and cancels in between.
fn moves_on_one_switch(device: &str) -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, device)?;
    let jobs = journey.talk()?;
    let job = journey.ping(100)?;
    journey.traveller()?.cancel_migration(1 << 20)?;
    let moved = journey.go(switch.socket().to_path_buf(), || Ok(()))?;
    println!("{device}: {moved:?}");
    journey.assert_whole(jobs)?;
    journey.assert_pinged(job, 100, 20, 0)?;
    let states: Vec<_> = switch.events()?.into_iter().filter(|event| event["event"] == "migration").collect();
    let states: Vec<_> = states.iter().filter_map(|event| event["state"].as_str()).collect();
    assert_eq!(states, ["begun", "ended", "begun", "stopped"]);
    assert_eq!(switch.status()?.worker.restarts, 0);
    assert!(switch.status()?.ports.iter().all(|port| !port.migrating));
    Ok(())
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_moves_from_one_port_to_another() -> Result<()> {
    moves_on_one_switch("")
}

#[test]
#[ignore = "it takes long"]
fn a_guest_with_packed_rings_moves() -> Result<()> {
    moves_on_one_switch("packed=on")
}

#[test]
#[ignore = "it takes long"]
fn a_guest_without_mergeable_buffers_moves() -> Result<()> {
    moves_on_one_switch("mrg_rxbuf=off,event_idx=off")
}

/// The driver does not announce itself: QEMU sends five SEND_RARP.
#[test]
#[ignore = "it takes long"]
fn a_guest_that_does_not_announce_itself_moves() -> Result<()> {
    moves_on_one_switch("guest_announce=off")
}

#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_moves_to_another_switch_and_back_while_workers_die() -> Result<()> {
    let (here, there) = (Switch::start()?, Switch::start()?);
    join(&here, &there)?;
    let mut journey = Journey::begin(&here, &here, "")?;
    let jobs = journey.talk()?;
    let job = journey.ping(200)?;
    for (from, to) in [(&here, &there), (&there, &here)] {
        let mut last = Instant::now();
        let mut deaths = 0;
        let moved = journey.go(to.socket().to_path_buf(), || {
            if deaths < 3 && last.elapsed() > Duration::from_millis(300) {
                (last, deaths) = (Instant::now(), deaths + 1);
                from.kill_worker("KILL")?;
            }
            Ok(())
        })?;
        println!("{moved:?}, {deaths} deaths");
    }
    journey.assert_whole(jobs)?;
    journey.assert_pinged(job, 200, 20, 6).map(drop)
}

#[test]
#[ignore = "it takes long"]
fn a_guest_is_saved_to_a_file_and_restored() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    let jobs = journey.talk()?;
    let to = journey.config.clone().await_guest(switch.socket())?;
    let (arrived, moved) = journey.depart()?.migrate_by_file(to)?;
    println!("{moved:?}");
    journey.traveller = Some(arrived);
    journey.assert_whole(jobs)
}
