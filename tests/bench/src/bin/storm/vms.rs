//! Deaths between two QEMU guests that ping and stream.
//!
//! Around each death guest 1 pings guest 2 a hundred times a second. The gap that it sees is the longest time between
//! two answers beyond the interval: how long a request waited during the death. Many deaths fall between two requests,
//! and an emulated guest is a noisy clock, so the same is done without a death.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::switch::Switch;
use sv3_tests::vm::{Vm, has_kvm};

use crate::figures::{HEAD, Times};
use crate::{Paper, SIGNALS, progress};

const INTERVAL: Duration = Duration::from_millis(10);
/// Requests around one death, and how long after the first one it comes.
const REQUESTS: u32 = 40;
const AFTER: Duration = Duration::from_millis(200);
/// Seconds of a TCP stream, and between two deaths under it.
const STREAM: u32 = 10;
const STREAM_DEATHS: Duration = Duration::from_millis(500);

/// What the guests saw.
#[derive(Default)]
struct Seen {
    gaps: Vec<(&'static str, Times)>,
    calm: Times,
    /// From when the supervisor knew of a death until the next worker served, by its own count.
    told: Times,
    sent: u32,
    lost: u32,
    /// Bits per second of a TCP stream, without deaths and with.
    streams: [f64; 2],
    stream_deaths: u64,
    /// Of both guests together, before and after.
    carrier_changes: [u32; 2],
}

/// So many deaths by each signal, with a standby and without. False: a guest's link went down.
pub fn storm(paper: &mut Paper, deaths: u32) -> Result<bool> {
    let mut kept = true;
    paper.keep("kvm", json!(has_kvm()));
    for (name, options) in [("with standby", &[][..]), ("without standby", &["--no-standby"])] {
        progress(&format!("{name}: two guests boot"));
        let switch = Switch::with(options)?;
        let (first, second) = (Vm::number(1).start(switch.socket())?, Vm::number(2).start(switch.socket())?);
        let (mut first, mut second) = (first.booted()?, second.booted()?);
        let seen = strike(&switch, &mut first, &mut second, deaths)?;
        kept &= seen.carrier_changes[0] == seen.carrier_changes[1];
        seen.print(paper, name);
    }
    Ok(kept)
}

fn strike(switch: &Switch, first: &mut Vm, second: &mut Vm, deaths: u32) -> Result<Seen> {
    let mut seen = Seen::default();
    second.serve_iperf3()?;
    first.ping(&second.address(), 10)?;
    seen.carrier_changes[0] = first.carrier_changes()? + second.carrier_changes()?;
    seen.streams[0] = first.iperf3(&second.address(), STREAM, "")?.bits_per_second;
    for _ in 0..deaths {
        let (gap, _) = ping_around(first, &second.address(), || Ok(()))?;
        seen.calm.push(gap);
    }
    for signal in SIGNALS {
        let mut times = Times::default();
        for _ in 0..deaths {
            let (gap, lost) = ping_around(first, &second.address(), || switch.kill_worker(signal))?;
            times.push(gap);
            seen.lost += lost;
            seen.sent += REQUESTS;
        }
        progress(&format!("{deaths} deaths by {signal}"));
        seen.gaps.push((signal, times));
    }
    let before = switch.status()?.worker.restarts;
    let stream = first.start_iperf3(&second.address(), STREAM, "")?;
    let end = Instant::now() + Duration::from_secs(STREAM.into());
    for signal in SIGNALS.into_iter().cycle() {
        std::thread::sleep(STREAM_DEATHS);
        if Instant::now() >= end {
            break;
        }
        switch.kill_worker(signal)?;
    }
    seen.streams[1] = first.finish_iperf3(stream, STREAM)?.bits_per_second;
    seen.stream_deaths = switch.status()?.worker.restarts - before;
    seen.told = crate::soft::told(switch)?;
    seen.carrier_changes[1] = first.carrier_changes()? + second.carrier_changes()?;
    Ok(seen)
}

/// Pings, and calls `act` in between; the longest gap beyond the interval, and how many requests were lost.
fn ping_around(from: &mut Vm, address: &str, act: impl FnOnce() -> Result<()>) -> Result<(Duration, u32)> {
    let job = from.start(&format!("ping -i {} -W 2 -c {REQUESTS} {address}", INTERVAL.as_secs_f64()))?;
    std::thread::sleep(AFTER);
    act()?;
    let text = from.finish(job, Duration::from_secs(30))?.text;
    let arrivals = arrivals(&text);
    if arrivals.is_empty() {
        return Err(Failure::new(format!("no ping was answered: {text}")));
    }
    let gaps = arrivals.iter().zip(arrivals.iter().skip(1)).map(|(one, next)| next.saturating_sub(*one));
    Ok((gaps.max().unwrap_or_default().saturating_sub(INTERVAL), REQUESTS.saturating_sub(arrivals.len() as u32)))
}

/// When each answer came, from the first request on: a request's number gives the time when it was sent, and busybox
/// prints how long the answer took.
fn arrivals(text: &str) -> Vec<Duration> {
    let after = |line: &str, label: &str| line.split_once(label)?.1.split(' ').next()?.parse::<f64>().ok();
    let lines = text.lines().filter(|line| line.contains("bytes from") && !line.contains("DUP"));
    let answers = lines.filter_map(|line| Some((after(line, "seq=")? as u32, after(line, "time=")?)));
    answers.map(|(number, ms)| INTERVAL * number + Duration::from_secs_f64(ms / 1000.0)).collect()
}

impl Seen {
    fn print(&self, paper: &mut Paper, name: &str) {
        let mut all = Times::default();
        self.gaps.iter().for_each(|(_, times)| all.extend(times));
        let how = if has_kvm() { "KVM" } else { "emulated" };
        paper.line(&format!("{name}: the gap that ping sees between two QEMU guests ({how})"));
        paper.line(HEAD);
        for (signal, times) in &self.gaps {
            paper.line(&times.row(signal));
        }
        paper.line(&all.row("all deaths"));
        paper.line(&self.calm.row("no death"));
        paper.line(&self.told.row("take-over"));
        let Seen { sent, lost, streams: [calm, storm], stream_deaths, carrier_changes: [before, after], .. } = self;
        let (calm_mbit, storm_mbit) = (calm / 1e6, storm / 1e6);
        paper.line(&format!("  pings lost  {lost} of {sent}"));
        paper.line(&format!(
            "  TCP         {calm_mbit:.0} Mbit/s calm, {storm_mbit:.0} Mbit/s over {stream_deaths} deaths in {STREAM} s"
        ));
        paper.line(&format!("  carrier changes of both guests: {before} before, {after} after"));
        let by_signal: serde_json::Map<String, Value> =
            self.gaps.iter().map(|(signal, times)| (signal.to_string(), times.json())).collect();
        paper.keep(
            &name.replace(' ', "_"),
            json!({
                "gap": all.json(), "gap_by_signal": by_signal, "no_death": self.calm.json(),
                "take_over": self.told.json(),
                "pings": { "sent": sent, "lost": lost },
                "tcp_bits_per_second": { "calm": calm, "storm": storm, "deaths": stream_deaths },
                "carrier_changes": { "before": before, "after": after },
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_came_late_is_a_gap() {
        let text = "PING 10.0.0.2 (10.0.0.2): 56 data bytes\n\
                    64 bytes from 10.0.0.2: seq=0 ttl=64 time=0.500 ms\n\
                    64 bytes from 10.0.0.2: seq=1 ttl=64 time=7.500 ms\n\
                    64 bytes from 10.0.0.2: seq=3 ttl=64 time=0.500 ms\n";
        assert_eq!(arrivals(text).iter().map(Duration::as_micros).collect::<Vec<_>>(), [500, 17_500, 30_500]);
    }
}
