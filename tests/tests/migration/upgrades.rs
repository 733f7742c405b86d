//! sv3 is upgraded while a guest moves: the worker's binary, and the whole switch.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::switch::Switch;
use sv3_tests::vm::Stage;

use super::journey::{Journey, join};

/// A worker of another file takes over.
pub fn upgrade(switch: &Switch) -> Result<()> {
    let path = switch.home().path("newer-worker");
    fs::copy(switch.home().path("bin/sv3-worker"), &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    tell(switch, &["upgrade", &path.display().to_string()])
}

/// Runs `sv3` with these arguments, which must succeed.
pub fn tell(switch: &Switch, arguments: &[&str]) -> Result<()> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3(arguments).args(["--control", &control]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("sv3 {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// The source's and the destination's, while memory is copied, and again while the guest stands still.
#[test]
#[ignore = "scripts/check runs it"]
fn a_guest_moves_to_another_switch_and_back_while_both_are_upgraded() -> Result<()> {
    let (mut here, mut there) = (Switch::start()?, Switch::start()?);
    join(&here, &there)?;
    let mut journey = Journey::begin(&here, &here, "")?;
    let jobs = journey.talk()?;
    let job = journey.ping(PINGS)?;
    let socket = there.socket().to_path_buf();
    let moved = journey.go_in_stages(&socket, |stage| match stage {
        Stage::Copying => {
            here.hand_over(&[])?;
            there.hand_over(&[])
        }
        Stage::Stopped => {
            tell(&there, &["restart"])?;
            // Its next hand-over has to wait until the file is no longer on trial.
            upgrade(&here)
        }
    })?;
    println!("{moved:?}");
    let socket = here.socket().to_path_buf();
    let moved = journey.go_in_stages(&socket, |stage| match stage {
        Stage::Copying => tell(&there, &["restart"]),
        Stage::Stopped => {
            there.hand_over(&[])?;
            upgrade(&there)
        }
    })?;
    println!("{moved:?}");
    journey.assert_whole(jobs)?;
    journey.assert_pinged(job, PINGS, 50, UPGRADES)?;
    for switch in [&here, &there] {
        assert!(switch.events()?.iter().all(|event| event["event"] != "crash"), "no worker has crashed");
        assert!(switch.status()?.ports.iter().all(|port| !port.migrating));
    }
    Ok(())
}

const PINGS: u32 = 150;
/// How many workers are killed.
const UPGRADES: u32 = 7;
