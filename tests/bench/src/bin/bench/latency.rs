//! How long a frame takes there and back: two guests play ping-pong, alone or beside two others with a load.
//!
//! The one thread of the guests plays, and sends and receives the load between two looks. What that takes is in the
//! figures, the same for every switch. The load is in an open loop: a frame is due each so many cycles.

use std::time::Duration;

use sv3_tests::failure::{Failure, Result};

use crate::arena::{compete, enter};
use crate::clock::{self, cycles, cycles_of};
use crate::frame::Shape;
use crate::guest::{BATCH, Guest};
use crate::options::Options;
use crate::report::{Case, Figure};
use crate::ring::Ring;
use crate::stream::{Stations, drain};
use crate::throughput::{Load, closed_loop, introduce};

const FIGURES: &[Figure] = &[
    Figure { name: "p50 us", digits: 2 },
    Figure { name: "p99 us", digits: 2 },
    Figure { name: "p99.9 us", digits: 2 },
    Figure { name: "max us", digits: 0 },
    Figure { name: "rounds/s", digits: 0 },
    Figure { name: "load Mframes/s", digits: 2 },
    Figure { name: "ring full", digits: 0 },
    Figure { name: "lost", digits: 0 },
];
/// How long a frame is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// The measurement that determines half of the load.
const CAPACITY: Duration = Duration::from_millis(100);

/// What goes on beside the ping-pong.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    /// So many frames a second.
    Rate(f64),
    /// Half of what the switch can do.
    Half,
    /// Nothing, and the players rest for so long each time.
    Rest(Duration),
}

/// At no load, beside 1 Mpps, and beside half of the load.
pub fn under_load<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let beside = [Beside::Nothing, Beside::Rate(1e6), Beside::Half];
    beside.into_iter().map(|beside| case::<R>(options, "latency", beside)).collect()
}

/// After a rest.
pub fn wake_up<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    Ok(vec![case::<R>(options, "wake-up", Beside::Rest(Duration::from_millis(1)))?])
}

fn case<R: Ring + Send>(options: &Options, scenario: &'static str, beside: Beside) -> Result<Case> {
    let shape = Shape::plain(64);
    let ports = if matches!(beside, Beside::Rate(_) | Beside::Half) { 4 } else { 2 };
    let mut contestants = enter::<R>(&options.kinds, ports, |_| options.plan(shape), 0)?;
    let load = format!("{}, {}", shape.words(), beside.words());
    let case = Case { scenario, load, conditions: options.conditions(), figures: FIGURES, entries: Vec::new() };
    let load = Load::new(options, shape);
    compete(options, case, &mut contestants, |guests, _| measure(guests, beside, load, options.seconds))
}

impl Beside {
    fn words(self) -> String {
        match self {
            Beside::Nothing => "nothing else in flight".to_string(),
            Beside::Rate(rate) => format!("beside {} Mframes/s between two others", rate / 1e6),
            Beside::Half => "beside half of what the switch can do between two others".to_string(),
            Beside::Rest(time) => format!("after {time:?} of nothing"),
        }
    }
}

fn measure<R: Ring>(guests: &mut [Guest<R>], beside: Beside, load: Load, seconds: f64) -> Result<Vec<f64>> {
    introduce(guests, load)?;
    let others = Load { pair: (2, 3), ..load };
    let rate = match beside {
        Beside::Nothing | Beside::Rest(_) => 0.0,
        Beside::Rate(rate) => {
            introduce(guests, others)?;
            rate
        }
        Beside::Half => {
            let (tally, pace) = closed_loop(guests, others, false, CAPACITY)?;
            tally.received as f64 * clock::per_second() / pace.cycles as f64 / 2.0
        }
    };
    drain(guests);
    let [a, b, rest @ ..] = guests else { return Err(Failure::new("ping-pong is for two")) };
    let mut traffic = Traffic::new(rest, rate);
    let rest = if let Beside::Rest(time) = beside { cycles_of(time) } else { 0 };
    let mut trips = Trips::play((a, b), &mut traffic, cycles_of(Duration::from_secs_f64(seconds)), rest);
    let came = traffic.received as f64 / seconds / 1e6;
    trips.times.sort_unstable();
    if trips.times.is_empty() {
        return Err(Failure::new("no frame came back"));
    }
    let [half, most, nearly_all, all] = [0.5, 0.99, 0.999, 1.0].map(|share| trips.quantile(share));
    let refused = traffic.refused as f64;
    let lost = trips.lost + traffic.missing();
    Ok(vec![half, most, nearly_all, all, trips.times.len() as f64 / seconds, came, refused, lost as f64])
}

/// Times of round trips, in cycles.
struct Trips {
    times: Vec<u64>,
    lost: u64,
}

impl Trips {
    fn play<R: Ring>(
        (a, b): (&mut Guest<R>, &mut Guest<R>),
        traffic: &mut Traffic<'_, R>,
        time: u64,
        rest: u64,
    ) -> Trips {
        // More than there can be: a switch takes a microsecond at least.
        let most = time as f64 / clock::per_second() * 2e6;
        let mut trips = Trips { times: Vec::with_capacity(most as usize), lost: 0 };
        let begin = cycles();
        while cycles().wrapping_sub(begin) < time && trips.times.len() < trips.times.capacity() {
            let start = cycles();
            let there = hit(a, b, (0, 1), traffic);
            let back = there && hit(b, a, (1, 0), traffic);
            let end = cycles();
            match back {
                true => trips.times.push(end.wrapping_sub(start)),
                false => trips.lost += 1,
            }
            while cycles().wrapping_sub(end) < rest {
                std::hint::spin_loop();
            }
            // Frames that the load has missed meanwhile do not count in this trip.
            traffic.turn();
        }
        trips
    }

    /// In microseconds.
    fn quantile(&self, share: f64) -> f64 {
        let at = (share * (self.times.len() - 1) as f64).round() as usize;
        self.times.get(at).copied().unwrap_or(0) as f64 / clock::per_second() * 1e6
    }
}

/// Sends one frame and waits for it.
#[inline(always)]
fn hit<R: Ring>(from: &mut Guest<R>, to: &mut Guest<R>, ports: (usize, usize), traffic: &mut Traffic<'_, R>) -> bool {
    let number = from.tx.put_count();
    let stations = Stations { ports, count: 1 };
    let sent = cycles();
    if from.send(1, |number| stations.between(number)) == 0 {
        return false;
    }
    let patience = cycles_of(PATIENCE);
    loop {
        let mut came = false;
        to.receive(|_, _, arrival| came |= arrival.number == number);
        if came {
            return true;
        }
        if cycles().wrapping_sub(sent) > patience {
            return false;
        }
        traffic.turn();
    }
}

/// Frames between two others, at a rate.
struct Traffic<'a, R> {
    guests: &'a mut [Guest<R>],
    begin: u64,
    /// Cycles from a frame to the next.
    interval: f64,
    /// Frames that were due, sent, not sent since the ring was full, and received.
    due: u64,
    sent: u64,
    refused: u64,
    received: u64,
}

impl<'a, R: Ring> Traffic<'a, R> {
    /// `rate`: frames a second.
    fn new(guests: &'a mut [Guest<R>], rate: f64) -> Traffic<'a, R> {
        Traffic {
            guests,
            begin: cycles(),
            interval: clock::per_second() / rate,
            due: 0,
            sent: 0,
            refused: 0,
            received: 0,
        }
    }

    /// Sends what is due and receives what is there.
    #[inline(always)]
    fn turn(&mut self) {
        let [from, to] = &mut *self.guests else { return };
        let due = (cycles().wrapping_sub(self.begin) as f64 / self.interval) as u64;
        if due > self.due {
            // More than a batch is due only if this thread did not run, which the switch does not cause.
            let wanted = (due - self.due).min(BATCH.into()) as u32;
            let stations = Stations { ports: (2, 3), count: 1 };
            let sent = from.send(wanted, |number| stations.between(number));
            self.due = due;
            self.sent += u64::from(sent);
            self.refused += u64::from(wanted - sent);
        }
        self.received += u64::from(to.receive(|_, _, _| {}));
    }

    /// Frames that were sent and never came.
    fn missing(&mut self) -> u64 {
        if let [_, to] = &mut *self.guests {
            let silence = cycles_of(PATIENCE / 10);
            let mut came = cycles();
            while cycles().wrapping_sub(came) < silence {
                let more = to.receive(|_, _, _| {});
                if more > 0 {
                    self.received += u64::from(more);
                    came = cycles();
                }
            }
        }
        self.sent.saturating_sub(self.received)
    }
}
