//! The command line: which sockets it makes and removes, which users may connect, what it prints.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sv3::status::Status;
use sv3_tests::failure::Result;
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch, activity, send};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn it_says_how_to_attach_a_guest() -> Result<()> {
    let switch = Switch::start()?;
    let text = switch.output()?;
    let socket = switch.socket().display().to_string();
    for needed in [socket.as_str(), "memory-backend-memfd", "share=on", "vhost-user", "virtio-net-pci"] {
        assert!(text.contains(needed), "no {needed} in {text}");
    }
    Ok(())
}

#[test]
fn it_runs_without_any_privilege() -> Result<()> {
    let switch = Switch::start()?;
    for pid in [switch.supervisor_pid()?, switch.worker_pid()?] {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().to_string()
        };
        // Only a process with CAP_SETPCAP can empty the bounding set.
        let bounding = nix::unistd::geteuid().is_root().then_some("CapBnd");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().chain(bounding) {
            assert_eq!(u64::from_str_radix(&field(set), 16)?, 0, "{set} of {pid}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "of {pid}");
        assert_ne!(field("Uid").split_whitespace().next(), Some("0"));
    }
    assert!(switch.status()?.worker.landlock_abi > 0, "this kernel has landlock");
    Ok(())
}

#[test]
fn sockets_are_private_and_go_with_it() -> Result<()> {
    for signal in ["TERM", "INT"] {
        let switch = Switch::start()?;
        let (socket, control) = (switch.socket().to_path_buf(), switch.control().to_path_buf());
        for path in [&socket, &control] {
            assert_eq!(fs::symlink_metadata(path)?.permissions().mode() & 0o777, 0o600);
        }
        // Connected clients change nothing about that.
        let _guest = Guest::connect(&socket);
        let pids = [switch.supervisor_pid()?, switch.worker_pid()?];
        assert!(switch.end(signal)?.success());
        assert!(!socket.exists() && !control.exists(), "after SIG{signal}");
        for pid in pids {
            assert!(activity(pid).is_err(), "process {pid} is still there");
        }
    }
    Ok(())
}

#[test]
fn a_live_socket_is_refused_and_its_owner_named() -> Result<()> {
    let switch = Switch::start()?;
    let mut guest = Guest::connect(switch.socket());
    let socket = switch.socket().display().to_string();
    for force in [None, Some("--force")] {
        let control = switch.home().path("other-control.sock").display().to_string();
        let arguments = [Some("run"), Some("--socket"), Some(&socket), Some("--control"), Some(&control), force];
        let output = switch.home().sv3_output(&arguments.into_iter().flatten().collect::<Vec<_>>())?;
        assert!(!output.status.success());
        let owner = switch.supervisor_pid()?.to_string();
        assert!(said(&output).contains(&owner) && said(&output).contains(&socket), "{}", said(&output));
        assert!(!switch.home().path("other-control.sock").exists());
    }
    guest.send(&[0xff; 60]);
    guest.await_sent();
    Ok(())
}

/// The supervisor's children end after it, on a busy machine some milliseconds later, and have its socket open until
/// then.
fn await_no_listener(socket: &Path) -> Result<()> {
    until("no process to listen", || Ok(UnixStream::connect(socket).is_err().then_some(())))
}

#[test]
fn a_stale_socket_is_replaced() -> Result<()> {
    let switch = Switch::start()?;
    let home = switch.home().clone();
    let socket = switch.socket().to_path_buf();
    assert!(!switch.end("KILL")?.success());
    assert!(socket.exists(), "it had no time to remove it");
    await_no_listener(&socket)?;
    let again = home.start(&[])?;
    Guest::connect(again.socket()).disconnect();
    assert!(!again.end("KILL")?.success());
    await_no_listener(&socket)?;
    // In a folder that others may write to, another user can replace the socket first.
    fs::set_permissions(home.path("."), fs::Permissions::from_mode(0o777))?;
    let failure = home.start(&[]).err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("--force") && failure.contains("vhost-user.sock"), "{failure}");
    let again = home.start(&["--force"])?;
    Guest::connect(again.socket()).disconnect();
    Ok(())
}

#[test]
fn a_file_that_is_not_a_socket_is_not_touched() -> Result<()> {
    let home = Home::new()?;
    fs::write(home.path("vhost-user.sock"), "precious")?;
    let failure = home.start(&["--force"]).err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("not a socket"), "{failure}");
    assert_eq!(fs::read_to_string(home.path("vhost-user.sock"))?, "precious");
    // Another program's live socket stays as well.
    fs::remove_file(home.path("vhost-user.sock"))?;
    let theirs = UnixListener::bind(home.path("vhost-user.sock"))?;
    assert!(home.start(&["--force"]).is_err());
    assert!(theirs.local_addr()?.as_pathname().is_some_and(|path| path.exists()));
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_used_is_named() -> Result<()> {
    let home = Home::new()?;
    let output = home.sv3_output(&["run", "--socket", "/proc/none/vhost-user.sock"])?;
    assert!(!output.status.success());
    assert!(said(&output).contains("/proc/none/vhost-user.sock"), "{}", said(&output));
    Ok(())
}

#[test]
fn the_status_is_json_for_programs_and_text_for_people() -> Result<()> {
    let switch = Switch::start()?;
    let guest = Guest::connect(switch.socket());
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["status", "--json", "--control", &control])?;
    assert!(output.status.success(), "{}", said(&output));
    let status: Status = serde_json::from_slice(&output.stdout)?;
    assert_eq!(status.supervisor.pid, switch.supervisor_pid()?);
    assert_eq!(status.worker.pid, Some(switch.worker_pid()?));
    assert_eq!(status.worker.restarts, 0);
    assert_eq!((status.ports.len(), status.socket.as_str()), (1, switch.socket().to_string_lossy().as_ref()));
    // Names that scripts rely on.
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    for field in [
        "/supervisor/pid",
        "/supervisor/uptime_s",
        "/worker/pid",
        "/worker/restarts",
        "/ports/0/name",
        "/ports/0/rings/0/size",
    ] {
        assert!(!json.pointer(field).unwrap_or(&serde_json::Value::Null).is_null(), "{field} in {json}");
    }

    let output = switch.home().sv3_output(&["status", "--control", &control])?;
    let text = said(&output);
    assert!(output.status.success() && text.contains("p0") && text.contains("up"), "{text}");
    assert!(text.contains(&switch.worker_pid()?.to_string()), "{text}");
    guest.disconnect();
    Ok(())
}

#[test]
fn the_status_of_no_switch_is_an_error_that_helps() -> Result<()> {
    let home = Home::new()?;
    let control = home.path("nothing.sock").display().to_string();
    let output = home.sv3_output(&["status", "--control", &control])?;
    assert!(!output.status.success());
    assert!(said(&output).contains(&control) && said(&output).contains("sv3 run"), "{}", said(&output));
    Ok(())
}

#[test]
fn without_paths_it_lives_in_the_users_own_folder() -> Result<()> {
    let home = Home::new()?;
    let runtime = home.path("runtime");
    fs::create_dir(&runtime)?;
    let owner = fs::metadata(home.path("."))?;
    std::os::unix::fs::chown(&runtime, Some(owner.uid()), Some(owner.gid()))?;
    let mut process = home
        .sv3(&["run"])
        .env("XDG_RUNTIME_DIR", &runtime)
        .stdout(Stdio::null())
        .stderr(fs::File::create(home.path("log"))?)
        .spawn()?;
    let socket = runtime.join("sv3/vhost-user.sock");
    let there = until("the socket", || Ok(Guest::config().build(&socket).ok()));
    send(process.id(), "TERM")?;
    assert!(process.wait()?.success());
    assert!(there.is_ok(), "{}", fs::read_to_string(home.path("log"))?);
    assert_eq!(fs::metadata(runtime.join("sv3"))?.permissions().mode() & 0o777, 0o700);
    Ok(())
}

#[test]
fn wrong_options_are_refused() -> Result<()> {
    let home = Home::new()?;
    for (arguments, reason) in [
        (&["run", "--batch", "0"][..], "--batch"),
        (&["run", "--poll-us", "x"], "--poll-us"),
        (&["run", "--poll-us", "99999999"], "--poll-us"),
        (&["run", "--cpus", "2-"], "--cpus"),
        (&["run", "--chaos", "-1"], "0.001 to 86400"),
        (&["run", "--metrics", "0.0.0.0:1"], "--metrics"),
        (&["run", "--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&[], "Usage"),
    ] {
        let output = home.sv3_output(arguments)?;
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains(reason), "{arguments:?}: {said}");
        assert!(!said.contains("sv3-supervisor"), "the usage of a program that users do not call: {said}");
    }
    Ok(())
}

#[test]
fn workers_run_where_they_are_told_to() -> Result<()> {
    let switch = Switch::with(&["--cpus", "0"])?;
    for _ in 0..2 {
        switch.await_status("a worker on standby", |status| status.worker.standby_pid.is_some())?;
        let worker = switch.status()?.worker;
        assert_eq!(worker.cpus.as_deref(), Some("0"));
        for pid in [worker.pid, worker.standby_pid].into_iter().flatten() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            assert_eq!(allowed.map(str::trim), Some("0"), "of {pid}");
        }
        switch.kill_worker("KILL")?;
    }
    let nowhere = Home::new()?.start(&["--cpus", "1023"]).err().map(|failure| failure.to_string());
    assert!(nowhere.as_deref().is_some_and(|words| words.contains("--cpus")), "{nowhere:?}");
    Ok(())
}

#[test]
fn options_of_the_worker_are_heeded() -> Result<()> {
    for options in [["--poll-us", "0", "--batch", "1"], ["--poll-us", "1000", "--batch", "256"]] {
        let switch = Switch::with(&options)?;
        let mut a = Guest::connect(switch.socket());
        let mut b = Guest::connect(switch.socket());
        for n in 0..100 {
            let frame = sv3_tests::frames::noise([0xff; 6], sv3_tests::frames::mac(1), 200, n);
            a.send(&frame);
            assert_eq!(b.receive_frame(), frame);
        }
    }
    Ok(())
}

#[test]
fn help_tells_all_that_there_is_to_tell() -> Result<()> {
    let home = Home::new()?;
    for (verb, words) in
        [("run", "Ctrl-C"), ("run", "[default: 100]"), ("upgrade", "refuses the new worker if"), ("audit", "rights")]
    {
        let output = home.sv3_output(&[verb, "--help"])?;
        assert!(output.status.success() && said(&output).contains(words), "{verb}: {}", said(&output));
    }
    Ok(())
}

#[test]
fn what_cannot_be_printed_is_an_error() -> Result<()> {
    let switch = Switch::start()?;
    let control = switch.control().display().to_string();
    switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    for verb in
        [&["status"][..], &["status", "--json"], &["crashes"], &["metrics"], &["restart"], &["audit", "--explain"]]
    {
        let full = fs::File::options().write(true).open("/dev/full")?;
        let mut command = switch.home().sv3(&[verb, &["--control", &control]].concat());
        let output = command.stdout(full).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {}", said(&output));
        assert!(said(&output).contains("cannot print: No space left"), "{verb:?}: {}", said(&output));
    }
    // An error that cannot be printed does not panic either.
    let full = fs::File::options().write(true).open("/dev/full")?;
    let status = switch.home().sv3(&["status", "--control", "/nowhere"]).stderr(full).status()?;
    assert_eq!(status.code(), Some(1));
    Ok(())
}

#[test]
fn places_that_cannot_be_are_told_with_what_to_do() -> Result<()> {
    let home = Home::new()?;
    let long = home.path(&"x".repeat(120)).display().to_string();
    for (arguments, words) in [
        (&["status", "--control", "/etc/passwd"][..], "is not a socket"),
        (&["status", "--control", &long], "107 octets at most"),
        (&["run", "--socket", &long], "107 at most"),
        (&["run", "--socket", "/nonexistent/x.sock"], "/nonexistent does not exist"),
        (&["run", "--socket", "/proc/x.sock"], "/proc"),
    ] {
        let output = home.sv3_output(arguments)?;
        assert!(output.status.code() == Some(1) && said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    Ok(())
}

#[test]
fn few_open_files_are_told_at_the_start() -> Result<()> {
    let failure = Home::new()?.start_limited(&[], 64).err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("ulimit -Hn") && failure.contains("148"), "{failure}");
    let switch = Home::new()?.start_limited(&[], 400)?;
    let event = switch.await_event(&["few_files", "ulimit -Hn"])?;
    assert_eq!((&event["files"], &event["ports"]), (&400.into(), &26.into()));
    Ok(())
}

#[test]
fn a_worker_that_does_not_come_up_is_named_with_its_reason() -> Result<()> {
    let home = Home::new()?;
    let worker = home.path("bin/sv3-worker");
    let failure = home.start(&["--cpus", "1023"]).err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("did not come up") && failure.contains("taskset"), "{failure}");
    fs::remove_file(&worker)?;
    fs::write(&worker, "no program")?;
    let failure = home.start(&[]).err().map(|failure| failure.to_string()).unwrap_or_default();
    assert!(failure.contains("Permission denied") && failure.contains("bin/sv3-worker"), "{failure}");
    Ok(())
}

/// Another user than the switch's; only root can become one.
const OTHER_USER: &str = "--reuid=12345";

#[test]
fn another_user_is_turned_away_whatever_the_modes() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let switch = Switch::start()?;
    for path in [switch.home().path("."), switch.socket().into(), switch.control().into()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    let program = switch.home().path("bin/sv3");
    for door in [switch.socket(), switch.control()] {
        let mut command = Command::new("setpriv");
        command.args([OTHER_USER, "--clear-groups", "--"]).arg(&program).args(["status", "--control"]).arg(door);
        let output = command.output()?;
        assert!(output.status.code() == Some(1), "{}", said(&output));
        assert!(said(&output).contains("not to you: nothing was sent"), "{}", said(&output));
    }
    let refused = switch.await_event(&["refuse", "of user 12345 turned away", "run a switch as user 12345"])?;
    assert!(refused.get("port").is_none(), "{refused}");
    assert!(switch.status()?.ports.is_empty());
    // Root and the switch's own user are admitted.
    Guest::connect(switch.socket()).disconnect();
    Ok(())
}

/// A hostile program answers at the control socket with escape sequences that could take over the reader's terminal.
#[test]
fn answers_of_a_switch_do_not_move_the_cursor() -> Result<()> {
    let home = Home::new()?;
    let path = home.path("puppet.sock");
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    const EVIL: &str = "\\u001b[2J\\u009b31m\\u0007\\u202e";
    let document = include_str!("../../docs/use/status.md");
    let (_, example) = document.split_once("```json\n").unwrap_or_default();
    let status = example.split_once("```").unwrap_or_default().0.replace("/run/user/1000/sv3/vhost-user.sock", EVIL);
    let answers = [status, format!("{{\"error\": \"{EVIL}\"}}"), "\u{1b}[2J\u{9b}\n".to_string()];
    let verbs =
        [&["status"][..], &["status", "--json"], &["crashes"], &["crashes", "--json"], &["metrics"], &["restart"]];
    let more = [
        &["upgrade", "/dev/null"][..],
        &["port", "release", "p0"],
        &["audit"],
        &["top", "--once", "--interval", "0.1"],
    ];
    let puppet = answers.clone();
    // It serves as long as the test runs.
    std::thread::spawn(move || {
        for answer in puppet.iter().cycle() {
            let Ok((mut caller, _)) = listener.accept() else { return };
            let _ = caller.read(&mut [0; 64]);
            let _ = caller.write_all(answer.as_bytes());
        }
    });
    let control = path.display().to_string();
    for verb in verbs.iter().chain(&more) {
        for answer in &answers {
            let output = home.sv3_output(&[verb, &["--control", &control][..]].concat())?;
            let said = said(&output);
            let evil = said.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}');
            assert!(!evil && !said.is_empty(), "{verb:?}, answered {answer:?}: {said:?}");
        }
    }
    Ok(())
}
