//! `scripts/bench`: sv3 beside DPDK's own vhost, the same testpmd in front of either.
//!
//! 64-byte frames go one way round: testpmd's port 0 sends them to port 1's address, the switch delivers them, and
//! testpmd sends what port 1 received on port 0 again. So as many frames are under way as the rings hold, the switch
//! knows where they go, and the rate is that of the slower of two processors: switch on one, testpmd on the other.

use std::process::ExitCode;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sv3_tests::failure::Result;
use sv3_tests::switch::Switch;
use sv3_tests::testpmd::{Config, Testpmd};

const ROUNDS: usize = 5;
const SWITCH_CORE: usize = 0;
const TESTPMD_CORE: usize = 1;
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("The benchmark could not go on: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let (mut sv3, mut vhost) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        sv3.push(sv3_rate()?);
        vhost.push(vhost_rate()?);
        eprintln!("round {round} of {ROUNDS}: sv3 {:.2} Mpps, net_vhost {:.2} Mpps", last(&sv3), last(&vhost));
    }
    println!("64-byte frames, one direction, Mpps    min  median     max");
    let (ours, theirs) = (row("sv3", sv3), row("testpmd net_vhost, io mode", vhost));
    println!("ratio of the medians                        {:7.2}", ours / theirs);
    Ok(())
}

fn sv3_rate() -> Result<f64> {
    let switch = Switch::start()?;
    let mut core = CpuSet::new();
    core.set(SWITCH_CORE)?;
    sched_setaffinity(Pid::from_raw(i32::try_from(switch.worker_pid()?)?), &core)?;
    rate(Testpmd::clients([switch.socket(), switch.socket()], config(TESTPMD_CORE))?)
}

fn vhost_rate() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (folder.path().join("0"), folder.path().join("1"));
    let _wire = Testpmd::wire([&first, &second], config(SWITCH_CORE))?;
    rate(Testpmd::clients([&first, &second], config(TESTPMD_CORE))?)
}

fn config(core: usize) -> Config {
    Config { core, huge_pages: true, ..Config::default() }
}

/// Millions of frames a second that port 1 receives.
fn rate(mut testpmd: Testpmd) -> Result<f64> {
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
    testpmd.counters(1)?;
    std::thread::sleep(MEASURE);
    Ok(testpmd.counters(1)?.received_per_second as f64 / 1e6)
}

fn last(rates: &[f64]) -> f64 {
    rates.last().copied().unwrap_or_default()
}

/// Prints a line of the table; the median.
fn row(name: &str, mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
    let min = rates.first().copied().unwrap_or_default();
    println!("{name:<36} {min:6.2} {median:7.2} {:7.2}", last(&rates));
    median
}
