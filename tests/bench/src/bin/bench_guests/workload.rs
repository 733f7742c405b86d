//! What the guests do to each other.

use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::vm::{Job, Vm};

use crate::contender::Pair;
use crate::sample::Sample;

/// A load between the first guest and the second.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// iperf3 over TCP, so many streams from the first to the second.
    Streams(u8),
    /// netperf: one octet there and one back over TCP, again and again.
    TcpRr,
    /// The same over UDP.
    UdpRr,
    /// A ping every 20 ms: what a frame takes when all rest.
    Ping,
}

/// Until programs run and TCP has found its rate.
const SETTLE: Duration = Duration::from_secs(1);
/// Left of a load when the meter is read for the second time.
const REST: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);
const PINGS_PER_SECOND: u32 = 50;
const GIB: f64 = (1_u64 << 30) as f64;

impl Workload {
    /// All, in the order of their doing.
    pub const ALL: [Workload; 5] =
        [Workload::Streams(1), Workload::Streams(4), Workload::TcpRr, Workload::UdpRr, Workload::Ping];

    /// Its name in files.
    pub fn name(self) -> String {
        match self {
            Workload::Streams(streams) => format!("iperf3-{streams}"),
            Workload::TcpRr => "TCP_RR".into(),
            Workload::UdpRr => "UDP_RR".into(),
            Workload::Ping => "ping".into(),
        }
    }

    /// Its name in a table.
    pub fn words(self) -> String {
        match self {
            Workload::Streams(1) => "iperf3, 1 TCP stream".into(),
            Workload::Streams(streams) => format!("iperf3, {streams} TCP streams"),
            Workload::TcpRr => "netperf TCP_RR".into(),
            Workload::UdpRr => "netperf UDP_RR".into(),
            Workload::Ping => format!("ping, {PINGS_PER_SECOND} a second, median round trip"),
        }
    }

    /// What its value counts.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::Streams(_) => "Gbit/s",
            Workload::TcpRr | Workload::UdpRr => "transactions/s",
            Workload::Ping => "us",
        }
    }

    /// Less is better.
    pub fn is_time(self) -> bool {
        self == Workload::Ping
    }

    /// What processor time is spent on: its name, the time's unit, and how many of these are a second.
    pub fn work(self) -> (&'static str, &'static str, f64) {
        match self {
            Workload::Streams(_) => ("GiB", "ms", 1e3),
            Workload::TcpRr | Workload::UdpRr => ("transaction", "us", 1e6),
            Workload::Ping => ("ping", "us", 1e6),
        }
    }

    /// Lets the guests do it.
    pub fn measure(self, pair: &mut Pair, contender: &str, seconds: u32) -> Result<Sample> {
        let address = pair.second.address();
        let job = self.start(&mut pair.first, &address, seconds)?;
        std::thread::sleep(SETTLE);
        let (start, before) = (Instant::now(), pair.meter.read()?);
        std::thread::sleep(Duration::from_secs(seconds.into()).saturating_sub(SETTLE + REST));
        let (used, window) = (pair.meter.read()? - before, start.elapsed().as_secs_f64());
        let (value, resent) = self.finish(&mut pair.first, job, seconds)?;
        let done = window * self.done_in_a_second(value);
        Ok(Sample {
            contender: contender.to_string(),
            workload: self.name(),
            value,
            switch: used.switch / done,
            devices: used.devices / done,
            guests: used.guests / done,
            idle: used.idle / window,
            resent: resent / (self.done_in_a_second(value) * f64::from(seconds)),
        })
    }

    fn start(self, guest: &mut Vm, address: &str, seconds: u32) -> Result<Job> {
        match self {
            Workload::Streams(streams) => guest.start_iperf3(address, seconds, &format!("-P {streams}")),
            Workload::TcpRr | Workload::UdpRr => {
                let test = self.name();
                guest.start(&format!("netperf -H {address} -t {test} -l {seconds} -P 0 -- -k THROUGHPUT"))
            }
            Workload::Ping => {
                let (interval, count) = (1.0 / f64::from(PINGS_PER_SECOND), seconds * PINGS_PER_SECOND);
                guest.start(&format!("ping -i {interval} -W 2 -c {count} {address}"))
            }
        }
    }

    /// The value, and how many segments were sent again.
    fn finish(self, guest: &mut Vm, job: Job, seconds: u32) -> Result<(f64, f64)> {
        if let Workload::Streams(_) = self {
            let stream = guest.finish_iperf3(job, seconds)?;
            return Ok((stream.bits_per_second / 1e9, stream.retransmits as f64));
        }
        let text = guest.finish(job, PATIENCE + Duration::from_secs(seconds.into()))?.ok()?;
        let value = match self {
            Workload::Ping => median_ping(&text),
            _ => text.lines().find_map(|line| line.strip_prefix("THROUGHPUT=")?.trim().parse().ok()),
        };
        value.map(|value| (value, 0.0)).ok_or_else(|| Failure::new(format!("{}: {text}", self.name())))
    }

    fn done_in_a_second(self, value: f64) -> f64 {
        match self {
            Workload::Streams(_) => value * 1e9 / 8.0 / GIB,
            Workload::TcpRr | Workload::UdpRr => value,
            Workload::Ping => PINGS_PER_SECOND.into(),
        }
    }
}

/// Microseconds, of what busybox's `ping` printed.
fn median_ping(text: &str) -> Option<f64> {
    let time = |line: &str| line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok();
    let mut times: Vec<f64> = text.lines().filter_map(time).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).map(|ms| ms * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ping_is_one_that_was_seen() {
        let text = "64 bytes from 10.0.0.2: seq=0 ttl=64 time=9.5 ms\n\
                    64 bytes from 10.0.0.2: seq=1 ttl=64 time=0.500 ms\n\
                    64 bytes from 10.0.0.2: seq=2 ttl=64 time=0.750 ms\n\n3 packets transmitted";
        assert_eq!(median_ping(text), Some(750.0));
        assert_eq!(median_ping("bad address"), None);
    }
}
