//! `sv3 audit` finds that the processes are confined as they declare, and finds it when they are not.

use std::process::Output;

use sv3::audit::Audit;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::switch::{Home, Switch};

fn audit(switch: &Switch, options: &[&str]) -> Result<Output> {
    let control = switch.control().display().to_string();
    switch.home().sv3_output(&[&["audit", "--control", &control], options].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn everything_is_as_declared_as_the_switchs_own_user_sees_it() -> Result<()> {
    for threads in [1, 2] {
        everything_is_as_declared(threads)?;
    }
    Ok(())
}

fn everything_is_as_declared(threads: usize) -> Result<()> {
    let switch = Switch::with(&["--threads", &threads.to_string()])?;
    let _guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    let output = audit(&switch, &["--json"])?;
    assert!(output.status.success(), "{}", said(&output));
    let audit: Audit = serde_json::from_slice(&output.stdout)?;
    let roles: Vec<&str> = audit.processes.iter().map(|process| process.role.as_str()).collect();
    assert_eq!(roles, ["supervisor", "spawner", "closer", "closer", "closer", "worker", "standby"]);
    assert_eq!(audit.differences, [""; 0]);
    for proof in &audit.proofs {
        assert!(proof.trials > 1500 && proof.outcomes.len() > 30, "{proof:?}");
    }
    let worker = audit.processes.iter().find(|process| process.role == "worker").ok_or(Failure::new("no worker"))?;
    let count = |kind: &str| worker.fds.iter().filter(|fd| fd.kind == kind).count();
    assert_eq!(count("eventpoll"), 2 * (threads + 1), "each thread waits by itself, the mapper too: {:?}", worker.fds);
    assert_eq!(count("eventfd"), 8 + threads + 1, "two guests, two rings each, kick and call: {:?}", worker.fds);
    Ok(())
}

#[test]
fn root_sees_that_nobody_has_more_open_than_the_supervisor_tells() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let switch = Switch::start()?;
    let _guests = [(), ()].map(|()| Guest::connect(switch.socket()));
    switch.kill_worker("KILL")?;
    let control = switch.control().display().to_string();
    let mut command = std::process::Command::new(switch.home().path("bin/sv3"));
    let output = command.args(["audit", "--control", &control]).output()?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("all listed by the supervisor"), "{}", said(&output));
    Ok(())
}

#[test]
fn a_worker_of_another_binary_is_noticed() -> Result<()> {
    let switch = Switch::start()?;
    let other = switch.home().path("bin/sv3-supervisor").display().to_string();
    let output = audit(&switch, &["--worker", &other])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("seccomp policy: declared"), "{}", said(&output));
    Ok(())
}

#[test]
fn the_policy_is_explained_without_a_switch() -> Result<()> {
    let output = Home::new()?.sv3_output(&["audit", "--explain"])?;
    assert!(output.status.success());
    for wanted in ["worker: 13 syscalls", "SYSCALL", "F_SETFD", "clock: only where the vDSO cannot answer"] {
        assert!(said(&output).contains(wanted), "{wanted} in {}", said(&output));
    }
    Ok(())
}

#[test]
fn without_landlock_it_runs_unless_it_must_not() -> Result<()> {
    let (home, tool) = (Home::new()?, [env!("CARGO_BIN_EXE_without_landlock").to_string()]);
    let switch = home.start_behind(&tool, &[])?;
    assert_eq!((switch.status()?.supervisor.landlock_abi, switch.status()?.worker.landlock_abi), (0, 0));
    drop(switch);
    let failure = home.start_behind(&tool, &["--require-landlock", "1"]).err();
    let said = failure.map(|failure| failure.to_string()).unwrap_or_default();
    assert!(
        said.contains("this kernel has no landlock") && said.contains("--require-landlock asks for ABI 1"),
        "{said}"
    );
    // The ABI that this kernel has is enough.
    let abi = Switch::start()?.status()?.worker.landlock_abi.to_string();
    Switch::with(&["--require-landlock", &abi])?;
    let output = Home::new()?.sv3_output(&["run", "--socket", "s", "--control", "c", "--require-landlock", "8"])?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("newest landlock ABI that sv3 knows"), "{output:?}");
    Ok(())
}
