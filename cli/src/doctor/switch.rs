//! A running switch, by its status and what the kernel shows of its process.

mod declared;
mod drops;
mod ports;
mod worker;

use std::time::Duration;

use sv3::control::ControlRequest;
use sv3::status::Status;

use super::finding::{Cost, Finding};
use super::limits;
use super::machine::Machine;
use crate::control::Control;

/// How often and how long to wait for a worker or a standby that is about to come up.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// What was found.
pub struct Looked {
    /// A switch answered.
    pub running: bool,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Looks. `named`: a person has said where the switch is, so there should be one.
pub fn look(machine: &Machine, control: &Control, named: bool) -> Looked {
    let path = control.path();
    let status = match settled(control) {
        Ok(status) => status,
        Err(_) if !named && std::fs::symlink_metadata(&path).is_err() => {
            let message = format!("no switch runs at {}: only the machine was looked at", path.display());
            return Looked { running: false, findings: vec![Finding::good("switch", message)] };
        }
        Err(why) => {
            let act = "start a switch by `sv3 run`, or name the control socket of one, which is beside its front door";
            return Looked { running: false, findings: vec![Finding::fault("switch", why).to(Cost::Command, act)] };
        }
    };
    Looked { running: true, findings: of(machine, &status) }
}

/// All probes of a switch.
fn of(machine: &Machine, status: &Status) -> Vec<Finding> {
    let mut findings = worker::probe(status);
    findings.extend(limits::files(machine, &status.supervisor.pid.to_string(), "the switch: "));
    findings.extend(ports::probe(machine, status));
    findings.extend(drops::probe(status));
    findings.extend(declared::probe(status));
    findings
}

/// The status, when a worker serves and another one is ready, if that comes soon.
fn settled(control: &Control) -> Result<Status, String> {
    let mut tries = 0;
    loop {
        let answer = control.ask(&ControlRequest::Status)?;
        let status = serde_json::from_value::<Status>(answer);
        let status = status.map_err(|error| format!("the switch is of another version ({error})"))?;
        tries += 1;
        if status.worker.pid.is_some() && status.worker.standby_pid.is_some() || tries >= TRIES {
            return Ok(status);
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
pub mod example {
    use super::*;

    /// The status that the document shows, in which nothing is wrong any more.
    pub fn healthy() -> Status {
        let document = include_str!("../../../docs/use/status.md");
        let (_, rest) = document.split_once("```json\n").unwrap();
        let mut status: Status = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
        status.version = env!("CARGO_PKG_VERSION").to_string();
        (status.worker.restarts, status.worker.last_death) = (0, None);
        status.flaps.clear();
        status.declared.clear();
        for port in &mut status.ports {
            (port.hint, port.paused, port.paused_others) = (None, Default::default(), Default::default());
            port.drops.clear();
            if let Some(files) = &mut port.files {
                (files.conflict, files.device) = (None, None);
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn nothing_is_to_be_done_at_a_healthy_switch() {
        let found = of(&Fake::with(&[]).machine, &example::healthy());
        assert!(found.iter().all(|one| one.state == State::Good && one.remedy.is_none()), "{found:?}");
    }

    #[test]
    fn a_switch_that_a_person_named_is_missed_and_another_one_is_not() {
        let machine = Fake::with(&[]).machine;
        let control = Control::at(Some("/nowhere/control.sock".into()));
        let named = look(&machine, &control, true);
        assert!(!named.running && named.findings[0].state == State::Fault, "{:?}", named.findings);
        assert!(named.findings[0].message.contains("no switch runs at /nowhere/control.sock"));
        let usual = look(&machine, &control, false);
        assert!(!usual.running && usual.findings[0].state == State::Good, "{:?}", usual.findings);
    }

    #[test]
    fn the_limit_of_files_is_that_of_the_switch() {
        let status = example::healthy();
        let limits = "Max open files            256                  400                  files     \n";
        let fake = Fake::with(&[(&format!("proc/{}/limits", status.supervisor.pid), limits)]);
        let found = of(&fake.machine, &status);
        assert!(found.iter().any(|one| one.topic == "files" && one.message.contains("some 26 ports")), "{found:?}");
    }
}
