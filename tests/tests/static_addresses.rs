//! Static addresses: added and removed while frames pass, a part of what is declared, and their port's also while nobody is
//! attached to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};

/// What `sv3` says to these words, and whether it succeeds.
fn sv3(switch: &Switch, words: &[&str]) -> Result<(bool, String)> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3(words).args(["--control", &control]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

fn done(switch: &Switch, words: &[&str]) -> Result<String> {
    match sv3(switch, words)? {
        (true, said) => Ok(said),
        (false, why) => Err(Failure::new(format!("{words:?}: {why}"))),
    }
}

fn refused(switch: &Switch, words: &[&str]) -> Result<String> {
    match sv3(switch, words)? {
        (false, why) => Ok(why),
        (true, said) => Err(Failure::new(format!("{words:?} succeeded: {said}"))),
    }
}

fn attach(switch: &Switch, name: &str) -> Guest {
    Guest::connect(&switch.home().path(&format!("ports/{name}.sock")))
}

/// Frames to address 9 go to `web` alone, and as long as it is not there to nobody.
#[track_caller]
fn goes_to(from: &mut Guest, to: &mut Guest, other: &mut Guest, seed: u32) {
    let letter = noise(mac(9), mac(1), 64, seed);
    from.send(&letter);
    assert_eq!(to.receive_frame(), letter);
    from.await_sent();
    assert_eq!(other.try_receive(), None);
}

#[test]
fn an_address_is_at_its_port_from_the_command_on_whatever_happens() -> Result<()> {
    let home = Home::new()?;
    let file = home.path("sv3.toml");
    fs::write(&file, "[ports.web]\n[ports.db]\nvlan = 10\n[ports.trunk]\ntrunk = \"10,20\"\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let mut switch = home.start(&["--config", &file.display().to_string()])?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    let mut web = attach(&switch, "web");
    // It is known at b, until it is static at web.
    b.send(&frame(BROADCAST, mac(9), b"hello"));
    assert_eq!(a.receive_frame(), web.receive_frame());
    let address = "52:54:00:00:01:09";
    assert_eq!(done(&switch, &["fdb", "add", "web", address])?, format!("{address} is static at web\n"));
    goes_to(&mut a, &mut web, &mut b, 1);
    assert_eq!(done(&switch, &["fdb", "add", "web", address])?, "nothing differs\n");
    // Nobody else gets it, not even for a moment.
    b.send(&frame(mac(1), mac(9), b"mine"));
    // The declared ports have the first slots.
    switch.await_drops("p4", "address_conflict", 1)?;
    assert_eq!(a.try_receive(), None);
    assert!(done(&switch, &["config", "show"])?.contains(&format!("static = [\"{address}\"]")));

    switch.kill_worker("KILL")?;
    goes_to(&mut a, &mut web, &mut b, 2);
    switch.hand_over(&[])?;
    goes_to(&mut a, &mut web, &mut b, 3);
    switch.kill_worker("SEGV")?;
    goes_to(&mut a, &mut web, &mut b, 4);

    for (words, why) in [
        (&["add", "nobody", address][..], "there is no port nobody"),
        (&["add", "p3", address], "front door"),
        (&["add", "db", address, "--vlan", "20"], "not in VLAN 20"),
        (&["add", "web", address, "--vlan", "20"], "not in VLAN 20"),
        (&["add", "trunk", address], "--vlan"),
        (&["add", "web", "01:00:5e:00:00:01"], "no address of one machine"),
        (&["add", "web", "52:54"], "an address is like"),
        (&["del", "web", "52:54:00:00:01:0a"], "no static address of web"),
        (&["del", "db", address], "no static address of db"),
    ] {
        let told = refused(&switch, &[&["fdb"], words].concat())?;
        assert!(told.contains(why), "{words:?}: {told}");
    }
    // In another VLAN it is another address; in the same one it is somebody's.
    done(&switch, &["fdb", "add", "db", address, "52:54:00:00:01:0a"])?;
    done(&switch, &["fdb", "add", "trunk", address, "--vlan", "20"])?;
    let told = refused(&switch, &["fdb", "add", "trunk", address, "--vlan", "10"])?;
    assert!(told.contains("of db: `sv3 fdb del db 52:54:00:00:01:09 --vlan 10` first"), "{told}");
    // Ports at which nobody is have theirs, and show them.
    let shown: Value = serde_json::from_str(&done(&switch, &["fdb", "--json"])?)?;
    let is_static = |one: &&Value| one["static"] == true;
    let shown: Vec<String> = shown["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(is_static)
        .map(|one| format!("{} {} {}", one["port"], one["vlan"], one["address"]).replace('"', ""))
        .collect();
    let wanted =
        ["db 10 52:54:00:00:01:09", "db 10 52:54:00:00:01:0a", "trunk 20 52:54:00:00:01:09", "web 0 52:54:00:00:01:09"];
    assert!(wanted.iter().all(|one| shown.contains(&one.to_string())) && shown.len() == 4, "{shown:?}");
    done(&switch, &["fdb", "del", "db", address, "52:54:00:00:01:0a"])?;

    // Removed, it is anybody's again.
    done(&switch, &["fdb", "del", "web", address])?;
    b.send(&frame(mac(1), mac(9), b"mine"));
    assert!(!a.receive_frame().is_empty());
    goes_to(&mut a, &mut b, &mut web, 5);
    assert!(done(&switch, &["config", "show"])?.ends_with("[ports.web]\n"));
    Ok(())
}

#[test]
fn the_address_of_a_port_at_which_nobody_is_draws_no_flood() -> Result<()> {
    let mut switch = Switch::with(&["--threads", "2"])?;
    let (mut a, mut b) = (Guest::connect(switch.socket()), Guest::connect(switch.socket()));
    done(&switch, &["port", "add", "web", "--static", "52:54:00:00:01:09"])?;
    let letter = noise(mac(9), mac(1), 64, 1);
    let mut count = 0;
    let mut nobody_gets_it = |switch: &Switch, a: &mut Guest, b: &mut Guest| -> Result<()> {
        count += 1;
        // The worker may hear a little later that the port is gone.
        let before = switch.drops("p0", "port_absent")?;
        until("a counted drop", || {
            a.send(&letter);
            a.await_sent();
            Ok((switch.drops("p0", "port_absent")? > before).then_some(()))
        })?;
        // And nobody speaks in its name.
        b.send(&frame(mac(1), mac(9), b"mine"));
        switch.await_drops("p1", "address_conflict", count)?;
        assert_eq!((a.try_receive(), b.try_receive()), (None, None));
        Ok(())
    };
    nobody_gets_it(&switch, &mut a, &mut b)?;
    let told = done(&switch, &["trace", "p0", "--from", "52:54:00:00:01:01", "--to", "52:54:00:00:01:09"])?;
    assert!(told.contains("port_absent"), "{told}");
    let mut web = attach(&switch, "web");
    goes_to(&mut a, &mut web, &mut b, 2);
    web.disconnect();
    switch.await_ports(2)?;
    nobody_gets_it(&switch, &mut a, &mut b)?;
    switch.kill_worker("KILL")?;
    nobody_gets_it(&switch, &mut a, &mut b)?;
    switch.hand_over(&[])?;
    nobody_gets_it(&switch, &mut a, &mut b)?;
    let mut web = attach(&switch, "web");
    goes_to(&mut a, &mut web, &mut b, 3);
    // With its declaration it goes.
    done(&switch, &["port", "remove", "web"])?;
    switch.await_ports(2)?;
    let letter = noise(mac(9), mac(1), 64, 4);
    a.send(&letter);
    assert_eq!(b.receive_frame(), letter);
    assert!(!done(&switch, &["fdb"])?.contains("static"));
    Ok(())
}
