//! How events are written: for people at a terminal, quietly, and what excludes what.

use std::fs;
use std::process::Stdio;

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::screen::Terminal;
use sv3_tests::switch::{Home, send};

#[test]
fn a_person_at_a_terminal_reads_sentences() -> Result<()> {
    let home = Home::new()?;
    let (socket, control) = (home.path("vhost-user.sock"), home.path("control.sock"));
    let paths = [socket.display().to_string(), control.display().to_string()];
    let mut command = home.sv3(&["run", "-v", "--socket", &paths[0], "--control", &paths[1]]);
    command.current_dir("/");
    let mut terminal = Terminal::start(&command, (200, 50))?;
    terminal.await_text("clients are served at", 0)?;
    let guest = Guest::connect(&socket);
    terminal.await_text("connected", 0)?;
    guest.disconnect();
    terminal.await_text("[detach ", 0)?;
    let shown = terminal.shown()?.to_string();
    assert!(shown.contains("Z p0: process ") && shown.contains("[attach ") && shown.contains(" port=p0"), "{shown}");
    assert!(!shown.contains("{\""), "no JSON at a terminal: {shown}");
    send(terminal.pid(), "TERM")?;
    terminal.await_text("asked to end by SIGTERM", 0)?;
    terminal.end()?.map_err(|signal| Failure::new(format!("signal {signal}")))?;
    Ok(())
}

#[test]
fn json_can_be_asked_for_at_a_terminal() -> Result<()> {
    let home = Home::new()?;
    let paths = [home.path("v.sock").display().to_string(), home.path("c.sock").display().to_string()];
    let command = home.sv3(&["run", "--log-format", "json", "--socket", &paths[0], "--control", &paths[1]]);
    let mut terminal = Terminal::start(&command, (200, 50))?;
    terminal.await_text("\"event\":\"listen\",\"level\":\"notice\"", 0)?;
    send(terminal.pid(), "INT")?;
    terminal.end()?.map_err(|signal| Failure::new(format!("signal {signal}")))?;
    Ok(())
}

#[test]
fn a_quiet_switch_says_what_is_wrong_and_nothing_else() -> Result<()> {
    let home = Home::new()?;
    let paths = [home.path("v.sock").display().to_string(), home.path("c.sock").display().to_string()];
    let (stdout, stderr) = (home.path("stdout"), home.path("stderr"));
    let mut command = home.sv3(&["run", "-q", "--socket", &paths[0], "--control", &paths[1]]);
    let mut switch = command.stdout(fs::File::create(&stdout)?).stderr(fs::File::create(&stderr)?).spawn()?;
    let status = |home: &Home| -> Result<Option<Value>> {
        let output = home.sv3(&["status", "--json", "--control", &paths[1]]).stderr(Stdio::null()).output()?;
        Ok(serde_json::from_slice(&output.stdout).ok())
    };
    let worker = until("a worker and a standby", || {
        let status = status(&home)?;
        let ready = status.as_ref().filter(|status| status["worker"]["standby_pid"].is_u64());
        Ok(ready.and_then(|status| u32::try_from(status["worker"]["pid"].as_u64()?).ok()))
    })?;
    assert_eq!(fs::read_to_string(&stdout)? + &fs::read_to_string(&stderr)?, "", "nothing is wrong");
    send(worker, "SEGV")?;
    let crash = until("a line", || Ok(fs::read_to_string(&stderr)?.lines().next().map(str::to_string)))?;
    let crash: Value = serde_json::from_str(&crash)?;
    assert_eq!((&crash["event"], &crash["level"]), (&"crash".into(), &"error".into()));
    send(switch.id(), "TERM")?;
    assert!(switch.wait()?.success());
    assert!(!fs::read_to_string(&stderr)?.contains("\"restart\""));
    Ok(())
}

#[test]
fn forms_that_exclude_each_other_are_refused() -> Result<()> {
    let home = Home::new()?;
    let log = home.path("log").display().to_string();
    for (arguments, reason) in [
        (&["run", "--log-format", "journal", "--log", &log][..], "leave one of them out"),
        (&["run", "--log-format", "xml"], "auto, json, text, journal"),
        (&["run", "-q", "-v"], "exclude each other"),
    ] {
        let output = home.sv3_output(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
    Ok(())
}
