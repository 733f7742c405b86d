//! How many frames a second: one way, both ways, between many addresses.
//!
//! The loop is closed: a batch is sent when fewer frames are in flight than the receiver has buffers. So no frame need
//! be lost, and the rate is that of the slower processor; `waited` says how much of its time the guests' processor had
//! nothing to do.

use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};

use crate::arena::{Contestant, compete, enter};
use crate::clock;
use crate::frame::Shape;
use crate::guest::Guest;
use crate::options::Options;
use crate::report::{Case, Figure};
use crate::ring::Ring;
use crate::stream::{Flow, Pace, Stations, Stream, Tally, drain, flow};
use crate::switch::{Kind, Needs};

/// Before a measurement.
const SETTLE: Duration = Duration::from_millis(100);
/// In which a switch learns the addresses.
const LEARN: Duration = Duration::from_millis(50);
/// Frames of each side that are enough for that.
const HEARD: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// What is measured of a closed loop.
pub const FIGURES: &[Figure] = &[
    Figure { name: "Mframes/s", digits: 2 },
    Figure { name: "Gbit/s", digits: 1 },
    Figure { name: "TSC cycles/frame", digits: 0 },
    Figure { name: "generator waited %", digits: 0 },
    Figure { name: "lost", digits: 0 },
];

/// What a closed loop is made of.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What is sent.
    pub shape: Shape,
    /// Which guests send to which.
    pub pair: (usize, usize),
    /// The second guest sends as well.
    pub both_ways: bool,
    /// Addresses behind either port.
    pub stations: usize,
    /// Most frames under way in a direction.
    pub window: u32,
}

impl Load {
    /// From the first guest to the second, with one address each.
    pub fn new(options: &Options, shape: Shape) -> Load {
        let window = options.window(options.plan(shape));
        Load { shape, pair: (0, 1), both_ways: false, stations: 1, window }
    }
}

/// By size, one way.
pub fn by_size<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let load = |shape| Load::new(options, shape);
    let shapes = options.shapes_or(&Shape::usual());
    shapes.into_iter().map(|shape| case::<R>(options, "throughput", &shape.words(), load(shape))).collect()
}

/// By size, both ways.
pub fn both_ways<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let shapes = options.shapes_or(&[64, 512, 1518].map(Shape::plain));
    let load = |shape| Load { both_ways: true, ..Load::new(options, shape) };
    shapes.into_iter().map(|shape| case::<R>(options, "both-ways", &shape.words(), load(shape))).collect()
}

/// With bursts of at most so many frames: the smaller they are, the more of a frame's cost is the burst's.
pub fn bursts<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    const BURSTS: [(&str, &[&str]); 5] = [
        ("sv3, bursts of 64", &["--batch", "64"]),
        ("sv3, bursts of 16", &["--batch", "16"]),
        ("sv3, bursts of 4", &["--batch", "4"]),
        ("sv3, bursts of 2", &["--batch", "2"]),
        ("sv3, bursts of 1", &["--batch", "1"]),
    ];
    let measured = |shape: Shape| {
        let (plan, load) = (options.plan(shape), Load::new(options, shape));
        let mut contestants = Vec::new();
        for (name, command_line) in BURSTS {
            let needs = Needs { ports: 2, huge: options.huge, longest: shape.octets, options: command_line };
            let mut contestant = Contestant::<R>::new(Kind::Sv3, needs, |_| plan, shape.features())?;
            contestant.name = name.to_string();
            contestants.push(contestant);
        }
        let case = case_of(options, "bursts", shape.words());
        compete(options, case, &mut contestants, |guests, subject| measure(guests, subject.kind, load, options.seconds))
    };
    options.shapes_or(&[64, 1518].map(Shape::plain)).into_iter().map(measured).collect()
}

/// Between many addresses.
pub fn flows<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let shape = Shape::plain(64);
    let load = |stations| Load { stations, ..Load::new(options, shape) };
    let words = |stations: usize| format!("{}, {} addresses behind two ports", shape.words(), 2 * stations);
    [1, 10, 100, 500].into_iter().map(|count| case::<R>(options, "flows", &words(count), load(count))).collect()
}

fn case<R: Ring + Send>(options: &Options, scenario: &'static str, words: &str, load: Load) -> Result<Case> {
    let plan = options.plan(load.shape);
    let kinds: Vec<Kind> = options.kinds.iter().copied().filter(|kind| !load.shape.tso || *kind == Kind::Sv3).collect();
    let mut contestants = enter::<R>(&kinds, 2, |_| plan, load.shape.features())?;
    if !load.both_ways && load.stations == 1 {
        contestants.extend(Contestant::model(plan)?);
    }
    let case = case_of(options, scenario, words.to_string());
    compete(options, case, &mut contestants, |guests, subject| measure(guests, subject.kind, load, options.seconds))
}

fn case_of(options: &Options, scenario: &'static str, load: String) -> Case {
    Case { scenario, load, conditions: options.conditions(), figures: FIGURES, entries: Vec::new() }
}

fn measure<R: Ring>(guests: &mut [Guest<R>], kind: Option<Kind>, load: Load, seconds: f64) -> Result<Vec<f64>> {
    let (tally, pace) = closed_loop(guests, load, kind.is_none(), Duration::from_secs_f64(seconds))?;
    Ok(figures(tally, pace, load.shape))
}

/// The figures of a closed loop.
pub fn figures(tally: Tally, pace: Pace, shape: Shape) -> Vec<f64> {
    let seconds = pace.cycles as f64 / clock::per_second();
    let rate = tally.received as f64 / seconds;
    let bits = rate * shape.octets as f64 * 8.0;
    let share = |part: u64| 100.0 * part as f64 / pace.cycles as f64;
    vec![rate / 1e6, bits / 1e9, clock::per_second() / rate, share(pace.waited), tally.lost as f64]
}

/// Two of the guests exchange frames for a while, once the switch knows them and has warmed up.
pub fn closed_loop<R: Ring>(
    guests: &mut [Guest<R>],
    load: Load,
    one_way: bool,
    time: Duration,
) -> Result<(Tally, Pace)> {
    if one_way {
        drain(guests);
    } else {
        introduce(guests, load)?;
    }
    let mut flows = both(guests, load)?;
    if !load.both_ways {
        flows.truncate(1);
    }
    flow(guests, &mut flows, clock::cycles_of(SETTLE));
    flows.iter_mut().for_each(|flow| flow.stream.tally = Tally::default());
    let pace = flow(guests, &mut flows, clock::cycles_of(time));
    let tally = flows.iter().fold(Tally::default(), |sum, flow| sum.plus(flow.stream.tally));
    let strange = guests.iter().map(Guest::strange).sum::<u64>();
    // Frames that count as lost may come late, when another process had the switch's processor.
    if strange > 0 || tally.damaged > 0 || tally.late > tally.lost {
        return Err(Failure::new(format!("frames did not come as sent: {tally:?}, {strange} buffers out of order")));
    }
    if tally.received == 0 {
        return Err(Failure::new(format!("not one frame came: {tally:?}")));
    }
    Ok((tally, pace))
}

/// Both send until each has received for a while, so that a switch knows the addresses; nothing is in flight
/// afterwards. A switch may lose frames before it is ready.
pub fn introduce<R: Ring>(guests: &mut [Guest<R>], load: Load) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut flows = both(guests, load)?;
        flows.iter_mut().for_each(|flow| flow.stream.patience = clock::cycles_of(LEARN / 10));
        flow(guests, &mut flows, clock::cycles_of(LEARN));
        drain(guests);
        if flows.iter().all(|flow| flow.stream.tally.received > HEARD) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let tallies: Vec<Tally> = flows.iter().map(|flow| flow.stream.tally).collect();
            return Err(Failure::new(format!("the guests do not hear each other: {tallies:?}")));
        }
    }
}

fn both<R: Ring>(guests: &[Guest<R>], load: Load) -> Result<Vec<Flow>> {
    let flow = |from: usize, to: usize| {
        let guest = guests.get(from).ok_or_else(|| Failure::new("a guest is missing"))?;
        let stations = Stations { ports: (from, to), count: load.stations };
        Ok(Flow { from, to, stream: Stream::new(guest, stations, load.shape, load.window) })
    };
    let (a, b) = load.pair;
    [flow(a, b), flow(b, a)].into_iter().collect()
}
