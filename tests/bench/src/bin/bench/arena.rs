//! Which switches are compared: each gets the same guests and the same load, round by round.
//!
//! All switches run through all rounds, each with its own guests attached. Those that spin are stopped while others
//! have their turn. A switch is on one processor and the guests' one thread is on the other.

use std::fs;
use std::thread::scope;
use std::time::Instant;

use sv3_tests::distance::{Distance, distance};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::feature::RING_PACKED;
use sv3_tests::switch::activity;

use crate::guest::{Guest, Plan};
use crate::model::Model;
use crate::options::Options;
use crate::place::{GUESTS, SWITCH, pin};
use crate::report::{Case, Sample};
use crate::ring::Ring;
use crate::switch::{Kind, Needs, Switch};

/// Most rounds, for processors whose distance never stays the same.
const MOST_ROUNDS: usize = 3;

/// An Open vSwitch sometimes refuses a client when it is new; another one does not.
pub const ATTEMPTS: usize = 3;

/// Share of a processor that other programs may have.
const MOST_FOREIGN: f64 = 0.05;

/// A switch, or what stands for one, with its guests.
pub struct Contestant<R> {
    /// As tables call it.
    pub name: String,
    /// The switch; none: the model.
    pub kind: Option<Kind>,
    /// Its guests.
    pub guests: Vec<Guest<R>>,
    engine: Engine,
    /// It has failed, and is not measured any more.
    out: bool,
}

/// What a measurement knows of the switch that it measures.
pub struct Subject {
    /// As tables call it.
    pub name: String,
    /// The switch; none: the model.
    pub kind: Option<Kind>,
    /// Its processes.
    pub processes: Vec<u32>,
}

enum Engine {
    Switch(Box<Switch>),
    Model(Model),
}

impl<R: Ring> Contestant<R> {
    /// Starts a switch, and attaches as many guests as it needs.
    pub fn new(kind: Kind, needs: Needs, plan: impl Fn(usize) -> Plan, features: u64) -> Result<Contestant<R>> {
        Contestant::attach(kind, Switch::start(kind, needs)?, needs.ports, plan, features)
    }

    /// Attaches so many guests to a switch.
    pub fn attach(
        kind: Kind,
        switch: Switch,
        ports: usize,
        plan: impl Fn(usize) -> Plan,
        features: u64,
    ) -> Result<Contestant<R>> {
        let mut guests = Vec::new();
        for at in 0..ports {
            let mut guest = Guest::new(plan(at))?;
            guest.connect(&switch.socket(at)?, features)?;
            guests.push(guest);
        }
        let mut contestant = Contestant {
            name: kind.name().to_string(),
            kind: Some(kind),
            guests,
            engine: Engine::Switch(Box::new(switch)),
            out: false,
        };
        contestant.run(false)?;
        Ok(contestant)
    }

    /// Lets it run, or stops it.
    pub fn run(&mut self, on: bool) -> Result<()> {
        match &self.engine {
            Engine::Switch(switch) => switch.run(on),
            Engine::Model(model) => model.run(on),
        }
    }

    /// Seconds that processors have worked, but not for the switch or for this process. Only differences have a
    /// meaning.
    fn foreign_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string("/proc/stat")?;
        // `cpu`, then ticks in user, nice, system, idle, iowait, irq, softirq, steal.
        let ticks: Vec<f64> = stat.split_whitespace().skip(1).take(8).map_while(|field| field.parse().ok()).collect();
        let &[user, nice, system, _, _, irq, softirq, steal] = ticks.as_slice() else {
            return Err(Failure::new("/proc/stat is not what it was"));
        };
        let mut foreign = user + nice + system + irq + softirq + steal;
        for process in self.subject()?.processes.into_iter().chain([std::process::id()]) {
            let [.., ticks] = activity(process)?;
            foreign -= ticks as f64;
        }
        Ok(foreign / 100.0)
    }

    fn subject(&self) -> Result<Subject> {
        let processes = self.switch().map_or(Ok(Vec::new()), Switch::processes)?;
        Ok(Subject { name: self.name.clone(), kind: self.kind, processes })
    }

    /// The switch.
    pub fn switch(&self) -> Option<&Switch> {
        match &self.engine {
            Engine::Switch(switch) => Some(switch),
            Engine::Model(_) => None,
        }
    }
}

impl<R: Ring> Contestant<R> {
    /// Two guests and the model between them, one way; the model knows no packed rings.
    pub fn model(plan: Plan) -> Result<Option<Contestant<R>>> {
        if R::FEATURES & RING_PACKED != 0 {
            return Ok(None);
        }
        // One buffer for a frame, since the model merges none.
        let rx_buffer = plan.rx_buffer.max(plan.shape.total().next_multiple_of(64));
        let plan = Plan { rx_buffer, rx_buffers: plan.shape.buffers(plan.entries), ..plan };
        let (a, b) = (Guest::new(plan)?, Guest::new(plan)?);
        let engine = Engine::Model(Model::new((&a.memory, *R::place(&a.tx)), (&b.memory, *R::place(&b.rx)), SWITCH)?);
        let mut contestant =
            Contestant { name: "ring model".to_string(), kind: None, guests: vec![a, b], engine, out: false };
        contestant.run(false)?;
        Ok(Some(contestant))
    }
}

/// Starts all switches that are wanted and can do it, with so many guests, each by its plan; says of the others why
/// not.
pub fn enter<R: Ring>(
    kinds: &[Kind],
    ports: usize,
    plan: impl Fn(usize) -> Plan + Copy,
    features: u64,
) -> Result<Vec<Contestant<R>>> {
    let mut contestants = Vec::new();
    let needs = Needs { ports, huge: plan(0).huge, longest: plan(0).shape.octets, options: &[] };
    for kind in kinds {
        let mut attempt = Contestant::new(*kind, needs, plan, features);
        for _ in 1..ATTEMPTS {
            if attempt.is_err() && *kind == Kind::Ovs {
                attempt = Contestant::new(*kind, needs, plan, features);
            }
        }
        match attempt {
            Ok(contestant) => contestants.push(contestant),
            Err(failure) if *kind != Kind::Sv3 => eprintln!("{} does not take part: {failure}", kind.name()),
            Err(failure) => return Err(failure),
        }
    }
    Ok(contestants)
}

/// Measures all switches in turn until enough rounds had the processors at the same distance. The measurement has the
/// guests' processor for itself, and knows which switch it measures.
pub fn compete<R: Ring + Send>(
    options: &Options,
    mut case: Case,
    contestants: &mut Vec<Contestant<R>>,
    measure: impl Fn(&mut [Guest<R>], &Subject) -> Result<Vec<f64>> + Sync,
) -> Result<Case> {
    case.entries = contestants.iter().map(|contestant| (contestant.name.clone(), Vec::new())).collect();
    let (mut foreign, begin) = (0.0, Instant::now());
    for _ in 0..options.rounds * MOST_ROUNDS {
        for (contestant, (name, samples)) in contestants.iter_mut().zip(&mut case.entries) {
            let before = distance(SWITCH, GUESTS)?;
            let worked = contestant.foreign_seconds()?;
            contestant.run(true)?;
            let subject = contestant.subject()?;
            let (kind, guests) = (contestant.kind, &mut contestant.guests);
            let figures = scope(|scope| {
                let measured = scope.spawn(|| pin(GUESTS).and_then(|()| measure(guests, &subject)));
                measured.join().unwrap_or_else(|_| Err(Failure::new("the generator panicked")))
            });
            contestant.run(false)?;
            foreign += contestant.foreign_seconds()? - worked;
            let distance = (distance(SWITCH, GUESTS)? == before).then_some(before);
            match figures {
                Ok(figures) => samples.push(Sample { figures, distance }),
                Err(failure) if kind == Some(Kind::Sv3) => return Err(Failure::new(format!("{name}: {failure}"))),
                Err(failure) => {
                    eprintln!("{} {}: {name} is out: {failure}", case.scenario, case.load);
                    contestant.out = true;
                }
            }
        }
        let mut out = contestants.iter().map(|contestant| contestant.out);
        case.entries.retain(|_| !out.next().unwrap_or(false));
        contestants.retain(|contestant| !contestant.out);
        if [Distance::Near, Distance::Far].into_iter().any(|distance| case.rounds(distance) >= options.rounds) {
            break;
        }
    }
    print!("{}", case.table());
    let share = foreign / begin.elapsed().as_secs_f64();
    if share > MOST_FOREIGN {
        println!("  Worthless: other programs had {:.0} % of a processor. Measure on an idle machine.", share * 100.0);
    }
    Ok(case)
}
