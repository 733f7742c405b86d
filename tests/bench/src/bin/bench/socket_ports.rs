//! Stream ports: two of them beside a bare loop that copies, and what they cost guests that have rings.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sv3::attachment::Transport;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::network::ports::{attach_stream, attach_tap, attachment};
use sv3_tests::network::{Namespace, RawSocket, StreamPeer};
use sv3_tests::pingpong::{PingPong, Trips};
use sv3_tests::switch::Switch as Sv3;

use crate::arena::{Contestant, compete};
use crate::clock::{cycles, cycles_of, per_second};
use crate::frame::Shape;
use crate::link::TAP;
use crate::options::Options;
use crate::place::{GUESTS, SWITCH, pin};
use crate::relay::Relay;
use crate::report::{Case, Figure};
use crate::split::Split;
use crate::switch::{Kind, Needs, Switch};
use crate::throughput::{self, Load, closed_loop};
use crate::turns::{Player, by_turns};

const SMALL: &[Figure] = &[Figure { name: "Mframes/s", digits: 2 }, Figure { name: "generator waited %", digits: 0 }];
const TRIPS: &[Figure] = &[
    Figure { name: "p99 us", digits: 1 },
    Figure { name: "p50 us", digits: 1 },
    Figure { name: "p95 us", digits: 1 },
    Figure { name: "p99.9 us", digits: 1 },
    Figure { name: "trips/s", digits: 0 },
];

/// Frames that are written at a time, and that the bare loop copies at a time.
const BATCH: usize = 32;
/// Octets of a frame with the length in front of it.
const SMALL_FRAME: usize = 64 + 4;
/// Frames that may be under way: far less than a socket has room for.
const WINDOW: usize = 16 * BATCH;
/// Rests between two questions of a pair.
const PAUSE: Duration = Duration::from_micros(20);

/// All of them.
pub fn streams(options: &Options) -> Result<Vec<Case>> {
    Ok(vec![between_two(options)?, idle_beside_a_pair(options)?, trips_beside(options)?])
}

fn case_of(load: &str, figures: &'static [Figure]) -> Case {
    let conditions = "a processor each for switch and guests".to_string();
    Case { scenario: "streams", load: load.to_string(), conditions, figures, entries: Vec::new() }
}

/// A switch with a stream port for each name, and the peers behind them.
fn with_streams(switch: &Sv3, names: &[&str]) -> Result<Vec<StreamPeer>> {
    names.iter().map(|name| attach_stream(switch, &attachment(Transport::Stream, name))).collect()
}

fn between_two(options: &Options) -> Result<Case> {
    let switch = Sv3::start()?;
    let ours = with_streams(&switch, &["left", "right"])?;
    let [mut left, mut right] = <[StreamPeer; 2]>::try_from(ours).map_err(|_| Failure::new("two streams"))?;
    // Each hears the other, so the switch knows both.
    left.send(&frame(0xff, 1))?;
    right.receive()?;
    right.send(&frame(1, 2))?;
    left.receive()?;
    let [a, b, c, d] = pairs()?;
    let _relay = Relay::between_streams([b, c], BATCH * SMALL_FRAME, Some(SWITCH))?;
    let mut peers = [[left.socket().try_clone()?, right.socket().try_clone()?], [a, d]];
    for socket in peers.iter().flatten() {
        socket.set_nonblocking(true)?;
    }
    let [ours, bare] = &mut peers;
    let seconds = options.seconds;
    let players = vec![
        Player::new("sv3", move || exchange(ours, seconds)),
        Player::new("copy in batches of 32", move || exchange(bare, seconds)),
    ];
    by_turns(options, case_of("64 B from one stream to another", SMALL), players)
}

/// Two pairs of streams.
fn pairs() -> Result<[UnixStream; 4]> {
    let ((a, b), (c, d)) = (UnixStream::pair()?, UnixStream::pair()?);
    Ok([a, b, c, d])
}

/// A frame of 64 octets from a station to another; 255: to all.
fn frame(to: u8, from: u8) -> Vec<u8> {
    let station = |n: u8| if n == 0xff { [0xff; 6] } else { [0x52, 0x54, 0, 0, 1, n] };
    let mut frame = [station(to), station(from)].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(64, 0);
    frame
}

/// Batches from one stream to the other, for so long, by a thread on the guests' processor.
fn exchange([from, to]: &mut [UnixStream; 2], seconds: f64) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let generator = scope.spawn(move || -> Result<Vec<f64>> {
            pin(GUESTS)?;
            let one = [64u32.to_be_bytes().as_slice(), &frame(2, 1)].concat();
            let batch = one.repeat(BATCH);
            let mut room = vec![0; 1 << 18];
            let (begin, time) = (cycles(), cycles_of(Duration::from_secs_f64(seconds)));
            let (mut sent, mut came, mut waited, mut rest) = (0, 0, 0, batch.get(..0).unwrap_or_default());
            loop {
                let now = cycles();
                let over = now.wrapping_sub(begin) >= time;
                let mut worked = false;
                if rest.is_empty() && !over && sent - came + batch.len() <= WINDOW * SMALL_FRAME {
                    rest = &batch;
                    sent += batch.len();
                }
                if !rest.is_empty() {
                    match from.write(rest) {
                        Ok(count) => (rest, worked) = (rest.get(count..).unwrap_or_default(), true),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                match to.read(&mut room) {
                    Ok(0) => return Err(Failure::new("the stream is closed")),
                    Ok(count) => (came, worked) = (came + count, true),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
                if !worked {
                    waited += cycles().wrapping_sub(now);
                }
                // What is under way comes too; else the next round would begin with it.
                if over && came >= sent {
                    break;
                }
                if now.wrapping_sub(begin) > time + cycles_of(Duration::from_secs(5)) {
                    return Err(Failure::new(format!("{came} of {sent} octets came")));
                }
            }
            let spent = cycles().wrapping_sub(begin) as f64;
            let rate = (came / SMALL_FRAME) as f64 * per_second() / spent;
            Ok(vec![rate / 1e6, 100.0 * waited as f64 / spent])
        });
        generator.join().unwrap_or_else(|_| Err(Failure::new("the generator panicked")))
    })
}

/// A pair with rings beside 0 and 8 stream ports that do nothing.
fn idle_beside_a_pair(options: &Options) -> Result<Case> {
    let shape = Shape::plain(64);
    let load = Load::new(options, shape);
    let needs = Needs { ports: 2, huge: options.huge, longest: shape.octets, options: &[] };
    let (mut contestants, mut kept) = (Vec::new(), Vec::new());
    let names = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];
    for (name, streams) in [("sv3, 8 streams", names.as_slice()), ("sv3, none", &[])] {
        let mut contestant = Contestant::<Split>::new(Kind::Sv3, needs, |_| options.plan(shape), 0)?;
        if let Some(Switch::Sv3(switch)) = contestant.switch() {
            kept.push(with_streams(switch, streams)?);
        }
        contestant.name = name.to_string();
        contestants.push(contestant);
    }
    let case = case_of("64 B between two guests beside streams that do nothing", throughput::FIGURES);
    compete(options, case, &mut contestants, |guests, _| {
        let (tally, pace) = closed_loop(guests, load, false, Duration::from_secs_f64(options.seconds))?;
        Ok(throughput::figures(tally, pace, shape))
    })
}

/// What happens beside a pair that asks and answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The network behind a tap sends as much as it can to another tap.
    Tap,
    /// A stream sends as much as it can to a stream whose peer does not read.
    Stalled,
}

/// Round trips of a pair of guests alone, beside a tap that is flooded, and beside a stream that stalls.
fn trips_beside(options: &Options) -> Result<Case> {
    let time = Duration::from_secs_f64(options.seconds.max(0.5));
    let all = [
        ("sv3, nothing beside", Beside::Nothing),
        ("sv3, a tap", Beside::Tap),
        ("sv3, a stalled stream", Beside::Stalled),
    ];
    let players = all.map(|(name, beside)| Player::new(name, move || trips(beside, time)));
    by_turns(options, case_of("there and back between two guests", TRIPS), players.into())
}

fn trips(beside: Beside, time: Duration) -> Result<Vec<f64>> {
    let switch = Sv3::start()?;
    let measured = play(&switch, beside, time);
    pin(SWITCH)?;
    let measured = measured?;
    let quantiles = [0.99, 0.5, 0.95, 0.999].map(|share| measured.quantile(share));
    Ok([quantiles.as_slice(), &[measured.count() as f64 / time.as_secs_f64()]].concat())
}

/// On the guests' processor.
fn play(switch: &Sv3, beside: Beside, time: Duration) -> Result<Trips> {
    sv3_tests::pingpong::pin(switch)?;
    let mut pair = PingPong::connect(switch);
    let mut disturb: Box<dyn FnMut()> = match beside {
        Beside::Nothing => Box::new(|| {}),
        Beside::Tap => flooded_tap(switch)?,
        Beside::Stalled => stalled_stream(switch)?,
    };
    pair.play_apart(time / 10, PAUSE, &mut disturb);
    Ok(pair.play_apart(time, PAUSE, &mut disturb))
}

/// Two taps; a turn puts frames for the second into the first as long as there is room.
fn flooded_tap(switch: &Sv3) -> Result<Box<dyn FnMut()>> {
    let networks = [Namespace::new()?, Namespace::new()?];
    for ((network, name), mac) in networks.iter().zip(["up0", "up1"]).zip(["52:54:00:00:01:01", "52:54:00:00:01:02"]) {
        network.make_tap(TAP, mac, "", "")?;
        attach_tap(switch, network, TAP, &attachment(Transport::Tap, name))?;
    }
    let [first, second] = &networks;
    // Both speak, so that the switch knows them.
    let plain = |frame: &[u8]| RawSocket::encode(&Default::default(), frame);
    RawSocket::open(second, TAP)?.send_octets(&plain(&frame(0xff, 2)))?;
    let (socket, small) = (RawSocket::open(first, TAP)?, plain(&frame(2, 1)));
    for _ in 0..2000 {
        socket.send_octets(&small)?;
    }
    Ok(Box::new(move || {
        let _networks = &networks;
        for _ in 0..8 {
            let _ = socket.send_octets(&small);
        }
    }))
}

/// Two streams, of which one does not read; a turn writes as much to the other as there is room for.
fn stalled_stream(switch: &Sv3) -> Result<Box<dyn FnMut()>> {
    let peers = with_streams(switch, &["left", "right"])?;
    let [mut left, mut right] = <[StreamPeer; 2]>::try_from(peers).map_err(|_| Failure::new("two streams"))?;
    right.send(&frame(0xff, 2))?;
    left.receive()?;
    let batch = left.encode(&Default::default(), &frame(2, 1)).repeat(8);
    let mut socket = left.socket().try_clone()?;
    socket.set_nonblocking(true)?;
    let mut at = 0;
    Ok(Box::new(move || {
        let _peers = (&left, &right);
        while let Ok(count) = socket.write(batch.get(at..).unwrap_or_default()) {
            at = (at + count) % batch.len();
        }
    }))
}
