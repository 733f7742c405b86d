//! `scripts/storm`: the worker dies a thousand times under traffic, by every signal, and the gap that guests see is
//! measured: the longest time without a frame around each death, between two guests that exchange frames without pause.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sv3_tests::failure::{Failure, Result};
use sv3_tests::frames::{BROADCAST, frame, mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::switch::{Switch, fds, private_memory};

const SIGNALS: [&str; 6] = ["KILL", "SEGV", "BUS", "ABRT", "STOP", "SYS"];
/// How long a worker lives before it is killed, lest the supervisor take it for a row of crashes.
const LIFE: Duration = Duration::from_millis(110);

fn main() -> ExitCode {
    let deaths = std::env::args().nth(1).and_then(|number| number.parse().ok()).unwrap_or(1000);
    for options in [&[][..], &["--no-standby"]] {
        if let Err(failure) = storm(options, deaths) {
            println!("The storm could not go on: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn storm(options: &[&str], deaths: u32) -> Result<()> {
    let standby = options.is_empty();
    let switch = Switch::with(options)?;
    let mut traffic = Traffic::start(&switch);
    traffic.run_for(Duration::from_secs(1));
    let calm = traffic.longest();
    let supervisor = switch.supervisor_pid()?;
    let before = (private_memory(supervisor)?, fds(supervisor)?.len());
    let mut gaps = Vec::new();
    for death in 0..deaths {
        traffic.run_for(LIFE);
        if standby {
            traffic.run_until(|| Ok(switch.status()?.worker.standby_pid.is_some()))?;
        }
        traffic.longest();
        let shot = switch.shoot_worker(SIGNALS[death as usize % SIGNALS.len()])?;
        let restarted = || Ok(switch.status()?.worker.restarts > u64::from(death));
        traffic.run_until(restarted)?;
        gaps.push(traffic.longest());
        if death % 100 == 99 {
            eprintln!("{} of {deaths} deaths, the last worker was {}", death + 1, shot.pid);
        }
    }
    let (sent, received) = traffic.finish();
    let after = (private_memory(supervisor)?, fds(supervisor)?.len());
    gaps.sort();
    let at = |part: f64| gaps.get((gaps.len() as f64 * part) as usize).or(gaps.last()).copied().unwrap_or_default();
    let ms = |gap: Duration| gap.as_secs_f64() * 1000.0;
    println!("{}", if standby { "with standby" } else { "without standby" });
    println!("  deaths {deaths}, by {}", SIGNALS.join(" "));
    println!("  gap ms        p50 {:.3}  p99 {:.3}  max {:.3}", ms(at(0.5)), ms(at(0.99)), ms(at(1.0)));
    println!("  calm, longest gap in a second  {:.3} ms", ms(calm));
    println!("  frames        {sent} sent, {received} received, stuck descriptors 0");
    println!(
        "  supervisor    {} KiB and {} fds before, {} KiB and {} fds after",
        before.0 >> 10,
        before.1,
        after.0 >> 10,
        after.1
    );
    if received < sent {
        return Err(Failure::new(format!("{} frames were lost", sent - received)));
    }
    Ok(())
}

/// Two guests; one sends a frame as soon as the other has received the last one.
struct Traffic {
    from: Guest,
    to: Guest,
    text: Vec<u8>,
    sent: u64,
    received: u64,
    last: Instant,
    longest: Duration,
}

impl Traffic {
    fn start(switch: &Switch) -> Traffic {
        let mut from = Guest::connect(switch.socket());
        let mut to = Guest::connect(switch.socket());
        to.send(&frame(BROADCAST, mac(2), b"hello"));
        from.receive();
        to.await_sent();
        let text = noise(mac(2), mac(1), 200, 0);
        let mut traffic =
            Traffic { from, to, text, sent: 0, received: 0, last: Instant::now(), longest: Duration::ZERO };
        traffic.send();
        traffic
    }

    fn send(&mut self) {
        self.from.send(&self.text);
        self.sent += 1;
    }

    /// Receives what is there; answers each new frame by the next one. A frame that came twice is not answered twice.
    fn turn(&mut self) {
        while self.to.try_receive().is_some() {
            let now = Instant::now();
            self.longest = self.longest.max(now - self.last);
            self.last = now;
            self.received += 1;
            if self.received >= self.sent {
                self.received = self.sent;
                self.send();
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn();
        }
    }

    /// Runs until something is so, which is asked now and then, and a little longer.
    fn run_until(&mut self, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done()? {
            self.run_for(Duration::from_millis(5));
            if Instant::now() > deadline {
                return Err(Failure::new("it did not come in 10 s".to_string()));
            }
        }
        self.run_for(Duration::from_millis(2));
        Ok(())
    }

    /// The longest time between two frames since this was asked last; the time since the last frame counts.
    fn longest(&mut self) -> Duration {
        self.longest = self.longest.max(self.last.elapsed());
        std::mem::take(&mut self.longest)
    }

    /// Waits for the last frame and for every descriptor; frames sent and received.
    fn finish(mut self) -> (u64, u64) {
        while self.received < self.sent && self.to.receive_within(Duration::from_secs(5)).is_some() {
            self.received += 1;
        }
        self.from.await_sent();
        (self.sent, self.received)
    }
}
