//! `sv3 torture` against sv3 itself: every case, beside two honest guests.

use std::process::Command;

use serde_json::Value;
use sv3_tests::failure::Result;
use sv3_tests::honest::Honest;
use sv3_tests::switch::Home;

#[test]
fn no_case_hangs_or_kills_the_switch() -> Result<()> {
    let mut honest = Honest::new()?;
    let output = Command::new(honest.home().path("bin/sv3"))
        .args(["torture", "--json", "--patience", "20"])
        .arg(honest.socket())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)?;
    let cases = report["cases"].as_array().map_or(0, Vec::len);
    let seed = &report["seed"];
    assert!(output.status.success() && cases > 50, "seed {seed}, {cases} cases: {text}");
    for case in report["cases"].as_array().into_iter().flatten() {
        assert_ne!(case["outcome"], "not-run", "{case}");
    }
    // What came for the two in between lies in their rings.
    for index in [0, 1] {
        while honest.guest(index).try_receive().is_some() {}
    }
    honest.talk();
    honest.await_ports(2)
}

#[test]
fn what_cannot_be_tortured_is_an_error_of_its_own() -> Result<()> {
    let home = Home::new()?;
    let nobody = home.path("nobody.sock").display().to_string();
    for arguments in [&["torture", &nobody, "--patience", "1"][..], &["torture", &nobody, "--case", "nonsense"]] {
        let output = home.sv3_output(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let list = home.sv3_output(&["torture", "--list"])?;
    assert!(list.status.success() && String::from_utf8_lossy(&list.stdout).contains("CVE-2026-5747"));
    Ok(())
}
