//! Rules at taps and streams, with kernels as peers: a trunk that a bridge of the kernel's passes on, isolation with an
//! uplink, a guard. Needs root, for network namespaces.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use sv3::attachment::Transport;
use sv3_tests::capture::Capture;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, mac, noise};
use sv3_tests::image::{self, Suite};
use sv3_tests::network::exchange::Exchange;
use sv3_tests::network::ports::{attach_tap, attachment, uplink};
use sv3_tests::network::{Form, Namespace, RawSocket, Station, StreamPeer, Tap};
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};
use sv3_tests::vm::Ping;

const TAP: &str = "tap0";

/// A switch that is started with a file.
fn switch_of(file: &str) -> Result<Switch> {
    let home: Rc<Home> = Home::new()?;
    let path = home.path("sv3.toml");
    fs::write(&path, file)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    home.start(&["--config", &path.display().to_string()])
}

fn door(switch: &Switch, name: &str) -> PathBuf {
    switch.home().path(&format!("ports/{name}.sock"))
}

/// `sv3 port set` with these words.
fn set(switch: &Switch, words: &[&str]) -> Result<()> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3(&["port", "set"]).args(words).args(["--control", &control]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(String::from_utf8_lossy(&output.stderr))),
    }
}

/// A network at a port: a tap with the address 10.9.0.NUMBER and the Ethernet address of that station.
fn network_at(switch: &Switch, name: &str, number: u8) -> Result<Namespace> {
    let network = Namespace::new()?;
    let address = mac(number).map(|octet| format!("{octet:02x}")).join(":");
    network.make_tap(TAP, &address, &format!("10.9.0.{number}/24"), "")?;
    attach_tap(switch, &network, TAP, &attachment(Transport::Tap, name))?;
    Ok(network)
}

/// Waits until one network's pings to an address are all answered.
fn await_pings(network: &Namespace, address: &str) -> Result<()> {
    until(&format!("answers of {address}"), || Ok((network.ping(address, 2)?.lost() == 0).then_some(())))
}

fn assert_cut_off(network: &Namespace, address: &str) -> Result<()> {
    let busybox = image::tree(Suite::Bookworm)?.join("bin/busybox");
    let mut command = network.command(&busybox.display().to_string());
    let output = command.args(["ping", "-i", "0.1", "-W", "1", "-c", "3", address]).output()?;
    let ping = Ping::parse(&String::from_utf8_lossy(&output.stdout))?;
    assert_eq!(ping.answered, 0, "{address}: {ping:?}");
    Ok(())
}

/// The VLAN of a frame with an 802.1Q tag.
fn vid_of(frame: &[u8]) -> Option<u16> {
    match frame.get(12..16) {
        Some([0x81, 0, high, low]) => Some(u16::from_be_bytes([*high, *low]) & 0xfff),
        _ => None,
    }
}

/// Two switches, whose trunks are taps of one bridge of the kernel's. A third tap of the bridge sees what is flooded.
struct Joined {
    first: Switch,
    second: Switch,
    eye: Tap,
    _middle: Namespace,
}

impl Joined {
    fn new() -> Result<Joined> {
        let trunk = "[ports.up0]\nkind = \"attached\"\ntrunk = \"10,20\"\n";
        let first = switch_of(&format!("{trunk}[ports.web]\nvlan = 10\n[ports.pipe]\nkind = \"stream\"\nvlan = 20\n"))?;
        let second = switch_of(&format!(
            "{trunk}[ports.db]\nkind = \"attached\"\nvlan = 10\n[ports.blue]\nkind = \"attached\"\nvlan = 20\n"
        ))?;
        let middle = Namespace::new()?;
        middle.ip("link add br0 type bridge mcast_snooping 0")?;
        middle.ip("link set br0 up")?;
        for (tap, number) in [("up1", 0xa1), ("up2", 0xa2), ("eye", 0xa3)] {
            middle.make_tap(tap, &format!("52:54:00:00:09:{number:02x}"), "", "")?;
            middle.ip(&format!("link set {tap} master br0"))?;
        }
        attach_tap(&first, &middle, "up1", &uplink(Transport::Tap, "up0"))?;
        attach_tap(&second, &middle, "up2", &uplink(Transport::Tap, "up0"))?;
        let eye = Tap::open(&middle, "eye", false)?;
        Ok(Joined { first, second, eye, _middle: middle })
    }

    /// Waits until the bridge floods a frame of a station; its VLAN.
    fn await_flood(&self, of: u8, mut again: impl FnMut() -> Result<()>) -> Result<Option<u16>> {
        until("a flooded frame", || {
            again()?;
            while let Some((_, frame)) = self.eye.receive()? {
                if frame.get(6..12) == Some(&mac(of)[..]) {
                    return Ok(Some(vid_of(&frame)));
                }
            }
            Ok(None)
        })
    }
}

#[test]
#[ignore = "needs root"]
fn trunks_of_taps_carry_tcp_of_a_kernel_and_keep_vlans_apart() -> Result<()> {
    let joined = Joined::new()?;
    let web = Station::connect(&door(&joined.first, "web"), 1)?;
    let (db, blue) = (network_at(&joined.second, "db", 2)?, network_at(&joined.second, "blue", 3)?);
    await_pings(web.network(), "10.9.0.2")?;
    assert_cut_off(web.network(), "10.9.0.3")?;
    assert_eq!(joined.await_flood(1, || ask(web.network()))?, Some(10));

    // A stream is an access port as others are.
    let mut pipe = StreamPeer::connect(&door(&joined.first, "pipe"), Form::Plain)?;
    let (eyes, others) = (RawSocket::open(&blue, TAP)?, RawSocket::open(&db, TAP)?);
    let call = noise(BROADCAST, mac(7), 100, 1);
    assert_eq!(joined.await_flood(7, || pipe.send(&call))?, Some(20));
    until("the call in the same VLAN", || Ok(eyes.receive()?.filter(|(_, frame)| *frame == call).map(drop)))?;
    while let Some((_, frame)) = others.receive()? {
        assert_ne!(frame, call, "a frame of VLAN 20 in VLAN 10");
    }
    let heard = until("the answer of a kernel", || {
        pipe.send(&request(3))?;
        Ok(pipe.receive_within(Duration::from_millis(50))?.filter(|(_, frame)| frame.get(..6) == Some(&mac(7)[..])))
    })?;
    assert_eq!(heard.1.get(6..14), Some(&[&mac(3)[..], &[8, 6]].concat()[..]), "{:02x?}", heard.1);

    let mut capture = Capture::start(&joined.first, "trunk", &["up0", "--snaplen", "64", "-c", "500"])?;
    let exchange = Exchange::start(web.network(), &db, "10.9.0.2")?;
    for switch in [&joined.first, &joined.second] {
        exchange.await_progress()?;
        switch.kill_worker("KILL")?;
    }
    exchange.await_progress()?;
    let captured = capture.wait()?;
    // To another VLAN and back, with a connection that waits.
    set(&joined.second, &["db", "--vlan", "20"])?;
    await_pings(&blue, "10.9.0.2")?;
    assert_cut_off(web.network(), "10.9.0.2")?;
    set(&joined.second, &["db", "--vlan", "10"])?;
    exchange.await_progress()?;
    assert_cut_off(&blue, "10.9.0.2")?;
    exchange.finish()?;
    let tagged = captured.iter().filter(|one| vid_of(&one.frame) == Some(10));
    let long = |inbound: bool| tagged.clone().filter(|one| one.is_inbound() == inbound && one.len > 3000).count();
    assert!(long(true) > 0 && long(false) > 0, "no segments to be cut: {} frames", captured.len());
    let foreign = captured.iter().find(|one| vid_of(&one.frame).is_none() && one.frame.get(12..14) == Some(&[8, 0]));
    assert_eq!(foreign, None, "a packet without a tag at the trunk");
    web.finish()
}

/// A kernel asks all for an address that nobody has.
fn ask(network: &Namespace) -> Result<()> {
    network.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", "10.9.0.4:9").map(drop).map_err(Failure::from))
}

/// Station 7 asks for the station's address by ARP.
fn request(of: u8) -> Vec<u8> {
    let header = [&BROADCAST[..], &mac(7), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&header[..], &mac(7), &[10, 9, 0, 7], &[0; 6], &[10, 9, 0, of], &[0; 18]].concat()
}

#[test]
#[ignore = "needs root"]
fn isolated_guests_reach_the_tap_that_is_not() -> Result<()> {
    let switch = switch_of(
        "[guests]\nisolated = true\n[ports.net]\nkind = \"attached\"\nisolated = true\n\
         [ports.up0]\nkind = \"attached\"\n",
    )?;
    let guests = [Station::connect(switch.socket(), 1)?, Station::connect(switch.socket(), 2)?];
    let net = network_at(&switch, "net", 3)?;
    let router = Namespace::new()?;
    router.make_tap(TAP, "52:54:00:00:01:0a", "10.9.0.10/24", "")?;
    switch.attach(&uplink(Transport::Tap, "up0"), &[Tap::open(&router, TAP, false)?.as_fd()])?;
    for network in [guests[0].network(), guests[1].network(), &net] {
        await_pings(network, "10.9.0.10")?;
    }
    assert_cut_off(guests[0].network(), "10.9.0.2")?;
    assert_cut_off(&net, "10.9.0.1")?;
    // Not even with what ARP would have told them.
    for (from, to) in [(guests[0].network(), 2), (&net, 1)] {
        let (address, device) = (format!("52:54:00:00:01:{to:02x}"), if to == 1 { TAP } else { "eth0" });
        from.ip(&format!("neighbour replace 10.9.0.{to} lladdr {address} dev {device}"))?;
        assert_cut_off(from, &format!("10.9.0.{to}"))?;
    }
    let isolated = switch.drops("net", "isolated")?;
    assert!(isolated >= 3, "{isolated} drops");
    // Both to the router at a time, and the rule is there for the next worker's first frame.
    let exchanges = guests.iter().map(|guest| Exchange::start(guest.network(), &router, "10.9.0.10"));
    let exchanges = exchanges.collect::<Result<Vec<_>>>()?;
    exchanges.iter().try_for_each(Exchange::await_progress)?;
    switch.kill_worker("KILL")?;
    assert_cut_off(&net, "10.9.0.1")?;
    exchanges.iter().try_for_each(Exchange::await_progress)?;
    for exchange in exchanges {
        exchange.finish()?;
    }
    guests.into_iter().try_for_each(Station::finish)
}

#[test]
#[ignore = "needs root"]
fn a_guard_holds_a_kernel_behind_a_tap_to_its_addresses() -> Result<()> {
    let switch = switch_of(
        "[ports.net]\nkind = \"attached\"\nguard = \"strict\"\nmac = [\"52:54:00:00:01:01\"]\nip = [\"10.9.0.1\"]\n\
         [ports.far]\nkind = \"attached\"\n",
    )?;
    let (net, far) = (network_at(&switch, "net", 1)?, network_at(&switch, "far", 2)?);
    await_pings(&net, "10.9.0.2")?;
    await_pings(&far, "10.9.0.1")?;
    let exchange = Exchange::start(&net, &far, "10.9.0.2")?;
    exchange.await_progress()?;
    exchange.finish()?;
    let more_drops = |reason: &str, before: u64| {
        until(&format!("drops for {reason}"), || Ok((switch.drops("net", reason)? > before).then_some(())))
    };
    let before = switch.drops("net", "guard_ip")?;
    net.ip(&format!("address del 10.9.0.1/24 dev {TAP}"))?;
    net.ip(&format!("address add 10.9.0.66/24 dev {TAP}"))?;
    assert_cut_off(&net, "10.9.0.2")?;
    more_drops("guard_ip", before)?;
    net.ip(&format!("address del 10.9.0.66/24 dev {TAP}"))?;
    net.ip(&format!("address add 10.9.0.1/24 dev {TAP}"))?;
    await_pings(&net, "10.9.0.2")?;

    let before = switch.drops("net", "guard_mac")?;
    net.ip(&format!("link set {TAP} address 52:54:00:00:01:66"))?;
    assert_cut_off(&net, "10.9.0.2")?;
    more_drops("guard_mac", before)?;
    if switch.addresses()?.iter().any(|(_, address)| address.ends_with(":66")) {
        return Err(Failure::new("an address that the guard dropped was learnt"));
    }
    net.ip(&format!("link set {TAP} address 52:54:00:00:01:01"))?;
    await_pings(&net, "10.9.0.2")
}
