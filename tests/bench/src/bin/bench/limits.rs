//! What two processors can do: the ring model by size, copies without a ring, and a cache line there and back.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::scope;
use std::time::Duration;

use sv3_tests::distance::{distance, round_trip};
use sv3_tests::failure::{Failure, Result};

use crate::arena::{Contestant, compete};
use crate::clock::{self, cycles, cycles_of};
use crate::frame::Shape;
use crate::memory::Memory;
use crate::options::Options;
use crate::place::{GUESTS, SWITCH, pin};
use crate::report::{Case, Figure, Sample};
use crate::ring::Shelf;
use crate::split::Split;
use crate::throughput::{self, Load, closed_loop};

const COPY: &[Figure] = &[Figure { name: "Gbit/s", digits: 1 }, Figure { name: "Mchunks/s", digits: 2 }];
const TRIP: &[Figure] = &[Figure { name: "ns there and back", digits: 0 }];
/// Chunks that are under way at most, each with a buffer of its own on either side.
const CHUNKS: usize = 16;

/// All of them.
pub fn limits(options: &Options) -> Result<Vec<Case>> {
    let shapes = options.shapes_or(&[64, 256, 512, 1518, 9000].map(Shape::plain));
    let mut cases = vec![trip(options)?];
    for shape in shapes.into_iter().filter(|shape| !shape.tso) {
        cases.push(ring(options, shape)?);
    }
    cases.push(ring(options, Shape::large_segment())?);
    for octets in [1518, 64 << 10] {
        cases.push(copies(options, octets)?);
    }
    Ok(cases)
}

fn ring(options: &Options, shape: Shape) -> Result<Case> {
    let model = Contestant::<Split>::model(options.plan(shape))?;
    let case = case(options, format!("{}, one copy from ring to ring", shape.words()), throughput::FIGURES);
    let load = Load::new(options, shape);
    compete(options, case, &mut Vec::from_iter(model), |guests, _| {
        let (tally, pace) = closed_loop(guests, load, true, Duration::from_secs_f64(options.seconds))?;
        Ok(throughput::figures(tally, pace, shape))
    })
}

fn case(options: &Options, load: String, figures: &'static [Figure]) -> Case {
    Case { scenario: "model", load, conditions: options.conditions(), figures, entries: Vec::new() }
}

fn trip(options: &Options) -> Result<Case> {
    let mut samples = Vec::new();
    for _ in 0..options.rounds {
        let nanoseconds = round_trip(SWITCH, GUESTS)?.as_nanos() as f64;
        samples.push(Sample { figures: vec![nanoseconds], distance: Some(distance(SWITCH, GUESTS)?) });
    }
    let mut case = case(options, "a cache line, from one processor to the other".to_string(), TRIP);
    case.entries.push(("cache line".to_string(), samples));
    print!("{}", case.table());
    Ok(case)
}

/// One thread says which chunk is to be copied, the other one copies it: two counters and nothing else.
fn copies(options: &Options, octets: usize) -> Result<Case> {
    let shelf = Shelf { count: CHUNKS, room: octets };
    let memories = [Memory::new(shelf.octets(), options.huge)?, Memory::new(shelf.octets(), options.huge)?];
    let mut samples = Vec::new();
    for _ in 0..options.rounds {
        let before = distance(SWITCH, GUESTS)?;
        let rate = copy(&memories, shelf, cycles_of(Duration::from_secs_f64(options.seconds)))?;
        let distance = (distance(SWITCH, GUESTS)? == before).then_some(before);
        samples.push(Sample { figures: vec![rate * octets as f64 * 8.0 / 1e9, rate / 1e6], distance });
    }
    let mut case = case(options, format!("{octets} B, copied without a ring"), COPY);
    case.entries.push(("plain copy".to_string(), samples));
    print!("{}", case.table());
    Ok(case)
}

fn copy([from, to]: &[Memory; 2], shelf: Shelf, time: u64) -> Result<f64> {
    /// Alone in its cache line and the next.
    #[repr(align(128))]
    struct Counter(AtomicU64);
    const OVER: u64 = u64::MAX;

    let (asked, done) = (&Counter(AtomicU64::new(0)), &Counter(AtomicU64::new(0)));
    scope(|scope| {
        let copies = scope.spawn(move || -> Result<()> {
            pin(SWITCH)?;
            let mut count = 0;
            loop {
                let wanted = asked.0.load(Acquire);
                if wanted == OVER {
                    return Ok(());
                }
                while count < wanted {
                    let at = shelf.at(count as usize);
                    to.copy(at, from, at, shelf.room);
                    count += 1;
                    done.0.store(count, Release);
                }
            }
        });
        let asks = scope.spawn(move || {
            let pinned = pin(GUESTS);
            let (begin, mut wanted) = (cycles(), 0);
            while pinned.is_ok() && cycles().wrapping_sub(begin) < time {
                let count = done.0.load(Acquire);
                if wanted < count + CHUNKS as u64 / 2 {
                    wanted = count + CHUNKS as u64;
                    // The least that a guest does: it writes the begin of frames that it sends and reads that of frames
                    // that came.
                    for at in count..wanted {
                        from.word64(shelf.at(at as usize)).store(at, Relaxed);
                    }
                    asked.0.store(wanted, Release);
                }
            }
            let rate = done.0.load(Acquire) as f64 / (cycles().wrapping_sub(begin) as f64 / clock::per_second());
            asked.0.store(OVER, Release);
            pinned.map(|()| rate)
        });
        let rate = asks.join().unwrap_or_else(|_| Err(Failure::new("the asking thread panicked")));
        copies.join().unwrap_or_else(|_| Err(Failure::new("the copying thread panicked")))?;
        rate
    })
}
