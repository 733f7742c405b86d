//! Downtime on sv3 next to the same QEMU on the kernel's bridge and taps, and on Open vSwitch with DPDK.

use std::time::Duration;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::peers::Peer;
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Attachment, Ping};

use super::journey::{Journey, on_taps, traveller_with};

/// Pings a second.
const PING_RATE: u32 = 100;

/// What a contender's migrations cost.
struct Figures {
    name: &'static str,
    /// As QEMU tells it.
    downtimes: Vec<Duration>,
    /// Most pings in a row without an answer, of each migration, in units of 10 ms.
    gaps: Vec<u32>,
}

/// Prints a table. `SV3_MIGRATIONS`: how many at each, 20 by default; `SV3_ROUNDS`: how often all of them are measured, 1 by
/// default.
#[test]
#[ignore = "it measures"]
fn downtime_beside_others() -> Result<()> {
    let number = |name: &str, usual| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual);
    let (count, rounds): (u32, u32) = (number("SV3_MIGRATIONS", 20), number("SV3_ROUNDS", 1));
    let mut table = Vec::new();
    for _ in 0..rounds {
        let switch = Switch::start()?;
        let end = Attachment::VhostUser(switch.socket());
        table.push(measure("sv3", [end; 3], count)?);
        drop(switch);
        table.push(on_taps(|ends| measure("kernel bridge, taps", ends, count))?);
        let ovs = Peer::ovs_dpdk(3)?;
        let [first, second, third] = ovs.sockets() else { return Err(Failure::new("Open vSwitch has no three ports")) };
        let ends = [first, second, third].map(|socket| Attachment::VhostUser(socket));
        table.push(measure("OVS-DPDK", ends, count)?);
    }
    println!("{:20} {:>10} {:>24} {:>24}", "", "migrations", "downtime p50, max [ms]", "no answer p50, max [ms]");
    for figures in &mut table {
        figures.downtimes.sort();
        figures.gaps.sort_unstable();
        let (middle, last) = (figures.downtimes.len() / 2, figures.downtimes.len() - 1);
        println!(
            "{:20} {:>10} {:>15} {:>8} {:>15} {:>8}",
            figures.name,
            figures.downtimes.len(),
            figures.downtimes[middle].as_millis(),
            figures.downtimes[last].as_millis(),
            figures.gaps[middle] * 10,
            figures.gaps[last] * 10,
        );
    }
    Ok(())
}

/// The traveller moves between the last two ends, under TCP both ways and pings.
fn measure(name: &'static str, [neighbour, here, there]: [Attachment; 3], count: u32) -> Result<Figures> {
    let mut journey = Journey::on(traveller_with(""), &neighbour, &here)?;
    let mut figures = Figures { name, downtimes: Vec::new(), gaps: Vec::new() };
    let jobs = journey.talk()?;
    for round in 0..count {
        let to = journey.config.clone().await_guest_on(if round % 2 == 0 { &there } else { &here })?;
        let address = journey.traveller()?.address();
        let seconds = 6;
        let pings = seconds * PING_RATE;
        let job = journey.neighbour.start(&format!("ping -i 0.01 -W 2 -c {pings} {address}"))?;
        let (arrived, moved) = journey.depart()?.migrate(to, || Ok(()))?;
        journey.traveller = Some(arrived);
        let said = journey.neighbour.finish(job, Duration::from_secs(60))?.text;
        let gap = Ping::parse(&said)?.longest_gap;
        println!("{name}: {moved:?}, {gap} pings in a row without an answer");
        figures.downtimes.push(moved.downtime);
        figures.gaps.push(gap);
    }
    journey.assert_whole(jobs)?;
    Ok(figures)
}
