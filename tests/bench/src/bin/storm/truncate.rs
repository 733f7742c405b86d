//! A guest that truncates its memory file and attaches anew, ten times a second, beside two guests that exchange
//! frames.
//!
//! It kills workers until its process, another one of this program, is in quarantine. When the time is over it does so
//! again, and is in quarantine for longer. The rate of the two meanwhile is compared with their rate before.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sv3_tests::failure::Result;
use sv3_tests::guest::Guest;
use sv3_tests::guest::split::Descriptor;
use sv3_tests::switch::Switch;

use crate::traffic::{Counts, Traffic};
use crate::{Manner, Paper};

/// Seconds before the hostile guest attaches.
const CALM: u32 = 10;
/// Time between two attacks.
const PERIOD: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const TX: u16 = 1;

/// The honest guests' rate during a quarantine, as a share of that before.
const PROMISED: f64 = 0.95;

/// One second of the timeline.
#[derive(Clone, Copy, Default)]
struct Second {
    frames: u64,
    attaches: u64,
    crashes: u64,
    blames: u64,
    /// Attaches that met a quarantine, and those that led to one.
    quarantines: u64,
}

/// So many seconds of it. False: in quarantine it costs the others more than promised.
pub fn storm(paper: &mut Paper, seconds: u32) -> Result<bool> {
    let switch = Switch::start()?;
    let traffic = Traffic::start(switch.socket(), Manner::default());
    traffic.await_flow()?;
    let mut calm = 0.0;
    for _ in 0..CALM {
        calm += watch(&switch, &traffic, &mut Vec::new())?.frames as f64 / f64::from(CALM);
    }
    paper.line(&format!("before: {calm:.0} frames/s"));
    paper.line("second  frames/s  of calm  attached  crashes  blamed  hostile guest");
    let hostile = Hostile::start(switch.socket())?;
    let (mut timeline, mut events) = (Vec::new(), switch.events()?);
    for second in 1..=seconds {
        let now = watch(&switch, &traffic, &mut events)?;
        let part = now.frames as f64 / calm;
        paper.line(&format!(
            "{second:>6}  {:>8}  {:>6.0}%  {:>8}  {:>7}  {:>6}  {}",
            now.frames,
            part * 100.0,
            now.attaches,
            now.crashes,
            now.blames,
            now.words()
        ));
        timeline.push(now);
    }
    drop(hostile);
    let restarts = switch.status()?.worker.restarts;
    let counts = traffic.finish()?;
    Ok(conclude(paper, calm, &timeline, (restarts, counts)))
}

/// A second of traffic, and what the switch reports of it. Appends the events.
fn watch(switch: &Switch, traffic: &Traffic, events: &mut Vec<Value>) -> Result<Second> {
    let (start, before) = (Instant::now(), traffic.received());
    std::thread::sleep(SECOND);
    let frames = (traffic.received() - before) as f64 / start.elapsed().as_secs_f64();
    let now = switch.events()?;
    let new = now.get(events.len()..).unwrap_or_default();
    let count = |name: &str| new.iter().filter(|event| event["event"] == name).count() as u64;
    let second = Second {
        frames: frames as u64,
        attaches: count("attach"),
        crashes: count("crash"),
        blames: count("blame"),
        quarantines: count("quarantine"),
    };
    *events = now;
    Ok(second)
}

fn conclude(paper: &mut Paper, calm: f64, timeline: &[Second], (restarts, counts): (u64, Counts)) -> bool {
    let mean = |wanted: &dyn Fn(&Second) -> bool| {
        let chosen: Vec<f64> =
            timeline.iter().filter(|second| wanted(second)).map(|second| second.frames as f64).collect();
        (chosen.len(), chosen.iter().sum::<f64>() / chosen.len().max(1) as f64 / calm)
    };
    let (confined, in_quarantine) = mean(&Second::is_confined);
    let (free, at_large) = mean(&|second| !second.is_confined());
    let (_, overall) = mean(&|_| true);
    let kept = confined > 0 && in_quarantine >= PROMISED && counts.are_exact();
    paper.line(&format!("in quarantine   {:.1}% of calm, in {confined} seconds", in_quarantine * 100.0));
    paper.line(&format!("at large        {:.1}% of calm, in {free} seconds", at_large * 100.0));
    paper.line(&format!("all             {:.1}% of calm; {restarts} workers died", overall * 100.0));
    let Counts { sent, lost, duplicates, damaged, stuck } = counts;
    paper.line(&format!(
        "frames          {sent} sent, {lost} lost, {damaged} damaged, {duplicates} came twice, \
         {stuck} descriptors stuck"
    ));
    paper.keep("calm_frames_per_second", json!(calm));
    let rows = timeline.iter().map(|second| {
        json!({
            "frames": second.frames, "attaches": second.attaches, "crashes": second.crashes, "blames": second.blames,
            "confined": second.is_confined(),
        })
    });
    paper.keep("seconds", rows.collect());
    paper.keep("part_in_quarantine", json!(in_quarantine));
    paper.keep("part_at_large", json!(at_large));
    paper.keep("worker_deaths", json!(restarts));
    paper.keep("frames", json!({ "sent": sent, "lost": lost, "damaged": damaged, "duplicates": duplicates }));
    kept
}

impl Second {
    /// The hostile guest was in quarantine all the time.
    fn is_confined(&self) -> bool {
        self.crashes == 0 && self.attaches > 0 && self.quarantines >= self.attaches
    }

    fn words(&self) -> &'static str {
        match (self.crashes, self.quarantines) {
            (0, _) if self.is_confined() => "in quarantine",
            (0, _) => "",
            (_, 0) => "kills workers",
            _ => "kills workers, and in quarantine",
        }
    }
}

/// The process of the hostile guest; it dies with this one.
struct Hostile(Child);

impl Hostile {
    fn start(socket: &Path) -> Result<Hostile> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe()?).arg("--hostile").arg(socket);
        Ok(Hostile(command.process_group(0).spawn()?))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the hostile process does: by turns it truncates its rings and a frame that it sends.
pub fn attack_without_end(socket: &Path) -> Result<bool> {
    for cut in [0, 1].into_iter().cycle() {
        let start = Instant::now();
        // In quarantine only its requests are served.
        let Ok(mut guest) = Guest::config().rings_at_region_end().ring_size(16).try_connect(socket) else { continue };
        let Some(region) = guest.memory().regions().get(cut) else { continue };
        let addr = region.guest_addr;
        region.truncate(0);
        if let (1, Some(head)) = (cut, guest.take_descriptors(TX, 1).first()) {
            guest.describe(TX, *head, Descriptor { addr, len: 100, flags: 0, next: 0 });
            guest.offer(TX, *head);
        }
        guest.kick(TX);
        std::thread::sleep(PERIOD.saturating_sub(start.elapsed()));
    }
    Ok(true)
}
