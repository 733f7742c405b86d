//! How long many ports take to attach, and how long a take-over takes with them: `many PORTS DEATHS [OPTIONS OF SV3
//! RUN...]`.
//!
//! The guests are idle, so what is measured is what the switch does for each port that there is.

use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Switch, send};

/// Between a death and the next, and two questions whether there is a standby.
const PAUSE: Duration = Duration::from_millis(400);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (ports, deaths) = (number(0, 500), number(1, 20));
    let options: Vec<&str> = arguments.iter().skip(2).map(String::as_str).collect();
    let switch = Switch::with(&options)?;
    let config = || Guest::config().ring_size(64);

    let begin = Instant::now();
    let guests: Vec<Guest> = (0..ports).map(|_| config().connect(switch.socket())).collect();
    println!("{ports} ports attached after {:?}", begin.elapsed());

    let mut gaps: Vec<u64> = Vec::new();
    let (mut works, mut worker, supervisor) = (Vec::new(), switch.worker_pid()?, switch.supervisor_pid()?);
    for death in 0..deaths {
        // A status with so many ports costs time, so it is asked for seldom.
        let standby = loop {
            std::thread::sleep(PAUSE);
            if let Some(standby) = switch.status()?.worker.standby_pid {
                break standby;
            }
        };
        std::thread::sleep(PAUSE);
        let before = [on_processor(supervisor)?, on_processor(standby)?];
        send(worker, if death % 2 == 0 { "KILL" } else { "SEGV" })?;
        let event = until("the next worker", || {
            let mut events = switch.events()?;
            events.retain(|event| event["event"] == "restart");
            Ok(events.into_iter().nth(death))
        })?;
        works.push((on_processor(supervisor)? - before[0], on_processor(standby)? - before[1]));
        gaps.extend(event["gap_us"].as_u64());
        worker = event["worker_pid"].as_u64().unwrap_or(0) as u32;
    }
    println!("gaps in us: {gaps:?}");
    gaps.sort_unstable();
    println!("least {:?}, median {:?}, most {:?}", gaps.first(), gaps.get(gaps.len() / 2), gaps.last());
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let (supervisor, standby) = works.into_iter().unzip();
    println!("on the processor: supervisor {:?}, standby {:?} (medians)", median(supervisor), median(standby));
    drop(guests);
    Ok(())
}

/// How long a process's first thread was on a processor: what a take-over takes on a machine that does nothing else.
fn on_processor(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(Duration::from_nanos(text.split_whitespace().next().unwrap_or("0").parse()?))
}
