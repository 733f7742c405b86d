//! Guests of other kinds, and other ways to migrate: QEMU 7.2, several queues, several channels, snapshots, post-copy.

use std::time::Duration;

use sv3_tests::failure::Result;
use sv3_tests::image::Suite;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Attachment, Config, has_kvm};

use super::journey::{Journey, on_taps, traveller_with};

/// A machine that QEMU 7.2 and newer ones know.
const OLD_MACHINE: &str = "pc-q35-7.2";

/// From one QEMU to others, one after the other, on one switch.
fn moves_through(config: Config, qemus: &[Suite]) -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::of(config, switch.socket(), switch.socket())?;
    let pings = 50 * qemus.len() as u32;
    let jobs = journey.talk()?;
    let job = journey.ping(pings)?;
    let mut differences = 0;
    for qemu in qemus {
        journey.config = journey.config.clone().qemu(*qemu);
        let (moved, different) = journey.go_compared(&Attachment::VhostUser(switch.socket()))?;
        println!("to {qemu:?}: {moved:?}, {different} pages differ");
        differences += different;
    }
    journey.assert_whole(jobs)?;
    journey.assert_pinged(job, pings, 50, 0)?;
    assert_eq!(differences, 0);
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
#[ignore = "it takes long"]
fn a_guest_moves_from_the_oldest_qemu_to_itself_to_the_newest_and_back() -> Result<()> {
    // Without KVM, the oldest crashes with MSI-X, so the newest must do without as well.
    let config = traveller_with(if has_kvm() { "" } else { "vectors=0" }).machine(OLD_MACHINE).qemu(Suite::Bookworm);
    moves_through(config, &[Suite::Bookworm, Suite::Sid, Suite::Bookworm, Suite::Sid])
}

/// The same on taps: sv3 has no part in it, so a page that differs is QEMU's own fault. `SV3_QEMU=new`: between two of the
/// newest.
#[test]
#[ignore = "it measures"]
fn pages_that_differ_without_sv3() -> Result<()> {
    let new = std::env::var("SV3_QEMU").is_ok_and(|which| which == "new");
    let qemu = if new { Suite::Sid } else { Suite::Bookworm };
    on_taps(|[neighbour, here, there]| {
        let config = traveller_with(if has_kvm() { "" } else { "vectors=0" }).machine(OLD_MACHINE).qemu(qemu);
        let mut journey = Journey::on(config, &neighbour, &here)?;
        let jobs = journey.talk()?;
        for round in 0..20 {
            let (moved, different) = journey.go_compared(if round % 2 == 0 { &there } else { &here })?;
            println!("{round}: {qemu:?}: {moved:?}, {different} pages differ");
        }
        journey.assert_whole(jobs)
    })
}

#[test]
#[ignore = "it takes long"]
fn a_guest_with_several_queues_moves() -> Result<()> {
    moves_through(traveller_with("vectors=10").queue_pairs(4), &[Suite::Sid; 3])
}

/// Memory goes by several channels at a time (`multifd`).
#[test]
#[ignore = "it takes long"]
fn a_guest_moves_by_several_channels() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    let jobs = journey.talk()?;
    for _ in 0..3 {
        let to = journey.config.clone().await_guest(switch.socket())?;
        let from = journey.depart()?;
        for vm in [&from, &to] {
            vm.enable("multifd")?;
        }
        let (arrived, moved, different) = from.migrate_and_compare(to, || Ok(()))?;
        println!("{moved:?}");
        assert_eq!(different, 0);
        journey.traveller = Some(arrived);
    }
    journey.assert_whole(jobs)
}

/// It stands still while the switch and its neighbour go on, and migrates while it stands still.
#[test]
#[ignore = "it takes long"]
fn a_guest_is_paused_resumed_and_moved_while_it_is_paused() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    let jobs = journey.talk()?;
    for _ in 0..5 {
        journey.traveller()?.pause()?;
        std::thread::sleep(Duration::from_millis(200));
        journey.traveller()?.resume()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    journey.traveller()?.pause()?;
    let to = journey.config.clone().await_guest(switch.socket())?;
    let (mut arrived, moved, different) = journey.depart()?.migrate_and_compare(to, || Ok(()))?;
    println!("{moved:?}");
    assert_eq!(different, 0);
    arrived.resume()?;
    journey.traveller = Some(arrived);
    journey.assert_whole(jobs)
}

/// As the monitor's `savevm` and `loadvm` do. Connections do not survive that the guest goes back in time.
#[test]
#[ignore = "it takes long"]
fn a_guest_goes_back_to_a_snapshot() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    journey.traveller()?.add_image()?;
    journey.traveller()?.sh("echo before >/tmp/when")?;
    let job = journey.ping(60)?;
    journey.traveller()?.save_snapshot()?;
    for _ in 0..2 {
        journey.traveller()?.sh("echo after >/tmp/when")?;
        journey.traveller()?.load_snapshot()?;
        assert_eq!(journey.traveller()?.sh("cat /tmp/when")?.trim(), "before");
    }
    journey.assert_pinged(job, 60, 50, 0)?;
    let jobs = journey.talk()?;
    journey.assert_whole(jobs)?;
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

/// QEMU refuses at once, whichever end wants it, and the guest goes on where it is.
#[test]
#[ignore = "it takes long"]
fn post_copy_is_refused() -> Result<()> {
    let switch = Switch::start()?;
    let mut journey = Journey::begin(&switch, &switch, "")?;
    let jobs = journey.talk()?;
    let job = journey.ping(50)?;
    let to = journey.config.clone().await_guest(switch.socket())?;
    let refusal = to.enable("postcopy-ram").map_or_else(|failure| failure.to_string(), |()| "none".to_string());
    let words = "Postcopy is not supported: vhost-user backend not capable of postcopy";
    assert!(refusal.contains(words), "at the destination: {refusal}");
    // The source does not know what the other end can.
    journey.traveller()?.enable("postcopy-ram")?;
    let refusal = journey.traveller()?.fail_to_migrate(&to)?;
    assert!(refusal.contains("RAM postcopy is disabled"), "at the source: {refusal}");
    journey.assert_pinged(job, 50, 20, 0)?;
    journey.assert_whole(jobs)
}
