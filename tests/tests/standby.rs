//! What a client does to its memory costs neither other clients nor the switch the standby: restarts and upgrades go on
//! to work.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use sv3::audit::AuditAnswer;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::honest::Honest;
use sv3_tests::switch::Switch;

/// `F_SEAL_FUTURE_WRITE`: no new mapping for writing.
const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(0x10);

fn restart(switch: &Switch) -> Result<()> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["restart", "--control", &control])?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn standby(switch: &Switch) -> Result<u32> {
    sv3_tests::patience::until("a standby", || Ok(switch.status()?.worker.standby_pid))
}

fn seal(guest: &Guest, seal: SealFlag) -> nix::Result<()> {
    fcntl(guest.memory().regions()[0].file(), FcntlArg::F_ADD_SEALS(seal)).map(drop)
}

fn count(switch: &Switch, name: &str) -> Result<usize> {
    Ok(switch.events()?.iter().filter(|event| event["event"] == name).count())
}

#[test]
fn memory_that_is_sealed_later_costs_its_client_the_port_and_no_other_the_standby() -> Result<()> {
    let mut honest = Honest::new()?;
    for round in 0..3 {
        let mut sealer = Guest::connect(honest.socket());
        standby(&honest)?;
        assert_eq!(seal(&sealer, SealFlag::F_SEAL_WRITE), Err(Errno::EBUSY), "it is mapped");
        seal(&sealer, FUTURE_WRITE)?;
        // The standby has it mapped. The next worker cannot map it.
        restart(&honest)?;
        sealer.raw().await_close()?;
        honest.await_event(&["refuse", "sealed against writing since it was admitted"])?;
        honest.await_ports(2)?;
        let next = standby(&honest)?;
        honest.talk();
        restart(&honest)?;
        assert_eq!(honest.worker_pid()?, next, "round {round}: the standby that met the sealed file lives");
    }
    assert_eq!(["standby_lost", "handover_failed", "blame"].map(|name| count(&honest, name).ok()), [Some(0); 3]);
    honest.kill_worker("KILL")?;
    honest.talk();
    Ok(())
}

#[test]
fn seals_that_change_nothing_for_a_mapping_cost_nothing() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut guest = Guest::connect(honest.socket());
    seal(&guest, SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL)?;
    for _ in 0..2 {
        restart(&honest)?;
        standby(&honest)?;
    }
    let letter = frame(BROADCAST, mac(9), b"served as before");
    guest.send(&letter);
    assert_eq!(honest.guest(0).receive_frame(), letter);
    assert_eq!(honest.guest(1).receive_frame(), letter);
    assert_eq!(count(&honest, "standby_lacks")?, 0);
    Ok(())
}

#[test]
fn without_a_standby_the_next_worker_finds_the_sealed_file() -> Result<()> {
    let switch = Switch::with(&["--no-standby"])?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let mut sealer = Guest::connect(switch.socket());
    seal(&sealer, FUTURE_WRITE)?;
    switch.kill_worker("KILL")?;
    sealer.raw().await_close()?;
    let letter = frame(BROADCAST, mac(1), b"to those that remain");
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    switch.await_event(&["refuse", "sealed against writing since it was admitted"])?;
    assert_eq!(count(&switch, "blame")?, 0);
    Ok(())
}

/// The next workers get at most so much address space.
fn limit(switch: &Switch, octets: &str) -> Result<()> {
    let mut control = UnixStream::connect(switch.control())?;
    control.write_all(b"audit\n")?;
    let mut answer = String::new();
    control.read_to_string(&mut answer)?;
    let spawner = serde_json::from_str::<AuditAnswer>(&answer)?.spawner_pid;
    // By the switch's own user, which needs no privilege for it.
    let mut command = Command::new("setpriv");
    if nix::unistd::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.args(["prlimit", "--pid", &spawner.to_string(), &format!("--as={octets}:")]);
    let limited = command.output()?;
    match limited.status.success() {
        true => Ok(()),
        false => Err(Failure::new(String::from_utf8_lossy(&limited.stderr).into_owned())),
    }
}

/// The client did nothing wrong: the machine has no room.
#[test]
fn a_port_that_the_standby_cannot_map_is_served_on_and_told_again() -> Result<()> {
    let mut honest = Honest::new()?;
    let mut large = Guest::config().memory(16 << 30).connect(honest.socket());
    let old = standby(&honest)?;
    limit(&honest, &(8u64 << 30).to_string())?;
    sv3_tests::switch::send(old, "KILL")?;
    let lacks = honest.await_event(&["standby_lacks"])?;
    assert_eq!((&lacks["port"], count(&honest, "standby_lacks")?), (&"p2".into(), 1));
    honest.await_status("a standby that lacks one port", |status| {
        let lacks: Vec<bool> = status.ports.iter().map(|port| port.standby_lacks.is_some()).collect();
        status.worker.standby_pid.is_some_and(|pid| pid != old) && lacks == [false, false, true]
    })?;
    let letter = |n: u8| frame(BROADCAST, mac(9), &[n; 60]);
    for n in 0..2 {
        large.send(&letter(n));
        (0..2).for_each(|of| assert_eq!(honest.guest(of).receive_frame(), letter(n)));
        // It changes things that the standby does not know.
        let base = large.stop_ring(1);
        large.start_ring(1, base);
    }

    // Without room a worker that serves cannot map it either. It says so, other guests go on, and the session stays
    // open.
    honest.kill_worker("KILL")?;
    honest.talk();
    honest.await_event(&["command_failed", "p2"])?;
    let port = honest.port("p2")?;
    assert!(port.rings.iter().any(|ring| ring.fault.is_some()), "{port:?}");

    // When there is room, the next worker maps it again.
    standby(&honest)?;
    limit(&honest, "unlimited")?;
    sv3_tests::switch::send(standby(&honest)?, "KILL")?;
    honest.await_status("a standby that lacks nothing", |status| {
        status.worker.standby_pid.is_some() && status.ports.iter().all(|port| port.standby_lacks.is_none())
    })?;
    honest.kill_worker("KILL")?;
    large.send(&letter(9));
    (0..2).for_each(|of| assert_eq!(honest.guest(of).receive_frame(), letter(9)));
    honest.talk();
    Ok(())
}
