//! The cost of guests that do nothing: beside a busy pair, and alone on a switch.

use std::fs;
use std::time::{Duration, Instant};

use sv3_tests::distance::Distance;
use sv3_tests::failure::{Failure, Result};

use crate::arena::{Contestant, compete, enter};
use crate::frame::Shape;
use crate::guest::Plan;
use crate::options::Options;
use crate::report::{Case, Figure, Sample};
use crate::ring::Ring;
use crate::switch::{Kind, Needs, Switch, run_times};
use crate::throughput::{self, Load, closed_loop};

/// More ports than that DPDK of Debian does not have.
const MOST_DPDK: usize = 32;
/// Before one looks, and while one looks.
const SETTLE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(1);

const COSTS: &[Figure] = &[
    Figure { name: "processor %", digits: 2 },
    Figure { name: "resident MiB", digits: 1 },
    Figure { name: "huge pages MiB", digits: 0 },
];

/// Idle ports beside the pair.
const IDLE: [usize; 4] = [0, 1, 16, 128];

/// A pair beside 0, 1, 16 and 128 idle ports: four sv3 by turns, then each number beside the peers that can have as
/// many.
pub fn beside_a_pair<R: Ring + Send>(options: &Options) -> Result<Vec<Case>> {
    let shape = Shape::plain(64);
    let (busy, load) = (options.plan(shape), Load::new(options, shape));
    let plans = move |port| if port < 2 { busy } else { Plan { entries: 64, rx_buffers: 64, huge: false, ..busy } };
    let measure = |words: String, contestants: &mut Vec<Contestant<R>>| {
        let case = Case {
            scenario: "idle-ports",
            load: format!("{} {words}", shape.words()),
            conditions: options.conditions(),
            figures: throughput::FIGURES,
            entries: Vec::new(),
        };
        compete(options, case, contestants, |guests, _| {
            let (tally, pace) = closed_loop(guests, load, false, Duration::from_secs_f64(options.seconds))?;
            Ok(throughput::figures(tally, pace, shape))
        })
    };
    let mut by_turns = Vec::new();
    for idle in IDLE {
        let needs = Needs { ports: idle + 2, huge: options.huge, longest: shape.octets, options: &[] };
        let mut contestant = Contestant::new(Kind::Sv3, needs, plans, 0)?;
        contestant.name = format!("sv3, {idle} idle");
        by_turns.push(contestant);
    }
    let mut cases = vec![measure("beside idle ports".to_string(), &mut by_turns)?];
    drop(by_turns);
    for idle in IDLE {
        let able = |kind: &&Kind| match kind {
            Kind::Sv3 => true,
            Kind::Ovs => idle + 2 <= MOST_DPDK,
            Kind::Vhost => idle + 2 <= MOST_DPDK && idle % 2 == 0,
        };
        let kinds: Vec<Kind> = options.kinds.iter().filter(able).copied().collect();
        if kinds != [Kind::Sv3] {
            let mut contestants = enter::<R>(&kinds, idle + 2, plans, 0)?;
            cases.push(measure(format!("beside {idle} idle ports"), &mut contestants)?);
        }
    }
    Ok(cases)
}

/// Processor and memory of each switch with two guests that do nothing, and of sv3 with 128.
pub fn costs<R: Ring>(options: &Options) -> Result<Vec<Case>> {
    let few = costs_of::<R>(options, &options.kinds, 2)?;
    let many = costs_of::<R>(options, &[Kind::Sv3], 128)?;
    Ok(vec![few, many])
}

fn costs_of<R: Ring>(options: &Options, kinds: &[Kind], ports: usize) -> Result<Case> {
    let mut case = Case {
        scenario: "idle",
        load: format!("{ports} guests that do nothing"),
        conditions: options.conditions(),
        figures: COSTS,
        entries: Vec::new(),
    };
    // The guests' own pages are ordinary, so that huge ones are the switch's.
    let usual = options.plan(Shape::plain(64));
    let plan = Plan { entries: 64, rx_buffers: 64, huge: false, ..usual };
    for kind in kinds {
        let needs = Needs { ports, huge: options.huge, longest: plan.shape.octets, options: &[] };
        let mut contestant = Contestant::<R>::new(*kind, needs, |_| plan, 0)?;
        contestant.run(true)?;
        std::thread::sleep(SETTLE);
        let Some(switch) = contestant.switch() else { continue };
        let samples = (0..options.rounds).map(|_| look(switch)).collect::<Result<_>>()?;
        case.entries.push((contestant.name.clone(), samples));
    }
    print!("{}", case.table());
    Ok(case)
}

/// The distance of processors does not matter to idle guests.
fn look(switch: &Switch) -> Result<Sample> {
    let (begin, before) = (Instant::now(), worked(switch)?);
    std::thread::sleep(LOOK);
    let share = (worked(switch)? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
    let (resident, huge) = memory(switch)?;
    Ok(Sample { figures: vec![100.0 * share, resident, huge], distance: Some(Distance::Near) })
}

/// Time that all threads of a switch have run.
fn worked(switch: &Switch) -> Result<Duration> {
    Ok(run_times(&switch.processes()?)?.into_values().sum())
}

/// MiB of ordinary pages that are not shared memory, as guests' is, and of huge pages.
fn memory(switch: &Switch) -> Result<(f64, f64)> {
    let (mut resident, mut huge) = (0, 0);
    for process in switch.processes()? {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
            value.ok_or_else(|| Failure::new(format!("process {process} shows no {name}")))
        };
        resident += field("RssAnon")? + field("RssFile")?;
        huge += field("HugetlbPages")?;
    }
    Ok((resident as f64 / 1024.0, huge as f64 / 1024.0))
}
