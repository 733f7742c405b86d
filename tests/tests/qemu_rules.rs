//! Real guests at declared ports with rules from a file: VLANs with Linux's own tags, a strict guard, ports that go
//! down, a worker's death, captures. Ignored by a plain `cargo test`, as other guests are (`qemu.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sv3_tests::capture::{Capture, Captured, tcpdump};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{Mac, frame, mac};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};
use sv3_tests::vm::{Output, Vm};

const FILE: &str = r#"
[defaults]
guard = "strict"

[ports.web]
vlan = 10
mac = ["52:54:00:00:00:01"]
ip = ["10.0.0.1", "fd00::1", "fe80::5054:ff:fe00:1"]

[ports.db]
vlan = 10
mac = ["52:54:00:00:00:02"]
ip = ["10.0.0.2", "fd00::2", "fe80::5054:ff:fe00:2"]

[ports.router]
trunk = "10,20"
guard = "off"

[ports.other]
vlan = 20
"#;

/// The router's address in VLAN 20, and that of the port `other`.
const ROUTER_20: &str = "10.20.0.3";
const OTHER: [u8; 4] = [10, 20, 0, 9];
const PINGS: u32 = 5;
/// How soon a guest has seen that its link went or came.
const LINK_PATIENCE: Duration = Duration::from_secs(30);

/// The switch, its guests `web`, `db` and `router`, and the software guest at `other`.
struct World {
    switch: Switch,
    web: Vm,
    db: Vm,
    router: Vm,
    other: Guest,
}

impl World {
    fn new() -> Result<World> {
        let home = Home::new()?;
        let file = home.path("sv3.toml");
        fs::write(&file, FILE)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let switch = home.start(&["--config", &file.display().to_string()])?;
        let door = |name: &str| -> PathBuf { home.path(&format!("ports/{name}.sock")) };
        let web = Vm::number(1).start(&door("web"))?;
        let db = Vm::number(2).start(&door("db"))?;
        let router = Vm::number(3).module("8021q").start(&door("router"))?;
        let other = Guest::connect(&door("other"));
        let (web, db, mut router) = (web.booted()?, db.booted()?, router.booted()?);
        router.sh("ip address flush dev eth0")?;
        for (vid, address) in [(10, router.address()), (20, ROUTER_20.to_string())] {
            router.sh(&format!("ip link add link eth0 name eth0.{vid} type vlan id {vid}"))?;
            router.sh(&format!("ip address add {address}/24 dev eth0.{vid} && ip link set eth0.{vid} up"))?;
        }
        Ok(World { switch, web, db, router, other })
    }

    /// Runs `sv3` with these words as the switch's user; what it said.
    fn sv3(&self, words: &[&str]) -> Result<String> {
        let control = self.switch.control().display().to_string();
        let output = self.switch.home().sv3(words).args(["--control", &control]).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Failure::new(String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// What `other` has got by now.
    fn heard(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.other.try_receive()).map(|received| received.frame).collect()
    }

    /// Waits until a counter of drops is greater than it was.
    fn await_more_drops(&self, port: &str, reason: &str, before: u64) -> Result<()> {
        until(
            &format!("drops of {port} for {reason}"),
            || Ok((self.switch.drops(port, reason)? > before).then_some(())),
        )
    }
}

fn assert_pings(from: &mut Vm, to: &str) -> Result<()> {
    let ping = from.ping(to, PINGS)?;
    assert_eq!((ping.lost(), ping.duplicates), (0, 0), "ping {to}: {ping:?}");
    Ok(())
}

/// Pings that must all stay without an answer.
fn assert_cut_off(from: &mut Vm, options: &str) -> Result<()> {
    let Output { text, .. } = from.run(&format!("ping -i 0.1 -W 1 -c 5 {options}"))?;
    assert!(text.contains(" 0 packets received"), "{text}");
    Ok(())
}

/// Sends 8 MiB of noise by TCP; the receiver answers with the checksum of what it has got.
fn assert_transfer(from: &mut Vm, to: &mut Vm) -> Result<()> {
    let job = to.start("nc -l -p 7000 -e sha256sum")?;
    to.sh("until netstat -ltn | grep -q :7000; do usleep 20000; done")?;
    let sent = from.sh("dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null; sha256sum </tmp/noise")?;
    let received = from.sh(&format!("nc {} 7000 </tmp/noise", to.address()))?;
    assert_eq!(received, sent);
    to.finish(job, Duration::from_secs(30)).map(drop)
}

/// One world for all of it, since its boots take long.
#[test]
#[ignore = "scripts/check runs it"]
fn guests_at_declared_ports_are_held_to_the_file() -> Result<()> {
    let mut world = World::new()?;
    two_guests_and_a_trunk_talk(&mut world)?;
    another_vlan_is_reached_by_the_trunk_alone(&mut world)?;
    a_false_address_cuts_a_guest_off(&mut world)?;
    a_port_that_is_down_takes_the_carrier(&mut world)?;
    rules_hold_over_a_worker_s_death(&mut world)
}

fn two_guests_and_a_trunk_talk(world: &mut World) -> Result<()> {
    let World { web, db, router, .. } = world;
    let (to_web, to_db, to_router) = (web.address(), db.address(), router.address());
    assert_pings(web, &to_db)?;
    assert_pings(db, &to_web)?;
    // Neighbour discovery claims addresses, and its options name hardware addresses.
    assert_pings(db, &web.address6())?;
    assert_pings(router, &to_web)?;
    assert_pings(db, &to_router)?;
    // The longest frames of Ethernet, which have a tag more at the trunk.
    web.sh(&format!("ping -s 1472 -c 2 -W 5 {to_router}"))?;
    // Segments and checksums that each kernel leaves to the other, with tags on one side only.
    assert_transfer(web, router)?;
    assert_transfer(router, db)?;
    assert_transfer(web, db)
}

/// A reply of ARP: `other` has its address, for the router.
fn arp_reply() -> Vec<u8> {
    let router = [0x52, 0x54, 0, 0, 0, 3];
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(9), &OTHER, &router, &[10, 20, 0, 3], &[0; 18]].concat();
    let mut reply = frame(router, mac(9), &body);
    reply.splice(12..14, [8, 6]);
    reply
}

fn another_vlan_is_reached_by_the_trunk_alone(world: &mut World) -> Result<()> {
    let [a, b, c, d] = OTHER;
    let address = format!("{a}.{b}.{c}.{d}");
    // Nobody in VLAN 10 has it, and a request goes to all who are there.
    let before = world.switch.port("other")?.drops;
    let asked = world.web.run(&format!("arping -f -c 3 -w 3 -I eth0 {address}"))?;
    assert!(asked.status != 0, "{}", asked.text);
    let job = world.router.start(&format!("arping -f -w 20 -I eth0.20 {address}"))?;
    let mut heard = Vec::new();
    until("the router's question", || {
        heard.extend(world.heard());
        Ok(heard.iter().any(|frame| is_request_for(frame, OTHER)).then_some(()))
    })?;
    world.other.send(&arp_reply());
    world.router.finish(job, Duration::from_secs(30))?.ok()?;
    let router: Mac = [0x52, 0x54, 0, 0, 0, 3];
    for frame in &heard {
        assert_eq!(frame.get(6..12), Some(&router[..]), "a frame of VLAN 10: {frame:02x?}");
        assert_ne!(frame.get(12..14), Some(&[0x81, 0][..]), "a tag at an access port: {frame:02x?}");
    }
    assert_eq!(world.switch.port("other")?.drops, before);
    Ok(())
}

fn is_request_for(frame: &[u8], address: [u8; 4]) -> bool {
    frame.get(12..14) == Some(&[8, 6]) && frame.get(38..42) == Some(&address[..])
}

fn a_false_address_cuts_a_guest_off(world: &mut World) -> Result<()> {
    let to_db = world.db.address();
    let before = world.switch.drops("web", "guard_ip")?;
    world.web.sh("ip address add 10.0.0.77/24 dev eth0")?;
    assert_cut_off(&mut world.web, &format!("-I 10.0.0.77 {to_db}"))?;
    world.await_more_drops("web", "guard_ip", before + 4)?;
    world.web.sh("ip address del 10.0.0.77/24 dev eth0")?;
    assert_pings(&mut world.web, &to_db)?;

    let (to_db6, before) = (world.db.address6(), world.switch.drops("web", "guard_ip")?);
    world.web.sh("ip address add fd00::77/64 dev eth0")?;
    assert_cut_off(&mut world.web, &format!("-I fd00::77 {to_db6}"))?;
    world.await_more_drops("web", "guard_ip", before)?;
    world.web.sh("ip address del fd00::77/64 dev eth0")?;
    assert_pings(&mut world.web, &to_db6)?;

    let before = world.switch.drops("web", "guard_mac")?;
    world.web.sh("ip link set eth0 address 52:54:00:00:00:99")?;
    assert_cut_off(&mut world.web, &to_db)?;
    // A kernel that has another address asks anew for those of others, which it does once a second.
    world.await_more_drops("web", "guard_mac", before)?;
    assert!(!world.switch.addresses()?.iter().any(|(_, address)| address.ends_with(":99")), "it was learnt");
    world.web.sh("ip link set eth0 address 52:54:00:00:00:01")?;
    assert_pings(&mut world.web, &to_db)
}

/// Waits until a guest sees its carrier, or that it is gone.
fn await_carrier(guest: &mut Vm, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + LINK_PATIENCE;
    while guest.sh("cat /sys/class/net/eth0/carrier")?.trim() != wanted {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("the carrier does not become {wanted}")));
        }
    }
    Ok(())
}

fn a_port_that_is_down_takes_the_carrier(world: &mut World) -> Result<()> {
    let (to_web, to_db) = (world.web.address(), world.db.address());
    let others = [world.db.carrier_changes()?, world.router.carrier_changes()?];
    world.sv3(&["port", "down", "web"])?;
    await_carrier(&mut world.web, "0")?;
    assert_cut_off(&mut world.db, &to_web)?;
    world.sv3(&["port", "up", "web"])?;
    await_carrier(&mut world.web, "1")?;
    assert_pings(&mut world.web, &to_db)?;
    assert_eq!([world.db.carrier_changes()?, world.router.carrier_changes()?], others);
    Ok(())
}

/// While `web` pings `db`, `db` sends under an address that it may not have.
fn rules_hold_over_a_worker_s_death(world: &mut World) -> Result<()> {
    let (to_web, to_db) = (world.web.address(), world.db.address());
    let tcpdump = tcpdump(&world.switch)?;
    let carriers = [world.web.carrier_changes()?, world.db.carrier_changes()?];
    world.db.sh("ip address add 10.0.0.78/24 dev eth0")?;
    let capture = Capture::start(&world.switch, "web.pcapng", &["web", "db"])?;
    let file = capture.file().clone();
    let spoof = world.db.start(&format!("ping -i 0.01 -W 1 -c 400 -I 10.0.0.78 {to_web}"))?;
    let ping = world.web.start_ping(&to_db, 40)?;
    for signal in ["KILL", "SEGV"] {
        let before = world.switch.drops("db", "guard_ip")?;
        world.await_more_drops("db", "guard_ip", before + 20)?;
        world.switch.kill_worker(signal)?;
    }
    let ping = world.web.finish_ping(ping, 40)?;
    assert!(ping.longest_gap <= 10, "at most 1 s without an answer, beside other guests: {ping:?}");
    let text = world.db.finish(spoof, Duration::from_secs(60))?.text;
    assert!(text.contains(" 0 packets received"), "{text}");
    assert_eq!([world.web.carrier_changes()?, world.db.carrier_changes()?], carriers, "a guest noticed the deaths");

    let captured = capture.end()?;
    let is_spoofed = |one: &&Captured| one.frame.get(26..30) == Some(&[10, 0, 0, 78][..]);
    let spoofed: Vec<_> = captured.iter().filter(is_spoofed).collect();
    assert!(spoofed.len() > 40, "{} of {}", spoofed.len(), captured.len());
    for one in spoofed {
        assert!(one.port == "db" && one.is_inbound() && one.says("dropped: guard_ip"), "{one:?}");
    }
    let output = Command::new(tcpdump).args(["-n", "-e", "-Z", "root", "-r"]).arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let requests = text.lines().filter(|line| line.contains(&format!("{to_web} > {to_db}: ICMP echo request")));
    assert!(requests.count() >= 40, "{text}");
    // The capture and the deaths left nothing behind.
    assert_pings(&mut world.web, &to_db)
}
