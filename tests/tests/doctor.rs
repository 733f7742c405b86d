//! What `sv3 doctor` says of a running switch.

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::hostile::client::Client;
use sv3_tests::patience::PATIENCE;
use sv3_tests::switch::{Home, Switch};

/// The report, and the exit status.
fn report(switch: &Switch) -> Result<(Value, Option<i32>)> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["doctor", &control, "--json"])?;
    Ok((serde_json::from_slice(&output.stdout)?, output.status.code()))
}

/// The findings of a topic.
fn findings<'a>(report: &'a Value, topic: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().into_iter().flatten();
    all.filter(|finding| finding["topic"] == topic).collect()
}

fn has_fault(report: &Value) -> bool {
    report["findings"].as_array().is_some_and(|all| all.iter().any(|finding| finding["state"] == "fault"))
}

#[test]
fn a_healthy_switch_has_no_fault() -> Result<()> {
    let switch = Switch::start()?;
    let mut guests = [Guest::connect(switch.socket()), Guest::connect(switch.socket())];
    let letter = frame([0xff; 6], mac(1), b"all is well");
    guests[0].send(&letter);
    assert_eq!(guests[1].receive_frame(), letter);
    let (report, code) = report(&switch)?;
    assert_eq!((&report["running"], &report["schema"]), (&true.into(), &1.into()));
    // What this machine lacks is another matter.
    assert_eq!(code, Some(if has_fault(&report) { 3 } else { 0 }), "{report}");
    for topic in ["switch", "worker", "port", "drops"] {
        let found = findings(&report, topic);
        assert!(!found.is_empty() && found.iter().all(|one| one["state"] != "fault"), "{topic}: {report}");
    }
    assert_eq!(findings(&report, "files").len(), 2, "this user's limit and the switch's: {report}");
    Ok(())
}

#[test]
fn a_guest_whose_memory_is_not_shared_is_named_first_for_people_too() -> Result<()> {
    let switch = Switch::start()?;
    let _good = Guest::connect(switch.socket());
    let mut client = Client::connect(switch.socket(), PATIENCE)?;
    client.negotiate(0)?;
    for ring in [0, 1] {
        client.start_ring(ring)?;
    }
    switch.await_event(&["\"no_memory\"", "p1"])?;
    let (report, code) = report(&switch)?;
    let ports = findings(&report, "port");
    let fault = ports.iter().find(|one| one["port"] == "p1").ok_or_else(|| Failure::new("p1 is not told of"))?;
    assert_eq!(
        (fault["state"].as_str(), fault["remedy"]["cost"].as_str(), code),
        (Some("fault"), Some("guest"), Some(3))
    );
    assert!(ports.iter().any(|one| one["port"] == "p0" && one["state"] != "fault"), "{report}");
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["doctor", &control])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("FAULT   p1: it has rings but no memory") && text.contains("share=on"), "{text}");
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}

#[test]
fn deaths_are_told_and_a_switch_that_is_not_there_is_a_fault_if_it_was_named() -> Result<()> {
    let switch = Switch::start()?;
    switch.kill_worker("SEGV")?;
    let (told, _) = report(&switch)?;
    assert!(findings(&told, "worker").iter().any(|one| one["message"].to_string().contains("SIGSEGV")), "{told}");
    let home = Home::new()?;
    let output = home.sv3_output(&["doctor", &home.path("none.sock").display().to_string(), "--json"])?;
    let missing: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((output.status.code(), &missing["running"]), (Some(3), &false.into()));
    assert!(findings(&missing, "switch")[0]["message"].to_string().contains("no switch runs at"), "{missing}");
    Ok(())
}
