//! `card_user ADDRESS PEER KILLS`: inside of a machine, runs a switch on a card that was handed to its user, with two
//! guests, and has them talk to the network behind the card while its worker is killed so many times.
//!
//! PEER is the interface at the other end of the card's wire. It gets a network of its own. Prints what came to pass;
//! fails with the reason.

use std::path::PathBuf;
use std::process::ExitCode;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::exchange::Exchange;
use sv3_tests::network::{Namespace, Station};
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};
use sv3_tests::vm::Ping;

const BUSYBOX: &str = "/bin/busybox";
const PEER: &str = "10.9.0.9";
const PINGS: u32 = 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("card_user: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, interface, kills] = args.as_slice() else {
        return Err(Failure::new("usage: card_user ADDRESS PEER KILLS"));
    };
    let peer = Namespace::new()?;
    Namespace::own()?.ip(&format!("link set {interface} netns {}", peer.path()))?;
    peer.ip(&format!("address add {PEER}/24 dev {interface}"))?;
    peer.ip(&format!("link set {interface} up"))?;

    let switch = Home::new()?.start(&[])?;
    let used = attach(&switch, address).and_then(|()| use_card(&switch, &peer, kills.parse()?));
    println!("status: {}", serde_json::to_string(&switch.status()?)?);
    if used.is_err() {
        switch.events()?.iter().for_each(|event| println!("{event}"));
    }
    used
}

fn use_card(switch: &Switch, peer: &Namespace, kills: u32) -> Result<()> {
    let stations = [Station::connect(switch.socket(), 1)?, Station::connect(switch.socket(), 2)?];
    switch.await_ports(3)?;
    let networks = [stations[0].network(), stations[1].network(), peer];
    for network in networks {
        until("the peer to be heard", || Ok((ping(network, PEER, 1)?.lost() == 0).then_some(())))?;
    }
    for (from, to) in [(0, PEER), (1, PEER), (2, "10.9.0.1"), (2, "10.9.0.2"), (0, "10.9.0.2")] {
        let ping = ping(networks[from], to, PINGS)?;
        if ping.lost() > 0 || ping.duplicates > 0 {
            return Err(Failure::new(format!("ping {to}: {ping:?}")));
        }
    }
    println!("pings: ok");
    let out = Exchange::start(stations[0].network(), peer, PEER)?;
    let back = Exchange::start(peer, stations[1].network(), "10.9.0.2")?;
    for kill in 0..kills {
        out.await_progress().and_then(|()| back.await_progress())?;
        switch.kill_worker("KILL")?;
        println!("kill {kill}: {:?} {:?}", out.came(), back.came());
    }
    out.await_progress().and_then(|()| back.await_progress())?;
    println!("octets: {:?} {:?}", out.finish()?, back.finish()?);
    for network in networks {
        let bad = bad_checksums(network)?;
        if bad > 0 {
            return Err(Failure::new(format!("{bad} segments had a wrong checksum")));
        }
    }
    stations.into_iter().try_for_each(Station::finish)
}

fn attach(switch: &Switch, address: &str) -> Result<()> {
    let control = switch.control().display().to_string();
    let output = switch.home().sv3_output(&["attach", "nic", address, "--control", &control])?;
    let said = || String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(Failure::new(format!("sv3 attach nic: {}", said()))) }
}

fn ping(network: &Namespace, address: &str, count: u32) -> Result<Ping> {
    let busybox = PathBuf::from(BUSYBOX);
    let mut command = network.command(&busybox.display().to_string());
    let output = command.args(["ping", "-i", "0.1", "-W", "2", "-c", &count.to_string(), address]).output()?;
    Ping::parse(&String::from_utf8_lossy(&output.stdout))
}

/// TCP segments that a network's kernel threw away for their checksum.
fn bad_checksums(network: &Namespace) -> Result<u64> {
    let text = network.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split_whitespace());
    let (names, values) = (lines.next(), lines.next());
    let field =
        names.zip(values).and_then(|(names, values)| names.zip(values).find(|(name, _)| *name == "InCsumErrors"));
    field.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| Failure::new(format!("no InCsumErrors: {text}")))
}
