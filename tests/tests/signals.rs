//! No signal that people or shells commonly send ends the switch with its sockets left behind.

use std::fs;
use std::process::{Command, Stdio};

use nix::pty::{OpenptyResult, openpty};
use sv3_tests::failure::Result;
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, send};

#[test]
fn signals_that_ask_for_the_end_get_it_in_order() -> Result<()> {
    for signal in ["HUP", "QUIT", "INT", "TERM", "XCPU", "PWR"] {
        let switch = Switch::start()?;
        let (home, socket, control) = (switch.home().clone(), switch.socket().to_owned(), switch.control().to_owned());
        let _guest = Guest::connect(&socket);
        assert!(switch.end(signal)?.success(), "SIG{signal}");
        assert!(!socket.exists() && !control.exists(), "SIG{signal} leaves sockets behind");
        let said = fs::read_to_string(home.path("stderr"))?;
        assert!(said.contains(&format!("asked to end by SIG{signal}")), "{said}");
    }
    Ok(())
}

#[test]
fn signals_that_ask_for_nothing_change_nothing() -> Result<()> {
    let switch = Switch::start()?;
    let mut guest = Guest::connect(switch.socket());
    let supervisor = switch.supervisor_pid()?;
    for signal in ["USR1", "USR2", "ALRM", "PIPE", "VTALRM", "PROF", "IO", "STKFLT", "XFSZ"] {
        send(supervisor, signal)?;
        assert_eq!(switch.supervisor_pid()?, supervisor, "SIG{signal}");
    }
    guest.send(&[0xff; 60]);
    guest.await_sent();
    Ok(())
}

#[test]
fn nohup_means_what_it_says() -> Result<()> {
    let switch = Home::new()?.start_behind(&["nohup".to_string()], &[])?;
    send(switch.supervisor_pid()?, "HUP")?;
    Guest::connect(switch.socket()).disconnect();
    assert!(switch.end("TERM")?.success());
    Ok(())
}

/// A terminal is closed: the kernel sends its processes SIGHUP.
#[test]
fn a_closed_terminal_ends_it_in_order_even_with_a_log() -> Result<()> {
    let home = Home::new()?;
    let log = home.path("events.log");
    let (socket, control) = (home.path("vhost-user.sock"), home.path("control.sock"));
    let OpenptyResult { master, slave } = openpty(None, None)?;
    let alone = home.sv3(&["run"]);
    // The leader of a session on that terminal, as after a shell's `exec`.
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(alone.get_program()).args(alone.get_args());
    command.arg("--socket").arg(&socket).arg("--control").arg(&control).arg("--log").arg(&log);
    command.stdin(slave).stdout(Stdio::null()).stderr(fs::File::create(home.path("stderr"))?);
    let mut process = command.spawn()?;
    let served = until("the switch", || Ok(Guest::config().build(&socket).ok()));
    drop(master);
    let ended = until("the end", || Ok(process.try_wait()?));
    if ended.is_err() {
        process.kill()?;
        process.wait()?;
    }
    assert!(served.is_ok() && ended?.success(), "{}", fs::read_to_string(home.path("stderr"))?);
    assert!(!socket.exists() && !control.exists());
    assert!(fs::read_to_string(&log)?.contains("asked to end by SIGHUP"));
    Ok(())
}
