//! The supervisor finds and stops clients that kill workers. It replaces a worker that is stopped, breaks its policy or
//! dies at the start. Two guests exchange frames meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;
use sv3::status::Crashes;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::honest::Honest;
use sv3_tests::patience::until;
use sv3_tests::stopped::stop;
use sv3_tests::switch::{Switch, activity, send};

const TX: u16 = 1;

/// The rings of this guest end where its first region ends.
fn hostile(honest: &Honest) -> Guest {
    Guest::config().rings_at_region_end().ring_size(16).connect(honest.socket())
}

/// Kills the worker by truncating a memory file; the guest loses its port for that.
fn kill_by_truncation(honest: &mut Honest) -> Result<()> {
    let before = honest.status()?.worker.restarts;
    let guest = hostile(honest);
    guest.memory().regions()[0].truncate(0);
    guest.kick(TX);
    honest.await_status("the next worker", |status| status.worker.restarts > before)?;
    honest.talk();
    guest.vanish();
    honest.await_ports(2)
}

/// Waits until the third port is in quarantine; returns its name and the quarantine's seconds.
fn quarantine(honest: &Honest) -> Result<(String, u64)> {
    until("a quarantine", || {
        let ports = honest.status()?.ports;
        Ok(ports.into_iter().find_map(|port| Some((port.name, port.quarantine_s?))))
    })
}

fn sv3(switch: &Switch, arguments: &[&str]) -> Result<String> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&[arguments, &["--control", &control]].concat())?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn crashes(switch: &Switch) -> Result<Crashes> {
    Ok(serde_json::from_str(&sv3(switch, &["crashes", "--json"])?)?)
}

#[test]
fn three_deaths_mean_quarantine_which_doubles_and_can_be_ended() -> Result<()> {
    let mut honest = Honest::new()?;
    for length in [10, 20] {
        for _ in 0..3 {
            kill_by_truncation(&mut honest)?;
        }
        let restarts = honest.status()?.worker.restarts;

        // It connects again; the supervisor answers, and no worker serves it.
        let mut confined = hostile(&honest);
        let (name, seconds) = quarantine(&honest)?;
        assert!((length / 2..=length).contains(&seconds), "{seconds} s of quarantine should be {length}");
        confined.send(&frame(BROADCAST, mac(9), b"from quarantine"));
        confined.memory().regions()[1].truncate(0);
        honest.talk();
        assert_eq!(honest.status()?.worker.restarts, restarts, "no worker dies of it in quarantine");
        assert_eq!(honest.port(&name)?.from_guest.frames, 0, "in quarantine nothing is taken");
        confined.vanish();
        honest.await_ports(2)?;

        // After its release it is served like others.
        let mut reformed = hostile(&honest);
        let (name, _) = quarantine(&honest)?;
        sv3(&honest, &["port", "release", &name])?;
        let letter = frame(BROADCAST, mac(9), b"I am good now");
        reformed.send(&letter);
        assert_eq!(honest.guest(0).receive_frame(), letter);
        assert_eq!(honest.guest(1).receive_frame(), letter);
        assert_eq!(honest.port(&name)?.quarantine_s, None);
        let refused = sv3(&honest, &["port", "release", &name]);
        assert!(refused.is_err_and(|why| why.to_string().contains("not in quarantine")));
        reformed.vanish();
        honest.await_ports(2)?;
    }
    let events = honest.events()?;
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((count("crash"), count("release")), (6, 2));
    assert!(events.iter().all(|event| event["event"] != "detach" || event["port"] != "p0" && event["port"] != "p1"));
    Ok(())
}

/// A short `scripts/storm --truncate`, which measures how many frames the honest guests exchange.
#[test]
fn a_guest_that_truncates_all_the_time_is_stopped() -> Result<()> {
    let mut honest = Honest::new()?;
    for attack in 0..30 {
        let guest = hostile(&honest);
        guest.memory().regions()[0].truncate(0);
        guest.kick(TX);
        honest.talk();
        if attack < 3 {
            honest.await_status("a death", |status| status.worker.restarts > attack)?;
        }
        guest.vanish();
        honest.await_ports(2)?;
    }
    assert_eq!(honest.status()?.worker.restarts, 3, "after the third death it is in quarantine");
    honest.talk();
    Ok(())
}

#[test]
fn a_client_that_vanishes_at_once_is_blamed_all_the_same() -> Result<()> {
    let mut honest = Honest::new()?;
    for _ in 0..30 {
        let guest = hostile(&honest);
        guest.memory().regions()[0].truncate(0);
        guest.kick(TX);
        guest.vanish();
        honest.talk();
        // The supervisor delays the start after several deaths in a row.
        honest.await_status("a worker and its standby", |status| status.worker.standby_pid.is_some())?;
    }
    let restarts = honest.status()?.worker.restarts;
    assert!(restarts <= 3, "after the third death it is in quarantine, but {restarts} workers died");
    Ok(())
}

#[test]
fn a_worker_that_is_stopped_is_replaced() -> Result<()> {
    let mut honest = Honest::new()?;
    let old = honest.worker_pid()?;
    honest.kill_worker("STOP")?;
    honest.talk();
    let crash = last_crash(&honest)?;
    assert_eq!(crash.worker_pid, Some(old));
    assert!(crash.cause.contains("SIGSTOP"), "{}", crash.cause);
    Ok(())
}

fn last_crash(switch: &Switch) -> Result<sv3::status::Crash> {
    crashes(switch)?.crashes.pop().ok_or_else(|| Failure::new("no crash"))
}

/// Only root may stop another user's process.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_forbidden_syscall_is_named() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut honest = Honest::new()?;
    let old = honest.worker_pid()?;
    let stopped = stop(old)?;
    // Replaces its next syscall by one that the policy forbids.
    ptrace::syscall(stopped, None)?;
    honest.guest(0).kick(TX);
    while !matches!(waitpid(stopped, Some(WaitPidFlag::__WALL))?, WaitStatus::PtraceSyscall(_)) {
        ptrace::syscall(stopped, None)?;
    }
    let mut registers = ptrace::getregs(stopped)?;
    // The return from its current syscall comes first.
    if registers.rax.cast_signed() != -i64::from(nix::libc::ENOSYS) {
        ptrace::syscall(stopped, None)?;
        waitpid(stopped, Some(WaitPidFlag::__WALL))?;
        registers = ptrace::getregs(stopped)?;
    }
    registers.orig_rax = nix::libc::SYS_openat.cast_unsigned();
    ptrace::setregs(stopped, registers)?;
    ptrace::detach(stopped, None)?;
    let violation = honest.await_event(&["policy_violation"])?;
    assert_eq!((violation["worker_pid"].as_u64(), &violation["syscall"]), (Some(old.into()), &Value::from("openat")));
    honest.talk();
    let crash = last_crash(&honest)?;
    assert_eq!((crash.signal.as_deref(), crash.syscall.as_deref()), (Some("SIGSYS"), Some("openat")));
    assert!(sv3(&honest, &["crashes"])?.contains("openat"));
    Ok(())
}

#[test]
fn a_row_of_crashes_that_nobody_is_to_blame_for_is_slowed_down_and_said() -> Result<()> {
    let switch = Switch::with(&["--no-standby"])?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let supervisor = switch.supervisor_pid()?;
    // Each worker dies as soon as it is seen. No start comes much later than the one before.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut delays = Vec::new();
    while delays.len() < 4 && Instant::now() < deadline {
        if let Some(pid) = switch.status()?.worker.pid {
            // The worker may be dead already.
            let _ = send(pid, "KILL");
        }
        let events = switch.events()?;
        let told = events.iter().filter(|event| event["event"] == "backoff");
        delays = told.filter_map(|event| event["delay_ms"].as_u64()).collect();
    }
    assert!(delays.len() >= 4, "no row of crashes came about");
    assert!(delays.iter().all(|ms| *ms <= 40), "workers that have served are followed at once: {delays:?}");
    let said = fs::read_to_string(switch.home().path("stderr"))?;
    assert!(said.contains("workers died in a row; the next starts in"), "{said}");
    assert!(!said.contains("\"blame\"") && !said.contains("\"quarantine\""), "{said}");
    // Without further kills it serves, and does not spin.
    let letter = frame(BROADCAST, mac(1), b"still here");
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    until("a supervisor at rest", || {
        let before = activity(supervisor)?;
        std::thread::sleep(Duration::from_millis(500));
        Ok((activity(supervisor)?[2] == before[2]).then_some(()))
    })
}
