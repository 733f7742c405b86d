//! `scripts/bench`: sv3 beside DPDK's own vhost, the same testpmd in front of either.
//!
//! Frames (of 64 octets, or of the sizes that the arguments name; `--packed`: in packed rings) go one way round: testpmd's port 0 sends them to port 1's address, the switch delivers them, and
//! testpmd sends what port 1 received on port 0 again. So as many frames are under way as the rings hold, the switch
//! knows where they go, and the rate is that of the slower of two processors: switch on one, testpmd on the other.
//! Rounds are told apart by how far the two are, see [`sv3_tests::distance`].

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sv3_tests::distance::{Distance, distance};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::switch::{Switch, activity};
use sv3_tests::testpmd::{Config, Testpmd};

/// Rounds that count, and rounds that are tried.
const ROUNDS: usize = 5;
const MOST_ROUNDS: usize = 15;
const SWITCH_CORE: usize = 0;
const TESTPMD_CORE: usize = 1;
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let sizes: Vec<u32> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let packed = std::env::args().any(|argument| argument == "--packed");
    for size in if sizes.is_empty() { vec![64] } else { sizes } {
        if let Err(failure) = bench(Load { size, packed }) {
            println!("The benchmark could not go on: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What goes round.
#[derive(Clone, Copy)]
struct Load {
    /// Octets of a frame.
    size: u32,
    /// In packed rings.
    packed: bool,
}

/// One measurement.
struct Sample {
    /// Millions of frames a second.
    rate: f64,
    /// How far the two processors were, if they stayed so.
    distance: Option<Distance>,
    /// Processors' time that neither the switch nor testpmd had while it was taken: 1 is one processor.
    disturbance: f64,
}

fn bench(load: Load) -> Result<()> {
    let (mut sv3, mut vhost) = (Vec::new(), Vec::new());
    for round in 1..=MOST_ROUNDS {
        let (ours, theirs) = (measure_sv3(load)?, measure_vhost(load)?);
        eprintln!("round {round}: sv3 {}, net_vhost {}", ours.words(), theirs.words());
        sv3.push(ours);
        vhost.push(theirs);
        let enough = |distance| [&sv3, &vhost].iter().all(|samples| rates(samples, distance).len() >= ROUNDS);
        if enough(Distance::Near) || enough(Distance::Far) {
            break;
        }
    }

    for (distance, words) in [(Distance::Near, "that share a cache"), (Distance::Far, "that share no cache")] {
        let (ours, theirs) = (rates(&sv3, distance), rates(&vhost, distance));
        let rings = if load.packed { "packed" } else { "split" };
        println!("{}-byte frames, {rings} rings, one direction, processors {words}", load.size);
        if ours.is_empty() || theirs.is_empty() {
            println!("  not both were measured: the processors were never so, or did not stay so");
            continue;
        }
        println!("  Mpps                         rounds    min  median     max");
        let (ours, theirs) = (row("sv3", &ours), row("testpmd net_vhost, io mode", &theirs));
        println!("  ratio of the medians                        {:5.2}", ours / theirs);
    }
    let worst = sv3.iter().chain(&vhost).map(|sample| sample.disturbance).fold(0.0, f64::max);
    if worst > 0.05 {
        println!("Worthless: other programs had {:.0} % of a processor. Measure on an idle machine.", worst * 100.0);
    }
    Ok(())
}

impl Sample {
    fn words(&self) -> String {
        let distance = self.distance.map_or("moved".to_string(), |distance| format!("{distance:?}").to_lowercase());
        format!("{:.2} Mpps ({distance})", self.rate)
    }
}

/// The rates at one distance, in order.
fn rates(samples: &[Sample], distance: Distance) -> Vec<f64> {
    let there = samples.iter().filter(|sample| sample.distance == Some(distance));
    let mut rates: Vec<f64> = there.map(|sample| sample.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates
}

fn measure_sv3(load: Load) -> Result<Sample> {
    let switch = Switch::start()?;
    let worker = switch.worker_pid()?;
    let mut core = CpuSet::new();
    core.set(SWITCH_CORE)?;
    sched_setaffinity(Pid::from_raw(i32::try_from(worker)?), &core)?;
    let clients = Config { packed: load.packed, ..config(TESTPMD_CORE) };
    measure(Testpmd::clients([switch.socket(), switch.socket()], clients)?, worker, load.size)
}

fn measure_vhost(load: Load) -> Result<Sample> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("0"), folder.path().join("1"));
    let wire = Testpmd::wire([&first, &second], config(SWITCH_CORE))?;
    let clients = Config { packed: load.packed, ..config(TESTPMD_CORE) };
    measure(Testpmd::clients([&first, &second], clients)?, wire.pid(), load.size)
}

fn config(core: usize) -> Config {
    Config { core, huge_pages: true, ..Config::default() }
}

/// Lets frames go round and counts those that port 1 receives.
fn measure(mut testpmd: Testpmd, switch: u32, size: u32) -> Result<Sample> {
    testpmd.command(&format!("set txpkts {size}"))?;
    // Port 1 sends once, so that its address is learnt, and port 0 takes those frames out of the circle.
    for command in ["set portlist 1", "set fwd txonly", "start", "stop", "set portlist 0", "set fwd rxonly", "start"] {
        testpmd.command(command)?;
    }
    testpmd.await_received(0, 32)?;
    // Port 0 sends until all of port 1's receive buffers are full: these frames go round.
    for command in ["stop", "set fwd txonly", "start"] {
        testpmd.command(command)?;
    }
    std::thread::sleep(SETTLE);
    for command in ["stop", "set portlist 0,1", "set fwd io", "start"] {
        testpmd.command(command)?;
    }
    std::thread::sleep(SETTLE);

    let place = distance(SWITCH_CORE, TESTPMD_CORE)?;
    testpmd.counters(1)?;
    let before = foreign_seconds(&[testpmd.pid(), switch])?;
    std::thread::sleep(MEASURE);
    let after = foreign_seconds(&[testpmd.pid(), switch])?;
    let rate = testpmd.counters(1)?.received_per_second as f64 / 1e6;
    let distance = (distance(SWITCH_CORE, TESTPMD_CORE)? == place).then_some(place);
    Ok(Sample { rate, distance, disturbance: (after - before) / MEASURE.as_secs_f64() })
}

/// Seconds that processors have worked, but not for these processes. Only differences tell something.
fn foreign_seconds(processes: &[u32]) -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    // `cpu`, then ticks in user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks: Vec<f64> = stat.split_whitespace().skip(1).take(8).map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _, _, irq, softirq, steal] = ticks.as_slice() else {
        return Err(Failure::new("/proc/stat is not what it was"));
    };
    let mut foreign = user + nice + system + irq + softirq + steal;
    for process in processes {
        let [.., ticks] = activity(*process)?;
        foreign -= ticks as f64;
    }
    Ok(foreign / 100.0)
}

/// Prints a line of the table; the median.
fn row(name: &str, rates: &[f64]) -> f64 {
    let (min, max) = (rates.first().copied().unwrap_or_default(), rates.last().copied().unwrap_or_default());
    let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
    println!("  {name:<28} {:6} {min:6.2} {median:7.2} {max:7.2}", rates.len());
    median
}
