//! `card_user ADDRESS PEER WHAT...`: inside of a machine, runs a switch on a card that was handed to its user, with two
//! guests, and has them talk to the network behind the card.
//!
//! PEER is the interface at the other end of the card's wire. It gets a network of its own. WHAT happens then, one after
//! the other: `zero-copy`, which must come first, lets the card read guests' memory, and frames must have been left there;
//! `kill`, the worker is killed twenty times while TCP goes on; `leave`, a guest takes memory away from which the card sends,
//! and workers die meanwhile; `replace`, the whole switch is replaced (`sv3
//! run --take-over`) twice, after a successor that could not serve; `unplug`, the wire is pulled out and plugged in;
//! `pull`, the card is pulled out. The test does that when [`turn_of_test`] says so. Prints what came to pass; fails with the
//! reason.

use std::path::PathBuf;
use std::process::ExitCode;

use sv3::card::GUESTS;
use sv3::status::{Link, Status};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::leaving_memory::LeavingMemory;
use sv3_tests::machine::Machine;
use sv3_tests::network::exchange::Exchange;
use sv3_tests::network::{Namespace, Station};
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};
use sv3_tests::vm::Ping;

const BUSYBOX: &str = "/bin/busybox";
const FIRST: &str = "10.9.0.1";
const SECOND: &str = "10.9.0.2";
const PEER: &str = "10.9.0.9";
/// The guest that takes its memory away.
const THIRD: u8 = 3;
const PINGS: u32 = 10;
const KILLS: u32 = 20;
const LEAVINGS: u32 = 12;

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
    let [address, interface, what @ ..] = args.as_slice() else {
        return Err(Failure::new("usage: card_user ADDRESS PEER WHAT..."));
    };
    let peer = Namespace::new()?;
    Namespace::own()?.ip(&format!("link set {interface} netns {}", peer.path()))?;
    peer.ip(&format!("address add {PEER}/24 dev {interface}"))?;
    peer.ip(&format!("link set {interface} up"))?;

    let mut switch = Home::new()?.start(&[])?;
    let is_zero_copy = what.first().is_some_and(|what| what == "zero-copy");
    let used = attach(&switch, address, is_zero_copy).and_then(|()| use_card(&mut switch, &peer, what));
    println!("status: {}", serde_json::to_string(&switch.status()?)?);
    if used.is_err() {
        switch.events()?.iter().for_each(|event| println!("{event}"));
    }
    used
}

/// Two guests and the network behind the card talk; then `what` happens.
fn use_card(switch: &mut Switch, peer: &Namespace, what: &[String]) -> Result<()> {
    let stations = [Station::connect(switch.socket(), 1)?, Station::connect(switch.socket(), 2)?];
    switch.await_ports(3)?;
    let networks = [stations[0].network(), stations[1].network(), peer];
    for network in networks {
        until("the peer to be heard", || Ok((ping(network, PEER, 1)?.lost() == 0).then_some(())))?;
    }
    for (from, to) in [(0, PEER), (1, PEER), (2, FIRST), (2, SECOND), (0, SECOND)] {
        must_ping(networks[from], to)?;
    }
    for what in what {
        match what.as_str() {
            "zero-copy" => use_memory(switch, networks)?,
            "leave" => leave_memory(switch)?,
            "kill" => kill_workers(switch, networks)?,
            "replace" => replace_switch(switch, networks)?,
            "unplug" => unplug(switch, networks)?,
            "pull" => pull(switch, networks)?,
            _ => return Err(Failure::new(format!("{what:?} is nothing that can happen"))),
        }
        println!("{what}: done");
    }
    for network in networks {
        let bad = bad_checksums(network)?;
        if bad > 0 {
            return Err(Failure::new(format!("{bad} segments had a wrong checksum")));
        }
    }
    stations.into_iter().try_for_each(Station::finish)
}

fn kill_workers(switch: &Switch, [first, second, peer]: [&Namespace; 3]) -> Result<()> {
    let (out, back) = (Exchange::start(first, peer, PEER)?, Exchange::start(peer, second, SECOND)?);
    for kill in 0..KILLS {
        out.await_progress().and_then(|()| back.await_progress())?;
        switch.kill_worker("KILL")?;
        println!("kill {kill}: {:?} {:?}", out.came(), back.came());
    }
    out.await_progress().and_then(|()| back.await_progress())?;
    println!("octets: {:?} {:?}", out.finish()?, back.finish()?);
    Ok(())
}

/// Frames are left in guests' memory, and the switch says where the card sees that.
fn use_memory(switch: &Switch, [first, _, peer]: [&Namespace; 3]) -> Result<()> {
    let out = Exchange::start(first, peer, PEER)?;
    await_left(switch, &out)?;
    println!("octets: {:?}", out.finish()?);
    match switch.audit()?.cards.as_slice() {
        [card] if card.guests == Some((GUESTS, GUESTS)) => Ok(()),
        cards => Err(Failure::new(format!("not the card of guests' memory: {cards:?}"))),
    }
}

/// How many times as long as usual a guest's memory may take to be mapped.
const MAPPING: usize = 8;

/// Waits until more frames have been left in guests' memory.
fn await_left(switch: &Switch, out: &Exchange) -> Result<()> {
    let before = left(&switch.status()?);
    let is_more = || {
        out.await_progress()?;
        Ok((left(&switch.status()?) > before).then_some(()))
    };
    // The emulated IOMMU maps a guest's memory page by page.
    match (0..MAPPING).find_map(|_| until("frames that stay in memory", is_more).ok()) {
        Some(()) => Ok(()),
        None => until("frames that stay in memory", is_more),
    }
}

fn left(status: &Status) -> u64 {
    let card = status.ports.iter().find_map(|port| port.card.as_ref());
    card.and_then(|card| card.statistics.get("zero_copy").copied()).unwrap_or(0)
}

fn leave_memory(switch: &Switch) -> Result<()> {
    let mut guest = LeavingMemory::connect(switch.socket(), THIRD, Machine::address(1));
    for round in 0..LEAVINGS {
        let dies = round % 3 == 2;
        let mut died = Ok(());
        guest.come_and_go(THIRD, || died = if dies { switch.kill_worker("KILL") } else { Ok(()) });
        died?;
    }
    guest.finish();
    Ok(())
}

fn replace_switch(switch: &mut Switch, [first, second, peer]: [&Namespace; 3]) -> Result<()> {
    let (out, back) = (Exchange::start(first, peer, PEER)?, Exchange::start(peer, second, SECOND)?);
    let (installed, kept) = (switch.home().path("bin/sv3-worker"), switch.home().path("kept-worker"));
    std::fs::rename(&installed, &kept)?;
    std::os::unix::fs::symlink("/bin/busybox", &installed)?;
    let mut successor = switch.start_successor(&[])?;
    let ended = until("the end of a successor that cannot serve", || Ok(successor.try_wait()?))?;
    if ended.success() {
        return Err(Failure::new("a successor without a worker has taken over"));
    }
    std::fs::remove_file(&installed)?;
    std::fs::rename(&kept, &installed)?;
    out.await_progress().and_then(|()| back.await_progress())?;
    for _ in 0..2 {
        switch.hand_over(&[])?;
        await_link(switch, Link::Up)?;
        out.await_progress().and_then(|()| back.await_progress())?;
        println!("replaced: {:?} {:?}", out.came(), back.came());
    }
    println!("octets: {:?} {:?}", out.finish()?, back.finish()?);
    audit(switch)
}

/// Root's audit finds all files of all processes on the supervisor's list.
fn audit(switch: &Switch) -> Result<()> {
    switch.await_status("a standby", |status| status.worker.standby_pid.is_some())?;
    let output = std::process::Command::new("/bin/sv3").args(["audit", "--control"]).arg(switch.control()).output()?;
    let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    let reach = "its own memory, mapped by process";
    let good = output.status.success() && said.contains(reach) && said.contains("bus master on");
    if good { Ok(()) } else { Err(Failure::new(format!("sv3 audit: {said}"))) }
}

fn unplug(switch: &Switch, [first, second, peer]: [&Namespace; 3]) -> Result<()> {
    turn_of_test("unplug")?;
    await_link(switch, Link::Down)?;
    must_ping(first, SECOND)?;
    turn_of_test("plug")?;
    await_link(switch, Link::Up)?;
    must_ping(second, PEER)?;
    must_ping(peer, FIRST)
}

fn pull(switch: &Switch, [first, second, _]: [&Namespace; 3]) -> Result<()> {
    turn_of_test("pull")?;
    await_link(switch, Link::Down)?;
    must_ping(first, SECOND)?;
    switch.kill_worker("KILL")?;
    must_ping(second, FIRST)
}

/// The card's port, which is the first one, has its link or has not.
fn await_link(switch: &Switch, link: Link) -> Result<()> {
    switch.await_status(&format!("the link {link:?}"), |status| {
        status.ports.first().is_some_and(|port| port.card.is_some() && port.link == link)
    })
}

/// Tells the test that it is to do something, by a file `/tmp/NAME`, and waits until it has, by `/tmp/NAME.done`.
fn turn_of_test(name: &str) -> Result<()> {
    std::fs::write(format!("/tmp/{name}"), "")?;
    until(name, || Ok(std::fs::exists(format!("/tmp/{name}.done"))?.then_some(())))
}

fn must_ping(network: &Namespace, address: &str) -> Result<()> {
    let ping = ping(network, address, PINGS)?;
    match (ping.lost(), ping.duplicates) {
        (0, 0) => Ok(()),
        _ => Err(Failure::new(format!("ping {address}: {ping:?}"))),
    }
}

fn attach(switch: &Switch, address: &str, is_zero_copy: bool) -> Result<()> {
    let control = switch.control().display().to_string();
    let zero_copy = is_zero_copy.then_some("--zero-copy");
    let arguments: Vec<_> = ["attach", "nic", address, "--control", &control].into_iter().chain(zero_copy).collect();
    let output = switch.home().sv3_output(&arguments)?;
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
