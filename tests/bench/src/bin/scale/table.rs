//! Tables.

use std::fs::File;
use std::io::Write;

use sv3_tests::distance::Distance;
use sv3_tests::failure::Result;

use crate::costs::{Apart, Costs, Point};
use crate::lease::Waiters;
use crate::measure::{Rivals, SEVERAL, Several};
use crate::options::Options;
use crate::sim::{Outcome, Setup, burst_of, run};
use crate::traffic::{Pattern, Traffic};

const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const PORTS: [usize; 6] = [2, 8, 32, 128, 512, 1000];
const PATTERNS: [Pattern; 8] = [
    Pattern::Pairs,
    Pattern::AllToAll(1),
    Pattern::AllToAll(4),
    Pattern::AllToAll(16),
    Pattern::AllToOne,
    Pattern::Uplink(1, false),
    Pattern::Uplink(16, false),
    Pattern::Uplink(16, true),
];

/// What everything costs.
pub fn costs(costs: &Costs, octets: usize) {
    let Costs { burst, receiver, lease, handover, line, pause, look, kernel, .. } = costs;
    println!("Costs in ns");
    println!("  {:7.1}  a frame of {octets} octets, in a burst that has begun", costs.of_frame(octets));
    println!("  {burst:7.0}  a burst with one receiver, beside its frames");
    println!("  {receiver:7.0}  another receiver in a burst");
    println!("  {lease:7.1}  a lease that the thread had last");
    println!("  {:>7}  what a lease costs more that another thread had: {handover}", "");
    println!("  {:>7}  a cache line from processor to processor: {line}", "");
    println!("  {pause:7.0}  between two tries to get a lease");
    println!("  {look:7.1}  a look at a ring that is polled and empty, among 1,000");
    println!("  {kernel:7.0}  a look at the kernel with 1,000 fds in the thread's epoll: once in 50,000 ns");
    println!(
        "  Bursts of {} frames when a thread has one busy ring, {} with two, {} with more.",
        burst_of(octets, 1, 1),
        burst_of(octets, 1, 2),
        burst_of(octets, 1, 3)
    );
}

/// Two threads that want the same lease, in fact and in the simulation.
pub fn rivals(costs: &Costs, measured: &[Rivals]) {
    println!("\nTwo threads that want the same lease, on two processors      measured           simulated");
    println!("  work without it  work with it                           leases/s  refused   leases/s  refused");
    for Rivals { own, held, rate, refused } in measured {
        let frames = burst_of(64, 1, 1);
        let costs = Costs { burst: *own, frame: held / frames, ..*costs };
        let traffic = Traffic { pattern: Pattern::AllToOne, ports: 3 };
        // Both are of one complex in the simulation.
        let costs =
            Costs { handover: Apart { near: costs.handover.far.min(costs.handover.near), ..costs.handover }, ..costs };
        let simulated = run(&costs, Setup { threads: 2, traffic, octets: 64, waiters: Waiters::Expire });
        println!(
            "  {own:12.0} ns  {held:9.0} ns  {:22}  {rate:9.0} {:7.1} %  {:9.0} {:7.1} %",
            "",
            refused * 100.0,
            simulated.rate * 1e6 / frames,
            simulated.refused * 100.0
        );
    }
}

/// Two threads with bursts to several receivers, in fact and in the simulation.
pub fn several_receivers(costs: &Costs, measured: &[Several]) {
    println!("\nTwo threads whose bursts are to several receivers each       measured           simulated");
    println!("  receivers  of a burst  how a waiter counts                leases/s  refused   leases/s  refused");
    for Several { ports, spread, waiters, rate, refused } in measured {
        // A frame for each lease.
        let costs = Costs { burst: SEVERAL.0, receiver: 0.0, frame: SEVERAL.1, ..*costs };
        let traffic = Traffic { pattern: Pattern::Several(*spread), ports: *ports };
        let simulated = run(&costs, Setup { threads: 2, traffic, octets: 64, waiters: *waiters });
        let words = if *waiters == Waiters::Last { "the last one counts" } else { "it expires" };
        println!(
            "  {ports:9}  {spread:10}  {words:<28} {rate:11.0} {:7.1} %  {:9.0} {:7.1} %",
            refused * 100.0,
            simulated.rate * 1e6,
            simulated.refused * 100.0
        );
    }
}

/// What the benchmark has measured beside what the simulation says.
pub fn measured(costs: &Costs, points: &[Point]) {
    println!("\nMeasured by the benchmark, Mframes/s of 64 B among 4 ports   measured           simulated");
    println!("  {:<40} {:>8} {:>9}{:>9} {:>9}{:>9}", "", "distance", "1 thread", "2", "1 thread", "2");
    for one in points.iter().filter(|point| point.threads == 1) {
        let two = points.iter().find(|two| two.threads == 2 && two.load == one.load && two.distance == one.distance);
        let patterns = [Pattern::HalfApart, Pattern::Round, Pattern::AllToOne];
        let words = |pattern: &Pattern| match pattern {
            Pattern::AllToOne => "three to one".to_string(),
            other => other.words(),
        };
        let Some((two, pattern)) = two.zip(patterns.into_iter().find(|pattern| one.load.contains(&words(pattern))))
        else {
            continue;
        };
        let mut handover = costs.handover;
        let at = *handover.at(one.distance);
        let costs = Costs { handover: Apart { near: at, far: at }, ..*costs };
        let simulated = [1, 2].map(|threads| {
            run(&costs, Setup { threads, traffic: Traffic { pattern, ports: 4 }, octets: 64, waiters: Waiters::Expire })
                .rate
        });
        let distance = if one.distance == Distance::Near { "near" } else { "far" };
        println!(
            "  {:<40} {distance:>8} {:9.2}{:7.2} x {:9.2}{:7.2} x   {} rounds",
            words(&pattern),
            one.rate.1,
            two.rate.1 / one.rate.1,
            simulated[0],
            simulated[1] / simulated[0],
            one.rate.0.min(two.rate.0)
        );
    }
}

/// All patterns.
pub fn scale(costs: &Costs, options: &Options) -> Result<()> {
    let mut csv = options.csv.as_ref().map(File::create).transpose()?;
    if let Some(csv) = &mut csv {
        writeln!(csv, "pattern,octets,ports,threads,mframes_per_s,speed_up,waited,refused,moved,slowest_to_mean")?;
    }
    println!(
        "\nFrames of {} octets, all ports busy all the time. With N threads on N processors: the rate in multiples of",
        options.octets
    );
    println!("that of one thread, and the share of the leases asked for that a thread did not get");
    for pattern in PATTERNS {
        print!("\n{}\n  {:>5} {:>9}", pattern.words(), "ports", "1: Mf/s");
        THREADS.iter().skip(1).for_each(|threads| print!(" {threads:>12}"));
        println!("   at 64: Gbit/s, leases moved");
        for ports in PORTS {
            let outcome = |threads| {
                run(
                    costs,
                    Setup {
                        threads,
                        traffic: Traffic { pattern, ports },
                        octets: options.octets,
                        waiters: options.waiters,
                    },
                )
            };
            let outcomes = THREADS.map(outcome);
            let alone = outcomes[0].rate;
            print!("  {ports:>5} {alone:>9.2}");
            for outcome in outcomes.iter().skip(1) {
                print!(" {:>6.1}x {:>3.0}%", outcome.rate / alone, outcome.refused * 100.0);
            }
            let last = outcomes[outcomes.len() - 1];
            println!("   {:>8.0} {:>11.0}%", last.rate * options.octets as f64 * 8.0 / 1e3, last.moved * 100.0);
            for (threads, Outcome { rate, waited, refused, moved, fairness }) in THREADS.iter().zip(outcomes) {
                let Some(csv) = &mut csv else { continue };
                writeln!(
                    csv,
                    "\"{}\",{},{ports},{threads},{rate:.3},{:.3},{waited:.4},{refused:.4},{moved:.4},{fairness:.4}",
                    pattern.words(),
                    options.octets,
                    rate / alone
                )?;
            }
        }
    }
    Ok(())
}
