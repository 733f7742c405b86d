//! Every case of the hostile client, beside two honest guests.

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sv3_tests::failure::Result;
use sv3_tests::honest::Honest;
use sv3_tests::hostile::attacker::Processes;
use sv3_tests::hostile::case::{Case, Target};
use sv3_tests::hostile::{cases, run};

const PATIENCE: Duration = Duration::from_secs(20);
const DURATION: Duration = Duration::from_secs(1);

#[test]
fn no_case_hangs_or_kills_the_switch() -> Result<()> {
    let mut honest = Honest::new()?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64 & 0xffff_ffff;
    let target = Target::new(honest.socket(), PATIENCE, DURATION, seed)?;
    let cases = cases::all();
    let findings = run::run(&target, &cases, &Processes(attack))?;
    for finding in &findings {
        assert!(!finding.outcome.is_failure(), "seed {seed}: {finding:?}");
    }
    assert!(findings.len() == cases.len() && cases.len() > 50, "{} of {} cases", findings.len(), cases.len());
    // Frames that came for the two meanwhile are in their rings.
    for index in [0, 1] {
        while honest.guest(index).try_receive().is_some() {}
    }
    honest.talk();
    honest.await_ports(2)
}

/// The command that makes one attack.
fn attack(target: &Target, case: &Case) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostile_client"));
    command.arg(target.socket()).args([case.name, &target.seed().to_string()]);
    command
}

#[test]
fn nobody_but_sv3_is_attacked() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("other.sock");
    let other = UnixListener::bind(&path)?;
    let refused = Target::new(&path, PATIENCE, DURATION, 1).err().map(|failure| failure.to_string());
    assert!(refused.as_deref().is_some_and(|words| words.contains("not by sv3-supervisor")), "{refused:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_hostile_client")).arg(&path).args(["stranger", "1"]).output()?;
    assert!(!output.status.success());
    // It has connected, to see which process listens, and sent nothing.
    drop(other);
    Ok(())
}

#[test]
fn each_case_has_a_name_of_its_own_and_an_origin() {
    let cases = cases::all();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len());
    for case in cases {
        assert!(case.name.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()));
        assert!(case.origin.starts_with("CVE-") || ["sv3 2013", "own"].contains(&case.origin), "{}", case.name);
    }
}
