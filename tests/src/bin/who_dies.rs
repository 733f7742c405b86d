//! `scripts/who-dies`: a guest truncates its memory file under the back-end that serves it. Who dies of that, and what do
//! the guests beside it notice? The same attacks on sv3 and on other people's back-ends, each on a fresh process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, Mac, frame, mac};
use sv3_tests::guest::feature::*;
use sv3_tests::guest::split::Descriptor;
use sv3_tests::guest::wire::GET_FEATURES;
use sv3_tests::guest::{Config, Guest, NetHdr, Shape};
use sv3_tests::peers::Peer;
use sv3_tests::switch::Switch;

const TX: u16 = 1;
const HEADER: usize = 12;
/// How long something may take to die, and a frame to come through.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the hostile guest cuts off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Rings,
    FrameToSend,
    ReceiveBuffers,
}

impl Cut {
    fn words(self) -> &'static str {
        match self {
            Cut::Rings => "its rings",
            Cut::FrameToSend => "a frame that it sends",
            Cut::ReceiveBuffers => "its receive buffers",
        }
    }
}

enum BackEnd {
    Sv3(Switch),
    Foreign(Peer),
}

/// Back-ends that are started in vain before it is given up.
const ATTEMPTS: usize = 6;

const BACK_ENDS: [&str; 3] = ["OVS-DPDK", "passt", "sv3"];

/// Attacks all back-ends, or those that are named.
fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &&str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let mut complete = true;
    println!("{:<9} {:<22} {:<44} the guests beside it", "back-end", "truncated", "who died");
    for name in BACK_ENDS.into_iter().filter(is_wanted) {
        for cut in [Cut::Rings, Cut::FrameToSend, Cut::ReceiveBuffers] {
            let (died, others) = attack(name, cut).unwrap_or_else(|why| {
                complete = false;
                (format!("not tried: {why}"), String::new())
            });
            println!("{name:<9} {:<22} {died:<44} {others}", cut.words());
        }
    }
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Who died, and what the others noticed.
fn attack(name: &str, cut: Cut) -> Result<(String, String)> {
    let (mut back_end, mut hostile, mut others) = network(name)?;
    back_end.settle()?;
    cut_off(&mut hostile, cut);
    // A back-end may need a while to look: an Open vSwitch learns first whom to send to.
    let deadline = Instant::now() + PATIENCE;
    let died = loop {
        if let Some(died) = back_end.who_died()? {
            break died;
        }
        if Instant::now() > deadline {
            break "nobody".to_string();
        }
        hostile.kick(TX);
        if let Some((a, _)) = &mut others {
            a.try_send_on(0, &NetHdr::default(), &frame(BROADCAST, mac(2), b"to all"), Shape::default());
            a.publish(TX);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let noticed = match &mut others {
        None => "it serves one guest".to_string(),
        Some((a, b)) => match (a.raw().get(GET_FEATURES), talk(a, b)) {
            (Err(_), _) => "lost their link".to_string(),
            (Ok(_), true) => "talk on, their link never went down".to_string(),
            (Ok(_), false) => "have their link and get no frame through".to_string(),
        },
    };
    Ok((died, noticed))
}

type Neighbours = Option<(Guest, Guest)>;

/// A back-end, the hostile guest, and two that it and each other have talked to if it serves so many.
fn network(name: &str) -> Result<(BackEnd, Guest, Neighbours)> {
    // On a busy machine it happens that an Open vSwitch refuses a client or forwards nothing; a new one does.
    let mut failure = Failure::new("the guests beside it never got a frame through");
    for _ in 0..ATTEMPTS {
        let back_end = BackEnd::start(name)?;
        let sockets = back_end.sockets();
        let connect = |socket: &PathBuf, config: Config| config.try_connect(socket).map_err(|(failure, _)| failure);
        let guests = sockets.iter().enumerate().map(|(at, socket)| match at {
            0 => connect(socket, modest().rings_at_region_end()),
            _ => connect(socket, modest()),
        });
        let mut guests = match guests.collect::<Result<Vec<Guest>>>() {
            Ok(guests) => guests.into_iter(),
            Err(refused) => {
                failure = refused;
                continue;
            }
        };
        let Some(mut hostile) = guests.next() else { continue };
        let mut others = guests.next().zip(guests.next());
        if others.as_mut().is_none_or(|(a, b)| passes(&mut hostile, a, 1) && talk(a, b)) {
            return Ok((back_end, hostile, others));
        }
    }
    Err(failure)
}

/// What every back-end offers.
fn modest() -> Config {
    Guest::config().features(VERSION_1 | MRG_RXBUF)
}

fn cut_off(hostile: &mut Guest, cut: Cut) {
    // The first region ends with the rings, its begin is free; the second one has the buffers.
    let [first, second] = [0, 1].map(|at| hostile.memory().regions()[at].guest_addr);
    match cut {
        Cut::Rings => {
            hostile.memory().regions()[0].truncate(4096);
        }
        Cut::FrameToSend => {
            hostile.memory().write(second, &[0; HEADER + 60]);
            let head = lay_out(hostile, second, HEADER + 60);
            hostile.memory().regions()[1].truncate(0);
            hostile.offer(TX, head);
        }
        Cut::ReceiveBuffers => {
            let question = [vec![0; HEADER], who_has_the_gateway()].concat();
            hostile.memory().write(first, &question);
            let head = lay_out(hostile, first, question.len());
            hostile.memory().regions()[1].truncate(0);
            // Where nobody else is there to send anything, the back-end itself answers.
            hostile.offer(TX, head);
        }
    }
}

fn lay_out(hostile: &mut Guest, addr: u64, octets: usize) -> u16 {
    let head = hostile.take_descriptors(TX, 1).first().copied().unwrap_or(0);
    hostile.describe(TX, head, Descriptor { addr, len: octets as u32, flags: 0, next: 0 });
    head
}

/// An ARP request, to which passt answers whomever it asks for.
fn who_has_the_gateway() -> Vec<u8> {
    let (zero, source): (Mac, Mac) = ([0; 6], mac(1));
    let addresses = [&source[..], &[192, 0, 2, 77], &zero, &[192, 0, 2, 1]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &addresses].concat();
    let mut octets = [&BROADCAST[..], &source, &[8, 6], &arp].concat();
    octets.resize(60, 0);
    octets
}

/// Whether frames pass both ways between two guests, before long.
fn talk(a: &mut Guest, b: &mut Guest) -> bool {
    passes(a, b, 2) && passes(b, a, 3)
}

fn passes(from: &mut Guest, to: &mut Guest, station: u8) -> bool {
    let letter = frame(BROADCAST, mac(station), &[station; 50]);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !from.try_send_on(0, &NetHdr::default(), &letter, Shape::default()) {
            return false;
        }
        from.publish(TX);
        while let Some(received) = to.receive_within(Duration::from_millis(200)) {
            if received.frame.starts_with(&letter) {
                return true;
            }
        }
    }
    false
}

impl BackEnd {
    fn start(name: &str) -> Result<BackEnd> {
        match name {
            "sv3" => Ok(BackEnd::Sv3(Switch::start()?)),
            "passt" => Ok(BackEnd::Foreign(Peer::passt()?)),
            _ => Ok(BackEnd::Foreign(Peer::ovs_dpdk(3)?)),
        }
    }

    /// One for each client.
    fn sockets(&self) -> Vec<PathBuf> {
        match self {
            BackEnd::Sv3(switch) => vec![switch.socket().to_path_buf(); 3],
            BackEnd::Foreign(peer) => peer.sockets().to_vec(),
        }
    }

    /// Waits until it is as it will be from then on.
    fn settle(&self) -> Result<()> {
        match self {
            BackEnd::Sv3(switch) => switch.await_status("a standby", |status| status.worker.standby_pid.is_some()),
            BackEnd::Foreign(_) => Ok(()),
        }
    }

    fn who_died(&mut self) -> Result<Option<String>> {
        match self {
            BackEnd::Foreign(peer) => Ok(peer.ended()?.map(|status| format!("all of it: {status}"))),
            BackEnd::Sv3(switch) => {
                let events = switch.events()?;
                let find = |name: &str| events.iter().find(|event| event["event"] == name);
                let both = find("crash").zip(find("restart"));
                Ok(both.map(|(crash, restart)| {
                    let signal = crash["signal"].as_str().unwrap_or("?");
                    format!("a worker: {signal}; the next after {} us", restart["gap_us"])
                }))
            }
        }
    }
}
