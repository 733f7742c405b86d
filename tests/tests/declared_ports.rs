//! Declared ports: names that last, sockets of their own, configuration files, and what stays when workers die and
//! supervisors follow one another.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use sv3::config::Config;
use sv3::rules::{Isolation, Vlan};
use sv3::status::DeclaredPort;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::honest::Honest;
use sv3_tests::network::{Form, StreamPeer};
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::{Home, Switch, fds};

/// A user that is neither root nor the switch's.
const OTHER_USER: u32 = 12345;

/// Runs `sv3` with these words as the switch's user; what it said.
fn sv3(switch: &Switch, words: &[&str]) -> Result<String> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3(words).args(["--control", &control]).output()?;
    match output.status.success() {
        true => Ok(said(&output)),
        false => Err(Failure::new(said(&output))),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `sv3` says as it fails.
fn complaint(switch: &Switch, words: &[&str]) -> Result<String> {
    match sv3(switch, words) {
        Ok(said) => Err(Failure::new(format!("{words:?} succeeded: {said}"))),
        Err(failure) => Ok(failure.to_string()),
    }
}

fn socket_of(switch: &Switch, name: &str) -> PathBuf {
    switch.home().path(&format!("ports/{name}.sock"))
}

fn declared(switch: &Switch, name: &str) -> Result<DeclaredPort> {
    let found = switch.status()?.declared.into_iter().find(|port| port.name == name);
    found.ok_or_else(|| Failure::new(format!("{name} is not declared")))
}

/// A connection at a port's door is closed at once.
fn assert_turned_away(switch: &Switch, name: &str) -> Result<()> {
    let mut second = UnixStream::connect(socket_of(switch, name))?;
    second.set_read_timeout(Some(PATIENCE))?;
    assert_eq!(second.read(&mut [0])?, 0, "a second client was let in");
    Ok(())
}

/// A frame passes in both directions.
#[track_caller]
fn talk(a: &mut Guest, b: &mut Guest) {
    let call = noise(BROADCAST, mac(1), 64, 0);
    a.send(&call);
    assert_eq!(b.receive_frame(), call);
    let answer = noise(mac(1), mac(2), 100, 0);
    b.send(&answer);
    assert_eq!(a.receive_frame(), answer);
}

fn config_file(home: &Home, text: &str) -> Result<String> {
    let path = home.path("sv3.toml");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(path.display().to_string())
}

#[test]
fn a_declared_port_has_a_name_and_a_socket_and_takes_one_client() -> Result<()> {
    let switch = Switch::start()?;
    let mut front = Guest::connect(switch.socket());
    let told = sv3(&switch, &["port", "add", "web", "--description", "the web server"])?;
    assert!(told.contains(&socket_of(&switch, "web").display().to_string()), "{told}");
    let port = declared(&switch, "web")?;
    assert_eq!((port.attached, port.up, port.description.as_str()), (false, true, "the web server"));
    assert_eq!(fs::metadata(socket_of(&switch, "web"))?.mode() & 0o777, 0o600);

    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    assert!(switch.port("web")?.slot != switch.port("p0")?.slot && declared(&switch, "web")?.attached);
    switch.await_event(&["attach", "web: process"])?;
    assert!(sv3(&switch, &["metrics"])?.contains("port=\"web\""));
    assert_turned_away(&switch, "web")?;
    switch.await_event(&["refuse", "web: process", "takes one client at a time"])?;
    talk(&mut front, &mut web);

    // The next client has the same name and place.
    let slot = switch.port("web")?.slot;
    web.vanish();
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    assert_eq!(switch.port("web")?.slot, slot);

    assert!(complaint(&switch, &["port", "add", "web"])?.contains("declared already"));
    assert!(complaint(&switch, &["port", "set", "p0", "--isolated"])?.contains("by user"));
    sv3(&switch, &["port", "remove", "web"])?;
    switch.await_event(&["refuse", "web: the port was removed"])?;
    assert!(!socket_of(&switch, "web").exists());
    switch.await_ports(1)?;
    assert!(switch.status()?.declared.is_empty());
    assert!(complaint(&switch, &["port", "remove", "web"])?.contains("there is no port web"));
    Ok(())
}

#[test]
fn a_port_s_socket_may_be_another_user_s() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let switch = Switch::start()?;
    fs::set_permissions(switch.home().path("."), fs::Permissions::from_mode(0o711))?;
    let owner = OTHER_USER.to_string();
    let refused = complaint(&switch, &["port", "add", "vm", "--owner", &owner])?;
    assert!(refused.contains("only root may give a socket to user 12345"), "{refused}");
    assert!(!socket_of(&switch, "vm").exists() && switch.status()?.declared.is_empty());
    // By root.
    let mut command = Command::new(switch.home().path("bin/sv3"));
    command.args(["port", "add", "vm", "--owner", &owner, "--control"]).arg(switch.control());
    let output = command.output()?;
    assert!(output.status.success(), "{}", said(&output));
    let meta = fs::metadata(socket_of(&switch, "vm"))?;
    assert_eq!((meta.uid(), meta.mode() & 0o777), (OTHER_USER, 0o600));

    let program = switch.home().path("newcomer");
    fs::copy(env!("CARGO_BIN_EXE_newcomer"), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let mut front = Guest::connect(switch.socket());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", &format!("--reuid={OTHER_USER}"), "--clear-groups", "--"]).arg(&program);
    let mut child =
        command.arg(socket_of(&switch, "vm")).arg("sealed").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    assert!(!front.receive_frame().is_empty());
    assert_eq!(switch.port("vm")?.client_uid, OTHER_USER);
    switch.await_event(&["attach", "vm: process", "of user 12345"])?;
    drop(child.stdin.take());
    assert!(child.wait()?.success());
    // The switch's own user may not enter any more, and the name goes with the declaration all the same.
    sv3(&switch, &["port", "remove", "vm"])?;
    assert!(!socket_of(&switch, "vm").exists());
    Ok(())
}

#[test]
fn a_port_that_is_down_sends_its_client_away_and_takes_none() -> Result<()> {
    let switch = Switch::start()?;
    let mut front = Guest::connect(switch.socket());
    sv3(&switch, &["port", "add", "web"])?;
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    let told = sv3(&switch, &["port", "down", "web"])?;
    assert!(told.contains("port web: up = false"), "{told}");
    switch.await_ports(1)?;
    assert_turned_away(&switch, "web")?;
    switch.await_event(&["refuse", "web: process", "sv3 port up web"])?;
    assert!(!declared(&switch, "web")?.up && sv3(&switch, &["status"])?.contains("web  down"));
    sv3(&switch, &["port", "up", "web"])?;
    web.reconnect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    Ok(())
}

#[test]
fn a_stream_port_and_an_attached_one_have_terms_too() -> Result<()> {
    let switch = Switch::start()?;
    let mut front = Guest::connect(switch.socket());
    sv3(&switch, &["port", "add", "tunnel", "--kind", "stream"])?;
    let mut peer = StreamPeer::connect(&socket_of(&switch, "tunnel"), Form::Plain)?;
    let call = noise(BROADCAST, mac(1), 64, 0);
    peer.send(&call)?;
    assert_eq!(front.receive_frame(), call);
    assert!(switch.port("tunnel")?.files.is_some());
    assert_turned_away(&switch, "tunnel")?;
    // What is attached has an admin state under its name.
    let door = switch.home().path("peer.sock");
    let listener = std::os::unix::net::UnixListener::bind(&door)?;
    fs::set_permissions(&door, fs::Permissions::from_mode(0o777))?;
    sv3(&switch, &["attach", "stream", &door.display().to_string(), "--name", "up0"])?;
    let (mut network, _) = listener.accept()?;
    let heard = until("a frame to the network", || {
        front.send(&call);
        network.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
        Ok(network.read(&mut [0; 4096]).ok().filter(|count| *count > 0))
    })?;
    assert!(heard > 0);
    sv3(&switch, &["port", "down", "up0"])?;
    switch.await_status("up0 to be down", |status| {
        let files = status.port("up0").and_then(|port| port.files.clone());
        files.is_some_and(|files| files.stopped.is_some_and(|why| why.contains("operator")))
    })?;
    sv3(&switch, &["port", "up", "up0"])?;
    switch.await_status("up0 to be up", |status| {
        status.port("up0").and_then(|port| port.files.clone()).is_some_and(|files| files.stopped.is_none())
    })?;
    assert!(sv3(&switch, &["config", "show"])?.contains("[ports.up0]\nkind = \"attached\""));
    // A name is one port's.
    assert!(complaint(&switch, &["port", "set", "up0", "--kind", "vhost-user"])?.contains("sv3 detach up0"));
    sv3(&switch, &["detach", "up0"])?;
    Ok(())
}

#[test]
fn a_file_is_declared_at_the_start_and_reloaded_as_a_whole() -> Result<()> {
    let home = Home::new()?;
    let file = config_file(&home, "[ports.web]\ndescription = \"one\"\n\n[ports.db]\n")?;
    let switch = home.start(&["--config", &file])?;
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    let mut db = Guest::connect(&socket_of(&switch, "db"));
    talk(&mut web, &mut db);

    // A file that is wrong changes nothing.
    config_file(&home, "[ports.mail]\n[ports.web]\ncolour = 1\nvlna = 4\n")?;
    for verb in [&["reload"][..], &["reload", "--dry-run"], &["check-config", &file]] {
        let output = match verb {
            ["check-config", ..] => said(&home.sv3_output(verb)?),
            _ => complaint(&switch, verb)?,
        };
        assert!(output.contains("sv3.toml:3:1: there is no setting `colour`"), "{output}");
        assert!(output.contains("sv3.toml:4:1: there is no setting `vlna`; is it `vlan`?"), "{output}");
    }
    assert_eq!(switch.status()?.declared.len(), 2);

    // One whose socket cannot be made changes nothing either.
    config_file(&home, "[ports.mail]\n[ports.web]\n[ports.zoo]\n")?;
    fs::write(socket_of(&switch, "zoo"), "precious")?;
    assert!(complaint(&switch, &["reload"])?.contains("not a socket"));
    assert!(!socket_of(&switch, "mail").exists() && switch.status()?.declared.len() == 2);
    fs::remove_file(socket_of(&switch, "zoo"))?;
    talk(&mut web, &mut db);

    let difference = "- port db: removed\n+ port mail: no rules\n  port web: description is the default (was \"one\")\n+ port \
                      zoo: no rules\n";
    assert_eq!(sv3(&switch, &["reload", "--dry-run"])?, difference);
    assert!(!socket_of(&switch, "mail").exists());
    assert_eq!(sv3(&switch, &["reload"])?, difference);
    switch.await_event(&["refuse", "db: the port was removed"])?;
    assert_eq!(sv3(&switch, &["reload"])?, "nothing differs\n");
    // What did not change was left alone.
    let mut mail = Guest::connect(&socket_of(&switch, "mail"));
    talk(&mut web, &mut mail);
    assert!(!switch.events()?.iter().any(|event| event["event"] == "detach" && event["port"] == "web"));

    // What is shown is a file that says the same.
    let shown = sv3(&switch, &["config", "show"])?;
    config_file(&home, &shown)?;
    assert_eq!(sv3(&switch, &["reload"])?, "nothing differs\n", "{shown}");
    // Names go with the switch.
    switch.end("TERM")?;
    assert!(!socket_of_home(&home, "web").exists() && !socket_of_home(&home, "mail").exists());
    // The next one reads the file.
    let switch = home.start(&["--config", &file])?;
    assert_eq!(switch.status()?.declared.len(), 3);
    Ok(())
}

fn socket_of_home(home: &Home, name: &str) -> PathBuf {
    home.path(&format!("ports/{name}.sock"))
}

#[test]
fn a_start_with_a_file_that_is_wrong_is_no_start() -> Result<()> {
    let home = Home::new()?;
    let file = config_file(&home, "[ports.web]\nvlan = 0\n")?;
    let (socket, control) = (home.path("s").display().to_string(), home.path("c").display().to_string());
    let output = home.sv3_output(&["run", "--socket", &socket, "--control", &control, "--config", &file])?;
    assert!(!output.status.success() && said(&output).contains("sv3.toml:2:8: vlan: "), "{}", said(&output));
    assert!(!home.path("s").exists() && !home.path("ports/web.sock").exists());
    Ok(())
}

#[test]
fn declarations_outlive_workers_and_supervisors() -> Result<()> {
    let mut switch = Switch::start()?;
    sv3(&switch, &["port", "add", "web"])?;
    sv3(&switch, &["port", "add", "idle"])?;
    sv3(&switch, &["port", "add", "closed", "--up", "false"])?;
    let mut front = Guest::connect(switch.socket());
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    let slot = switch.port("web")?.slot;
    switch.kill_worker("KILL")?;
    talk(&mut front, &mut web);
    sv3(&switch, &["restart"])?;
    talk(&mut front, &mut web);
    switch.hand_over(&[])?;
    switch.await_status("a worker of the next supervisor", |status| status.worker.pid.is_some())?;
    talk(&mut front, &mut web);
    assert_eq!(switch.port("web")?.slot, slot);
    assert_turned_away(&switch, "web")?;
    assert_turned_away(&switch, "closed")?;
    let mut idle = Guest::connect(&socket_of(&switch, "idle"));
    talk(&mut front, &mut idle);
    web.vanish();
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    sv3(&switch, &["port", "remove", "web"])?;
    assert!(!socket_of(&switch, "web").exists() && socket_of(&switch, "idle").exists());
    Ok(())
}

#[test]
fn three_hundred_ports_come_and_go_and_nothing_is_left() -> Result<()> {
    let home = Home::new()?;
    let many: String = (0..300).map(|at| format!("[ports.vm{at}]\nvlan = {}\n", at % 100 + 1)).collect();
    let file = config_file(&home, &many)?;
    let switch = home.start(&[])?;
    let mut front = Guest::connect(switch.socket());
    let pid = switch.supervisor_pid()?;
    sv3(&switch, &["port", "add", "web"])?;
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    talk(&mut front, &mut web);
    web.disconnect();
    sv3(&switch, &["port", "remove", "web"])?;
    switch.await_ports(1)?;
    let settled = || -> Result<usize> { Ok(fds(pid)?.len()) };
    sv3(&switch, &["reload", &file])?;
    assert_eq!(switch.status()?.declared.len(), 300);
    let with_doors = settled()?;
    assert!(socket_of(&switch, "vm299").exists());
    config_file(&home, "")?;
    sv3(&switch, &["reload"])?;
    assert_eq!(switch.status()?.declared.len(), 0);
    until("the doors to be closed", || Ok((settled()? + 300 <= with_doors).then_some(())))?;
    assert_eq!(fs::read_dir(home.path("ports"))?.count(), 0);
    Ok(())
}

#[test]
fn rules_hold_from_the_first_frame_and_outlive_workers_and_supervisors() -> Result<()> {
    let home = Home::new()?;
    let guest = nix::unistd::geteuid().as_raw();
    let text = format!("[users.{guest}]\nvlan = 7\n[ports.web]\nvlan = 7\n[ports.db]\nvlan = 8\n");
    let file = config_file(&home, &text)?;
    let mut switch = home.start(&["--config", &file])?;
    let mut front = Guest::connect(switch.socket());
    let mut web = Guest::connect(&socket_of(&switch, "web"));
    let mut db = Guest::connect(&socket_of(&switch, "db"));
    talk(&mut front, &mut web);
    switch.kill_worker("KILL")?;
    talk(&mut front, &mut web);
    sv3(&switch, &["restart"])?;
    talk(&mut front, &mut web);
    switch.hand_over(&["--config", &file])?;
    switch.await_status("a worker of the next supervisor", |status| status.worker.pid.is_some())?;
    talk(&mut front, &mut web);
    assert!(db.try_receive().is_none(), "a frame of another VLAN");
    // Live.
    assert_eq!(sv3(&switch, &["port", "set", "db", "--vlan", "7"])?, "port db: vlan = 7 (was 8)\n");
    let call = noise(BROADCAST, mac(1), 64, 0);
    front.send(&call);
    assert_eq!((web.receive_frame(), db.receive_frame()), (call.clone(), call));
    // The file's rules again, and those of guests at the front door.
    config_file(&home, &text.replace("vlan = 7\n[ports.web]", "vlan = 8\n[ports.web]"))?;
    sv3(&switch, &["reload"])?;
    talk(&mut front, &mut db);
    assert!(web.try_receive().is_none(), "a frame of another VLAN");
    assert_eq!(switch.declared()?.file, Some(file));
    Ok(())
}

/// Rounds of changes; each makes two.
const FLAPS: u32 = 500;

#[test]
fn a_thousand_changes_under_traffic_let_no_frame_stray() -> Result<()> {
    let switch = Switch::start()?;
    for (name, vlan) in [("a", "10"), ("b", "10"), ("c", "20")] {
        sv3(&switch, &["port", "add", name, "--vlan", vlan])?;
    }
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Guest::connect(&socket_of(&switch, name)));
    talk(&mut a, &mut b);
    let together: Config = switch.declared()?.config;
    let mut apart = [together.clone(), together.clone()];
    apart[0].ports.get_mut("b").into_iter().for_each(|b| b.rules.vlan = Vlan::Access { vid: 30 });
    for name in ["a", "b"] {
        apart[1].ports.get_mut(name).into_iter().for_each(|port| port.rules.isolation = Isolation::Isolated);
    }
    let before = fds(switch.supervisor_pid()?)?.len();
    for round in 0..FLAPS {
        switch.declare(&apart[round as usize % 2])?;
        a.send(&noise(BROADCAST, mac(1), 64, 2 * round + 1));
        a.await_sent();
        switch.declare(&together)?;
        let meant = noise(BROADCAST, mac(1), 64, 2 * round);
        a.send(&meant);
        assert_eq!(b.receive_frame(), meant, "round {round}: a frame that is not b's, or none");
    }
    assert!(c.try_receive().is_none() && b.try_receive().is_none());
    let pid = switch.supervisor_pid()?;
    until("no file to be left", || Ok((fds(pid)?.len() <= before).then_some(())))?;
    assert_eq!(switch.status()?.worker.restarts, 0);
    Ok(())
}

#[test]
fn hostile_clients_at_a_declared_port_cost_nobody_anything() -> Result<()> {
    let mut honest = Honest::new()?;
    sv3(&honest, &["port", "add", "web"])?;
    let place = socket_of(&honest, "web");
    Guest::connect(&place).disconnect();
    honest.remember()?;
    let message = |request: u32, length: u32| [request, 1, length].map(u32::to_ne_bytes).concat();
    for round in 0..40 {
        let mut client = UnixStream::connect(&place)?;
        client.set_read_timeout(Some(PATIENCE))?;
        // The supervisor may have closed it already, because the last one was still there.
        match round % 4 {
            // An unknown request, a payload of another length than its request has, half a message, nothing.
            0 => drop(client.write_all(&message(77, 0)).and_then(|()| client.read(&mut [0]).map(drop))),
            1 => drop(client.write_all(&message(8, 3)).and_then(|()| client.read(&mut [0]).map(drop))),
            2 => drop(client.write_all(&message(1, 0)[..7])),
            _ => {}
        }
    }
    honest.talk();
    // The next one has the port.
    let mut web = until("the port to be free", || {
        let mut web = Guest::config().build(&place)?;
        Ok(web.bring_up().is_ok().then_some(web))
    })?;
    web.send(&noise(BROADCAST, mac(1), 64, 0));
    until("a frame", || frames_of(&honest))?;
    web.disconnect();
    sv3(&honest, &["port", "remove", "web"])?;
    honest.assert_undisturbed()
}

fn frames_of(switch: &Switch) -> Result<Option<u64>> {
    Ok(Some(switch.port("web")?.from_guest.frames).filter(|frames| *frames > 0))
}
