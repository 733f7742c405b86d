//! What `--poll-us` costs and gives: `polling [MICROSECONDS...]`; without, the bounds of `docs/measured/polling.md`.
//!
//! Two guests ask and answer with pauses of several lengths; round trip, processor time and wake-ups of the worker.
//! Then frames go one way at a steady pace. Needs two idle processors.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::pingpong::{Effort, PingPong, pin, settle};
use sv3_tests::switch::Switch;

const ENDLESS: u32 = 10_000_000;
const BOUNDS: [u32; 6] = [0, 25, 50, 100, 200, ENDLESS];
/// Microseconds.
const PAUSES: [u64; 6] = [0, 20, 40, 100, 1_000, 10_000];
const TIME: Duration = Duration::from_millis(1000);

fn main() -> ExitCode {
    let bounds: Vec<u32> = std::env::args().skip(1).filter_map(|bound| bound.parse().ok()).collect();
    println!("poll us  pause us    trips   p50 us   p99 us    cpu %  sleeps/s");
    for bound in if bounds.is_empty() { BOUNDS.to_vec() } else { bounds } {
        if let Err(failure) = measure(bound) {
            println!("It could not go on: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(bound: u32) -> Result<()> {
    let switch = Switch::with(&["--poll-us", &bound.to_string()])?;
    pin(&switch)?;
    let worker = switch.worker_pid()?;
    let name = if bound == ENDLESS { "endless".to_string() } else { bound.to_string() };
    let mut pair = PingPong::connect(&switch);
    for pause in PAUSES {
        let pause_us = Duration::from_micros(pause);
        settle();
        pair.play(TIME / 10, pause_us, &mut || ());
        let (Effort { percent, sleeps }, trips) = Effort::during(worker, || Ok(pair.play(TIME, pause_us, &mut || ())))?;
        let (p50, p99) = (trips.quantile(0.5), trips.quantile(0.99));
        println!("{name:>7} {pause:9} {:8} {p50:8.1} {p99:8.1} {percent:8.1} {sleeps:9.0}", trips.count());
    }
    drop(pair);
    switch.await_ports(0)?;
    let [mut a, mut b] = [(), ()].map(|()| Guest::connect(switch.socket()));
    b.send(&noise(mac(1), mac(2), 64, 0));
    a.receive();
    let frame = noise(mac(2), mac(1), 64, 0);
    for pace in [50, 100, 1_000, 10_000] {
        settle();
        let (Effort { percent, sleeps }, ()) = Effort::during(worker, || {
            let (start, mut next) = (Instant::now(), Duration::ZERO);
            while start.elapsed() < TIME {
                while start.elapsed() < next {}
                next += Duration::from_micros(pace);
                a.send(&frame);
                while b.try_receive().is_some() {}
            }
            Ok(())
        })?;
        println!("{name:>7} one frame each {pace:5} us              {percent:8.1} {sleeps:9.0}");
    }
    Ok(())
}
