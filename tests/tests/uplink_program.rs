//! `sv3 uplink` and `sv3 run --internet` keep a program running, and end it. The program is a script that does nothing:
//! `internet_of_taps.rs` has the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;

use sv3::status::Link;
use sv3_tests::failure::Result;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, activity, send};

/// The program: it keeps its socket, as slirp4netns does, and ends when it is killed.
const SLEEPS: &str = "#!/bin/sh\necho it starts\nexec sleep 1000\n";

/// `sv3 uplink` by the user of the switch.
struct Tool {
    process: Child,
    said: PathBuf,
}

impl Tool {
    fn start(home: &Rc<Home>, options: &[&str]) -> Result<Tool> {
        let control = home.path("control.sock").display().to_string();
        let program = script(home, "slirp4netns", SLEEPS)?;
        let words = ["uplink", "--control", &control, "--program", &program];
        let (mut command, said) = (with_folder(home, home.sv3(&words)), home.path("said"));
        let process = command.args(options).stderr(fs::File::create(&said)?).spawn()?;
        Ok(Tool { process, said })
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.said)?)
    }

    /// The program, once it is itself and no other one that was seen before.
    fn program(&self, before: Option<u32>) -> Result<u32> {
        let other = |pid: u32| (Some(pid) != before && is_the_program(pid)).then_some(pid);
        until("the program", || Ok(children(self.process.id())?.into_iter().find_map(other)))
    }

    fn await_end(&mut self) -> Result<bool> {
        Ok(until("the end of the tool", || Ok(self.process.try_wait()?))?.success())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn script(home: &Home, name: &str, text: &str) -> Result<String> {
    let path = home.path(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

/// A command with a folder for its sockets, which belongs to its user.
fn with_folder(home: &Home, mut command: Command) -> Command {
    command.env("XDG_RUNTIME_DIR", home.path("."));
    command
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

fn is_the_program(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\x00")
}

fn await_gone(pid: u32) -> Result<()> {
    until("the program's end", || Ok((activity(pid).is_err() || !is_the_program(pid)).then_some(())))
}

fn await_up(switch: &Switch, name: &str) -> Result<()> {
    switch.await_status(name, |status| status.port(name).is_some_and(|port| port.link == Link::Up))
}

/// Files of the tool in the folder of sockets.
fn left_over(home: &Home) -> Result<Vec<String>> {
    let names = fs::read_dir(home.path("sv3"))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_>>()
}

#[test]
fn a_program_that_dies_is_started_again_and_the_port_stays() -> Result<()> {
    let switch = Switch::start()?;
    let mut tool = Tool::start(switch.home(), &[])?;
    let mut program = tool.program(None)?;
    await_up(&switch, "internet")?;
    let slot = switch.port("internet")?.slot;
    for _ in 0..2 {
        send(program, "KILL")?;
        program = tool.program(Some(program))?;
        await_up(&switch, "internet")?;
        assert_eq!(switch.port("internet")?.slot, slot);
    }
    assert!(tool.said()?.contains("slirp4netns has ended (killed by SIGKILL): it starts; it is started again"));
    send(tool.process.id(), "TERM")?;
    assert!(tool.await_end()?);
    await_gone(program)?;
    assert!(switch.status()?.port("internet").is_none());
    assert_eq!(left_over(switch.home())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_program_ends_with_the_tool_however_that_ends() -> Result<()> {
    let switch = Switch::start()?;
    for signal in ["KILL", "INT", "HUP", "QUIT"] {
        let mut tool = Tool::start(switch.home(), &[])?;
        let program = tool.program(None)?;
        await_up(&switch, "internet")?;
        send(tool.process.id(), signal)?;
        assert_eq!(tool.await_end()?, signal != "KILL");
        await_gone(program)?;
        // What a tool that was killed leaves, the next one takes.
        switch.await_status("its port to stop", |status| {
            status.port("internet").is_none_or(|port| port.files.as_ref().is_some_and(|files| files.stopped.is_some()))
        })?;
    }
    assert_eq!(left_over(switch.home())?, Vec::<String>::new());
    Ok(())
}

#[test]
fn detaching_the_port_ends_tool_and_program() -> Result<()> {
    let switch = Switch::start()?;
    let mut tool = Tool::start(switch.home(), &["--name", "world"])?;
    let program = tool.program(None)?;
    await_up(&switch, "world")?;
    switch.detach("world")?;
    assert!(tool.await_end()?);
    await_gone(program)?;
    assert!(tool.said()?.contains("the port world was detached"), "{}", tool.said()?);
    Ok(())
}

#[test]
fn take_over_keeps_the_program_and_the_end_of_the_switch_ends_it() -> Result<()> {
    let mut switch = Switch::start()?;
    let mut tool = Tool::start(switch.home(), &[])?;
    let program = tool.program(None)?;
    await_up(&switch, "internet")?;
    // Ports of open files need a worker of another role, to which the switch hands over by itself.
    switch.await_event(&["\"handover\""])?;
    for _ in 0..3 {
        switch.hand_over(&[])?;
        await_up(&switch, "internet")?;
        assert!(is_the_program(program) && tool.process.try_wait()?.is_none());
    }
    assert!(switch.end("TERM")?.success());
    assert!(tool.await_end()?);
    await_gone(program)
}

#[test]
fn a_tool_that_waits_serves_one_switch_after_the_other() -> Result<()> {
    let home = Home::new()?;
    let mut tool = Tool::start(&home, &["--wait"])?;
    for _ in 0..2 {
        let switch = home.start(&[])?;
        await_up(&switch, "internet")?;
        let program = tool.program(None)?;
        assert!(switch.end("TERM")?.success());
        await_gone(program)?;
    }
    send(tool.process.id(), "TERM")?;
    assert!(tool.await_end()?);
    Ok(())
}

#[test]
fn a_program_that_cannot_run_is_told_of_and_no_port_stays() -> Result<()> {
    let switch = Switch::start()?;
    let home = switch.home();
    let control = switch.control().display().to_string();
    for (name, text, needed) in [
        (
            "passt",
            "#!/bin/sh\necho no such option >&2\nexit 2\n",
            "passt has ended at once (exit status 2): no such option",
        ),
        ("gvproxy", "#!/bin/sh\necho cannot listen\nexit 1\n", "has ended at once (exit status 1): cannot listen"),
    ] {
        let program = script(home, name, text)?;
        let words = ["uplink", "--control", &control, "--program", &program];
        let output = with_folder(home, home.sv3(&words)).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(needed), "{said}");
        assert!(switch.status()?.ports.is_empty());
    }
    Ok(())
}

/// Beside the next supervisor, the process that keeps the port up goes on.
#[test]
fn the_internet_of_a_switch_comes_and_goes_with_it() -> Result<()> {
    let home = Home::new()?;
    script(&home, "slirp4netns", SLEEPS)?;
    let path = format!("{}:/usr/bin:/bin", home.path(".").display());
    let environment =
        ["env".to_string(), format!("PATH={path}"), format!("XDG_RUNTIME_DIR={}", home.path(".").display())];
    let mut switch = home.start_behind(&environment, &["--internet"])?;
    await_up(&switch, "internet")?;
    let tool = u32::try_from(switch.port("internet")?.client_pid)?;
    let program = until("the program", || Ok(children(tool)?.into_iter().find(|pid| is_the_program(*pid))))?;
    let said = fs::read_to_string(home.path("stderr"))?;
    for needed in ["slirp4netns is installed, and is taken first", "10.0.2.15 and up", "the port is internet"] {
        assert!(said.contains(needed), "{said}");
    }
    let supervisor = switch.supervisor_pid()?;
    assert!(children(supervisor)?.iter().all(|child| *child != tool), "the supervisor knows all its children");
    switch.await_event(&["\"handover\""])?;
    switch.hand_over(&[])?;
    await_up(&switch, "internet")?;
    assert!(is_the_program(program));
    assert!(switch.end("TERM")?.success());
    await_gone(program)?;
    until("the end of the tool", || Ok(exe_of(tool).is_none().then_some(())))
}

fn exe_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).ok()
}

/// What is wrong is told before the switch starts.
#[test]
fn without_a_program_the_switch_does_not_start_and_says_what_to_install() -> Result<()> {
    let home = Home::new()?;
    let nothing = home.path("nothing");
    fs::create_dir(&nothing)?;
    // The fixture needs this one.
    std::os::unix::fs::symlink("/usr/bin/setpriv", nothing.join("setpriv"))?;
    let environment = ["/usr/bin/env".to_string(), format!("PATH={}", nothing.display())];
    for (option, needed) in [
        ("--internet", "sudo apt install slirp4netns"),
        ("--internet=gvproxy", "sudo apt install gvproxy"),
        ("--internet=pasta", "DHCP server"),
    ] {
        let failure = home.start_behind(&environment, &[option]).err().map(|failure| failure.to_string());
        assert!(failure.as_ref().is_some_and(|failure| failure.contains(needed)), "{option}: {failure:?}");
    }
    Ok(())
}
