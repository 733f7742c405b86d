//! One thread and two: what a second one adds, and what they cost each other. Guests and switch share all processors.

use std::time::Duration;

use sv3_tests::failure::Result;

use crate::arena::{Contestant, compete};
use crate::clock;
use crate::guest::Guest;
use crate::mesh::{self, GUESTS, Moved, Pattern, at_once, in_turns, introduce};
use crate::options::Options;
use crate::report::{Case, Figure};
use crate::ring::Ring;
use crate::switch::{Kind, Needs};

const FIGURES: &[Figure] = &[
    Figure { name: "Mframes/s", digits: 2 },
    Figure { name: "TSC cycles/frame", digits: 0 },
    Figure { name: "lost", digits: 0 },
];

/// Those that take part. The first one is compared with the others.
const TEAMS: [(&str, &[&str]); 3] = [
    ("sv3, 2 threads", &["--threads", "2", "--cpus", "0,1"]),
    ("sv3, 1 thread", &["--threads", "1", "--cpus", "0"]),
    ("sv3, 1, anywhere", &["--threads", "1", "--cpus", "0,1"]),
];
/// The same that never spin: a thread that has nothing to do leaves its processor to the thread that checks whether all
/// is done.
const SLEEPERS: [(&str, &[&str]); 2] = [
    ("sv3, 2 threads", &["--threads", "2", "--cpus", "0,1", "--poll-us", "0"]),
    ("sv3, 1 thread", &["--threads", "1", "--cpus", "0", "--poll-us", "0"]),
];

/// Entries of rings: the most work that can be prepared at a time. (Split rings; packed ones have fewer.)
const SPLIT_ENTRIES: u16 = 4096;
const PACKED_ENTRIES: u16 = 1024;

/// By pattern: in turns with the guests, and at the same time.
pub fn threads<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let entries = if options.packed { PACKED_ENTRIES } else { SPLIT_ENTRIES };
    let options = Options { entries, ..options.clone() };
    let mut cases = by_pattern::<R>(&options, &SLEEPERS, true)?;
    cases.extend(by_pattern::<R>(&options, &TEAMS, false)?);
    Ok(cases)
}

fn by_pattern<R: Ring + Send>(
    options: &Options,
    teams: &[(&str, &'static [&'static str])],
    turns: bool,
) -> Result<Vec<Case>> {
    let plan = options.plan(mesh::SHAPE);
    let mut contestants = Vec::new();
    for (name, command_line) in teams {
        let needs = Needs { ports: GUESTS, huge: options.huge, longest: plan.shape.octets, options: command_line };
        let mut contestant = Contestant::<R>::new(Kind::Sv3, needs, |_| plan, 0)?;
        contestant.name = name.to_string();
        contestants.push(contestant);
    }
    let how = if turns { "switch and guests in turns" } else { "switch and guests at once" };
    let time = Duration::from_secs_f64(options.seconds);
    let of_pattern = |pattern: Pattern| {
        let case = Case {
            scenario: "threads",
            load: format!("{}, {}, {how}", plan.shape.words(), pattern.words()),
            conditions: options.conditions(),
            figures: FIGURES,
            entries: Vec::new(),
        };
        compete(options, case, &mut contestants, |guests, subject| {
            measure(guests, pattern, time, turns.then_some(subject.processes.as_slice()))
        })
    };
    // Threads that wait for each other do not work at the same time, so the busiest one's time would mislead.
    Pattern::ALL.into_iter().filter(|pattern| !turns || *pattern != Pattern::Merge).map(of_pattern).collect()
}

/// `switch`: its processes if it is to have turns.
fn measure<R: Ring + Send>(
    guests: &mut [Guest<R>],
    pattern: Pattern,
    time: Duration,
    switch: Option<&[u32]>,
) -> Result<Vec<f64>> {
    introduce(guests)?;
    let mut run = |time| match switch {
        Some(switch) => in_turns(guests, pattern, time, switch),
        None => at_once(guests, pattern, time),
    };
    // A first while until all is warm.
    run(time / 10)?;
    let Moved { frames, lost, cycles } = run(time)?;
    let rate = frames as f64 * clock::per_second() / cycles.max(1) as f64;
    Ok(vec![rate / 1e6, clock::per_second() / rate, lost as f64])
}
