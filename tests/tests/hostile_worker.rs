//! A hijacked worker against a real supervisor: it writes noise into the ledger and reports nonsense. The supervisor
//! lives, reports what it saw, shows wrong figures in bounded answers, and closes no session. A real worker that takes
//! over afterwards serves.

use std::fs;
use std::time::{Duration, Instant};

use sv3::status::{Crashes, Status};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::guest::wire::GET_FEATURES;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, private_memory};

/// Most octets of any answer, whatever the figures.
const ANSWER_MAX: usize = 1 << 20;

#[test]
fn a_worker_that_reports_nonsense_and_scribbles_over_the_ledger() -> Result<()> {
    let home = Home::new()?;
    let (worker, real) = (home.path("bin/sv3-worker"), home.path("bin/real-worker"));
    fs::rename(&worker, &real)?;
    fs::copy(env!("CARGO_BIN_EXE_hostile_worker"), &worker)?;
    // A lying worker can have clients blamed for its death; this test is about other things.
    let switch = home.start(&["--blame", "0"])?;
    let mut guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    let supervisor = switch.supervisor_pid()?;
    let before = private_memory(supervisor)?;

    let sign = home.path("bin/hostile");
    let seed = std::process::id();
    fs::write(&sign, seed.to_string())?;
    let over = Instant::now() + Duration::from_secs(8);
    let mut answers = 0;
    while Instant::now() < over {
        for guest in &mut guests {
            assert_ne!(guest.raw().get(GET_FEATURES)?, 0, "seed {seed}");
        }
        look(&switch).map_err(|failure| Failure::new(format!("seed {seed}: {failure}")))?;
        answers += 1;
    }
    let status = switch.status()?;
    assert_eq!((status.supervisor.pid, status.ports.len()), (supervisor, 2), "seed {seed}");
    assert!(status.worker.restarts >= 3 && answers > 0, "{} deaths, {answers} answers", status.worker.restarts);
    // A failure prints what came, and the seed to repeat it.
    switch.await_event(&["crash", "killed by the supervisor: it "])?;
    switch.await_event(&["a hostile worker with seed"])?;
    let stray = switch.events()?.into_iter().find(|event| !event.is_object());
    assert_eq!(stray, None, "a line of the log that is no event");
    let detached = switch.events()?.iter().any(|event| event.to_string().contains("detach"));
    assert!(!detached, "seed {seed}: a session was closed");
    let grown = private_memory(supervisor)?.saturating_sub(before);
    assert!(grown < 8 << 20, "the supervisor has grown by {grown} octets");

    // The forwarding table is noise now. A real worker serves all the same.
    fs::remove_file(&sign)?;
    let control = switch.control().display().to_string();
    let program = real.display().to_string();
    until("a real worker", || {
        let output = home.sv3_output(&["upgrade", &program, "--control", &control])?;
        Ok(output.status.success().then_some(()))
    })?;
    for ring in 0..2 {
        for guest in &mut guests {
            let base = guest.stop_ring(ring);
            guest.start_ring(ring, base);
        }
    }
    let [a, b] = &mut guests;
    let hello = frame(BROADCAST, mac(1), &[7; 60]);
    a.send(&hello);
    assert_eq!(b.receive_frame(), hello);
    Ok(())
}

/// Each request has an answer that is valid and bounded.
fn look(switch: &Switch) -> Result<()> {
    let control = switch.control().display().to_string();
    let ask = |verb: &[&str]| -> Result<Vec<u8>> {
        let output = switch.home().sv3_output(&[verb, &["--control", &control]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() && output.stdout.len() < ANSWER_MAX {
            true => Ok(output.stdout),
            false => Err(Failure::new(format!("{verb:?}: {} octets; {said}", output.stdout.len()))),
        }
    };
    let status: Status = serde_json::from_slice(&ask(&["status", "--json"])?)?;
    let crashes: Crashes = serde_json::from_slice(&ask(&["crashes", "--json"])?)?;
    for crash in &crashes.crashes {
        assert!(crash.cause.len() < 2000 && crash.cause.chars().all(|c| !c.is_control()), "{:?}", crash.cause);
        assert!(serde_json::to_string(crash)?.len() < 8192);
        for burst in &crash.trace {
            assert!(usize::from(burst.ring) < sv3::MAX_RINGS && burst.port.len() <= 5, "{burst:?}");
        }
    }
    for port in &status.ports {
        assert!(port.rings.len() <= sv3::MAX_RINGS && port.drops.len() <= sv3::drop_reason::DropReason::COUNT);
    }
    for text in [ask(&["status"])?, ask(&["crashes"])?] {
        assert!(String::from_utf8(text)?.chars().all(|c| !c.is_control() || c == '\n'));
    }
    let metrics = String::from_utf8(ask(&["metrics"])?)?;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').ok_or_else(|| Failure::new(line))?;
        value.parse::<f64>()?;
    }
    Ok(())
}
