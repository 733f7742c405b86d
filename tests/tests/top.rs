//! `sv3 top` at a terminal: what it shows, what keys do, and that the terminal is as before at any end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use sv3_tests::failure::Result;
use sv3_tests::frames::{frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::screen::Terminal;
use sv3_tests::switch::{Home, Switch, send};

const SIZE: (u16, u16) = (120, 24);
/// Alternate screen, no cursor, no line wrap; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l";

fn top(home: &Home) -> Command {
    let control = home.path("control.sock").display().to_string();
    let mut command = home.sv3(&["top", "--interval", "0.1", "--control", &control]);
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    command
}

#[test]
fn a_terminal_shows_the_ports_and_what_they_do() -> Result<()> {
    let switch = Switch::start()?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let mut terminal = Terminal::start(&top(switch.home()), SIZE)?;
    let worker = format!("worker pid {}", switch.worker_pid()?);
    terminal.await_frame("both ports", |frame| {
        ["p0", "p1", "ports 2, 2 up", &worker].iter().all(|it| frame.contains(it))
    })?;
    let letter = frame([0xff; 6], mac(1), &[7; 1000]);
    let row = |frame: &str| frame.lines().find(|line| line.contains("p1  ")).unwrap_or_default().to_string();
    // A rate is of one interval, so frames flow until it is seen.
    terminal.await_frame("frames to p1 and their bits as blocks", |frame| {
        a.send(&letter);
        b.receive_frame();
        let row = row(frame);
        row.split_whitespace().nth(4).is_some_and(|rate| rate != "0") && row.contains('█')
    })?;
    // Frames for a port that is not there: the reason shows at the cursor, and drops are what is sorted by.
    terminal.press("d")?;
    terminal.await_frame("drops", |frame| {
        a.send(&frame_to_itself());
        frame.contains("by drops") && frame.contains("drops: hairpin") && !frame.contains("drops: none")
    })?;
    terminal.press("\x1b[B")?;
    terminal.await_frame("the other port at the cursor", |frame| {
        frame.contains("p1, slot 1") && frame.contains("2 of 2")
    })?;
    terminal.press("rn")?;
    terminal.await_frame("names, the last one first", |frame| {
        let at = |port| frame.find(port).unwrap_or(usize::MAX);
        frame.contains("by name, reversed") && at("p1  ") < at("p0  ")
    })?;
    switch.kill_worker("SEGV")?;
    terminal.await_frame("the death", |frame| frame.contains("restarts 1, the last one: killed by SIGSEGV"))?;
    terminal.press("q")?;
    assert_eq!(terminal.end()?, Ok(0));
    Ok(())
}

/// A frame to the address that it comes from.
fn frame_to_itself() -> Vec<u8> {
    frame(mac(1), mac(1), b"to myself")
}

#[test]
fn a_terminal_is_as_before_at_any_end() -> Result<()> {
    let switch = Switch::start()?;
    for (key, signal, end) in [
        ("q", None, Ok(0)),
        ("\x03", None, Err(2)),
        ("\x1c", None, Err(3)),
        ("", Some("TERM"), Err(15)),
        ("", Some("HUP"), Err(1)),
    ] {
        let mut terminal = Terminal::start(&top(switch.home()), SIZE)?;
        terminal.await_text("PORT", 0)?;
        assert!(!terminal.is_for_lines()? && terminal.shown()?.starts_with(ENTER));
        terminal.press(key)?;
        if let Some(signal) = signal {
            send(terminal.pid(), signal)?;
        }
        assert_eq!(terminal.end()?, end);
        assert!(terminal.is_as_before()?, "{key:?} {signal:?}");
        assert!(terminal.shown()?.ends_with(LEAVE), "{key:?} {signal:?}: {:?}", terminal.shown()?);
    }
    Ok(())
}

#[test]
fn the_shell_gets_the_terminal_while_it_is_stopped() -> Result<()> {
    let switch = Switch::start()?;
    let top = top(switch.home());
    let mut shell = Command::new("bash");
    // A shell with jobs, as a person has it, but without a prompt.
    shell.args(["-c", "set -m; \"$@\"; echo STOPPED; read line; fg >/dev/null; echo OVER", "bash"]);
    shell.arg(top.get_program()).args(top.get_args()).env("TERM", "xterm");
    let mut terminal = Terminal::start(&shell, SIZE)?;
    terminal.await_text("PORT", 0)?;
    terminal.press("\x1a")?;
    terminal.await_text("STOPPED", 0)?;
    assert!(terminal.is_for_lines()? && terminal.shown()?.contains(LEAVE));
    let before = terminal.shown()?.len();
    terminal.press("\n")?;
    terminal.await_text("PORT", before)?;
    assert!(!terminal.is_for_lines()? && terminal.shown()?.matches(ENTER).count() >= 2);
    terminal.press("q")?;
    terminal.await_text("OVER", before)?;
    assert_eq!(terminal.end()?, Ok(0));
    assert!(terminal.is_for_lines()?);
    Ok(())
}

#[test]
fn it_follows_the_size_of_the_window() -> Result<()> {
    let switch = Switch::start()?;
    let _guest = Guest::connect(switch.socket());
    let mut terminal = Terminal::start(&top(switch.home()), SIZE)?;
    for (columns, rows) in [SIZE, (40, 10), (200, 50), (7, 3)] {
        terminal.resize((columns, rows))?;
        terminal.await_frame(&format!("{columns} x {rows}"), |frame| {
            let lines: Vec<String> = frame.lines().map(without_colours).collect();
            lines.len() == usize::from(rows)
                && lines.last().is_some_and(|last| last.chars().count() == usize::from(columns))
        })?;
    }
    Ok(())
}

#[test]
fn it_copes_with_a_switch_that_goes_and_comes_back() -> Result<()> {
    let switch = Switch::start()?;
    let home = switch.home().clone();
    let mut terminal = Terminal::start(&top(&home), SIZE)?;
    terminal.await_text("PORT", 0)?;
    assert!(switch.end("TERM")?.success());
    terminal.await_frame("that no switch runs", |frame| frame.contains("ago: no switch runs at"))?;
    let again = home.start(&[])?;
    let pid = format!("switch pid {}", again.supervisor_pid()?);
    terminal.await_frame("the next switch", |frame| frame.contains(&pid) && !frame.contains("ago: "))?;
    terminal.press("q")?;
    assert_eq!(terminal.end()?, Ok(0));
    let gone = again.home().sv3_output(&["top", "--control", "nothing.sock"])?;
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("sv3 run"), "{gone:?}");
    Ok(())
}

/// A terminal without UTF-8 and colours gets neither. Texts of a hostile switch bring no sequence.
#[test]
fn nothing_but_its_own_sequences_reaches_the_terminal() -> Result<()> {
    let home = Home::new()?;
    let listener = UnixListener::bind(home.path("control.sock"))?;
    fs::set_permissions(home.path("control.sock"), fs::Permissions::from_mode(0o777))?;
    let (_, example) = include_str!("../../docs/use/status.md").split_once("```json\n").unwrap_or_default();
    let evil = "\\u001b[2J\\u009b31m\\u0007\\u202e\\u00e9";
    let status = example.split_once("```").unwrap_or_default().0;
    let status = status.replace("killed by", evil).replace("\"nic0\"", &format!("\"{evil}\""));
    let status = status.replace("\"hint\": null", &format!("\"hint\": \"{evil}\""));
    assert!(status.matches(evil).count() >= 3, "{status}");
    // It serves as long as the test runs.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut caller) = stream else { return };
            let mut asked = [0; 64];
            let count = caller.read(&mut asked).unwrap_or(0);
            let is_status = asked.get(..count) == Some(b"status\n");
            let _ = caller.write_all(if is_status { &status } else { "{\"crashes\": []}" }.as_bytes());
        }
    });
    let mut command = top(&home);
    command.env("LC_ALL", "C").env("NO_COLOR", "1");
    let mut terminal = Terminal::start(&command, SIZE)?;
    terminal.await_frame("the port", |frame| frame.contains("\\u001b[2J\\u009b31m\\u0007\\u202e?"))?;
    terminal.press("q")?;
    assert_eq!(terminal.end()?, Ok(0));
    let mut shown = terminal.shown()?.to_string();
    for own in [ENTER, LEAVE, "\x1b[H", "\x1b[K", "\x1b[1m", "\x1b[7m", "\x1b[m", "\r", "\n"] {
        shown = shown.replace(own, "");
    }
    assert!(shown.chars().all(|c| matches!(c, ' '..='~')), "{shown:?}");
    Ok(())
}

#[test]
fn without_a_terminal_it_prints_lines() -> Result<()> {
    let switch = Switch::start()?;
    let _guest = Guest::connect(switch.socket());
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["top", "--once", "--interval", "0.1", "--control", &control])?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{said}");
    assert!(said.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{said}");
    for shown in ["worker pid ", "DROPS BY REASON", "p0 ", "  none"] {
        assert!(said.contains(shown), "{shown} in {said}");
    }
    let mut follows = switch.home().sv3(&["top", "--interval", "0.1", "--control", &control]);
    let mut follows = follows.stdout(std::process::Stdio::piped()).spawn()?;
    let mut said = String::new();
    let mut pipe = follows.stdout.take().ok_or("no pipe").map_err(sv3_tests::failure::Failure::new)?;
    while said.matches("DROPS BY REASON").count() < 3 {
        let mut octets = [0; 512];
        let count = pipe.read(&mut octets)?;
        assert!(count > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(octets.get(..count).unwrap_or_default()));
    }
    // It ends when nobody reads.
    drop(pipe);
    assert!(follows.wait()?.success());
    for wrong in ["0", "61", "x", "-1", "NaN"] {
        let output = switch.home().sv3_output(&["top", &format!("--interval={wrong}")])?;
        assert!(
            !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("0.1 to 60"),
            "{output:?}"
        );
    }
    Ok(())
}

fn without_colours(line: &str) -> String {
    ["\x1b[1m", "\x1b[7m", "\x1b[31m", "\x1b[m"].iter().fold(line.to_string(), |line, own| line.replace(own, ""))
}
