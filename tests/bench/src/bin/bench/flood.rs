//! Broadcasts: one guest sends, every other one receives each frame.

use std::time::Duration;

use sv3_tests::failure::{Failure, Result};

use crate::arena::{compete, enter};
use crate::clock::{self, cycles, cycles_of};
use crate::frame::{Shape, Station};
use crate::guest::{BATCH, Guest};
use crate::options::Options;
use crate::report::{Case, Figure};
use crate::ring::Ring;
use crate::stream::{Stations, Stream, Tally, drain};
use crate::switch::Kind;

const FIGURES: &[Figure] = &[
    Figure { name: "Mcopies/s", digits: 2 },
    Figure { name: "Mframes/s sent", digits: 2 },
    Figure { name: "TSC cycles/copy", digits: 0 },
    Figure { name: "lost", digits: 0 },
];
const SETTLE: Duration = Duration::from_millis(100);

/// To 1, 3, 7 and 15 others.
pub fn flood<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let shape = Shape::plain(64);
    let kinds: Vec<Kind> = options.kinds.iter().copied().filter(|kind| kind.is_switch()).collect();
    let mut cases = Vec::new();
    for others in [1, 3, 7, 15] {
        let mut contestants = enter::<R>(&kinds, others + 1, |_| options.plan(shape), 0)?;
        let case = Case {
            scenario: "flood",
            load: format!("{} to {others} others", shape.words()),
            conditions: options.conditions(),
            figures: FIGURES,
            entries: Vec::new(),
        };
        cases.push(compete(options, case, &mut contestants, |guests, _| measure(guests, shape, options))?);
    }
    Ok(cases)
}

fn measure<R: Ring>(guests: &mut [Guest<R>], shape: Shape, options: &Options) -> Result<Vec<f64>> {
    drain(guests);
    let window = options.window(options.plan(shape));
    let [from, others @ ..] = guests else { return Err(Failure::new("no guest floods")) };
    let stations = Stations { ports: (0, 1), count: 1 };
    let mut streams: Vec<Stream> = others.iter().map(|_| Stream::new(from, stations, shape, window)).collect();
    run(from, others, &mut streams, cycles_of(SETTLE));
    streams.iter_mut().for_each(|stream| stream.tally = Tally::default());
    let first = from.tx.put_count();
    let taken = run(from, others, &mut streams, cycles_of(Duration::from_secs_f64(options.seconds)));
    let sent = from.tx.put_count().wrapping_sub(first);
    let tally = streams.iter().fold(Tally::default(), |sum, stream| sum.plus(stream.tally));
    if tally.received == 0 || tally.damaged > 0 {
        return Err(Failure::new(format!("frames did not come as sent: {tally:?}")));
    }
    let seconds = taken as f64 / clock::per_second();
    let copies = tally.received as f64 / seconds;
    Ok(vec![copies / 1e6, f64::from(sent) / seconds / 1e6, clock::per_second() / copies, tally.lost as f64])
}

fn run<R: Ring>(from: &mut Guest<R>, others: &mut [Guest<R>], streams: &mut [Stream], time: u64) -> u64 {
    let sender = Station::new(0, 0);
    let begin = cycles();
    loop {
        if streams.iter().all(Stream::has_room) {
            let sent = from.send(BATCH, |_| (Station::ALL, sender));
            streams.iter_mut().for_each(|stream| stream.sent(sent));
        }
        let now = cycles();
        for (guest, stream) in others.iter_mut().zip(streams.iter_mut()) {
            stream.receive(guest);
            stream.check(now);
        }
        if now.wrapping_sub(begin) >= time {
            return now.wrapping_sub(begin);
        }
    }
}
