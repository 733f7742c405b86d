//! A fork does not avoid quarantine: guests of one user, each a process of its own, kill one worker each.

use serde_json::Value;
use sv3_tests::failure::Result;
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::honest::Honest;
use sv3_tests::newcomer::Newcomer;
use sv3_tests::patience::until;

const NEWCOMER: &str = env!("CARGO_BIN_EXE_newcomer");

fn count(honest: &Honest, name: &str) -> Result<usize> {
    Ok(honest.events()?.iter().filter(|event| event["event"] == name).count())
}

/// Processes truncate their memory, one after the other, until newcomers are in quarantine.
fn row_of_deaths(honest: &mut Honest) -> Result<()> {
    for deaths in 1..=3 {
        let newcomer = Newcomer::start(honest, NEWCOMER, "cut")?;
        honest.await_status("a death", |status| status.worker.restarts == deaths)?;
        drop(newcomer);
        honest.talk();
        honest.await_ports(2)?;
    }
    assert_eq!(count(honest, "client_class")?, 1);
    Ok(())
}

#[test]
fn processes_that_kill_a_worker_each_are_stopped_and_sealed_memory_is_served() -> Result<()> {
    let mut honest = Honest::new()?;
    row_of_deaths(&mut honest)?;
    for _ in 0..10 {
        let newcomer = Newcomer::start(&honest, NEWCOMER, "cut")?;
        let quarantined = until("its quarantine", || {
            Ok(honest.status()?.ports.into_iter().find(|port| port.quarantine_s.is_some()))
        })?;
        let why = quarantined.quarantine_why.unwrap_or_default();
        assert!(why.contains("can be truncated") && why.contains("F_SEAL_SHRINK"), "{why}");
        drop(newcomer);
        honest.talk();
        honest.await_ports(2)?;
    }
    assert_eq!(honest.status()?.worker.restarts, 3, "no worker dies of clients in quarantine");

    // A client whose memory is sealed is served meanwhile.
    let sealed = Newcomer::start(&honest, NEWCOMER, "sealed")?;
    let letter = frame(BROADCAST, mac(9), b"sealed");
    assert_eq!(honest.guest(0).receive_frame(), letter);
    assert_eq!(honest.guest(1).receive_frame(), letter);
    drop(sealed);
    honest.await_ports(2)?;

    // A client that could truncate its memory is served after a release.
    let open = Newcomer::start(&honest, NEWCOMER, "open")?;
    let port =
        until("its quarantine", || Ok(honest.status()?.ports.into_iter().find(|port| port.quarantine_s.is_some())))?;
    assert_eq!(port.from_guest.frames, 0);
    let control = honest.control().display().to_string();
    let released = honest.home().sv3_output(&["port", "release", &port.name, "--control", &control])?;
    assert!(released.status.success());
    let letter = frame(BROADCAST, mac(9), b"open");
    assert_eq!(honest.guest(0).receive_frame(), letter);
    assert_eq!(honest.guest(1).receive_frame(), letter);
    drop(open);

    let events = honest.events()?;
    let of_honest = |event: &&Value| event["port"] == "p0" || event["port"] == "p1";
    assert_eq!(events.iter().filter(of_honest).count(), 2, "the two have come, and nothing else happened to them");
    Ok(())
}

/// Two processes that kill by turns do not make their class suspect: each has its own quarantine, and newcomers are
/// served.
#[test]
fn a_process_alone_makes_nobody_else_suspect() -> Result<()> {
    let mut honest = Honest::new()?;
    for deaths in 1..=2 {
        let newcomer = Newcomer::start(&honest, NEWCOMER, "cut")?;
        honest.await_status("a death", |status| status.worker.restarts == deaths)?;
        drop(newcomer);
        honest.await_ports(2)?;
    }
    let open = Newcomer::start(&honest, NEWCOMER, "open")?;
    let letter = frame(BROADCAST, mac(9), b"open");
    assert_eq!(honest.guest(0).receive_frame(), letter);
    assert_eq!(honest.guest(1).receive_frame(), letter);
    drop(open);
    assert_eq!(count(&honest, "client_class")?, 0);
    honest.talk();
    Ok(())
}
