//! Deaths between two guests in software.
//!
//! One thread exchanges frames and does nothing else. Another one kills, and asks the supervisor only when the guests'
//! frames flow again, since each request takes processor time. The gap of a death is the longest time without a frame
//! that overlaps the [`BLINK`] after the kill. A later gap, up to [`SPAN`], is the start of the next standby, for which
//! a small machine takes a processor from the guests or from the worker. The same without a death shows how much of
//! either the machine causes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use sv3_tests::failure::Result;
use sv3_tests::switch::{Switch, fds, private_memory};

use crate::figures::{HEAD, Times};
use crate::traffic::{Counts, Traffic};
use crate::{Manner, Paper, SIGNALS, progress};

/// A gap that begins later than this after the kill is not that of the death: all frames in flight have passed by then.
const BLINK: Duration = Duration::from_millis(1);
/// By then the next standby is up as well.
const SPAN: Duration = Duration::from_millis(50);
/// How long a worker lives before it is killed, so that the supervisor does not see a row of crashes.
const LIFE: Duration = Duration::from_millis(110);
/// Spans without a death.
const CALM: u32 = 100;

/// The results of one storm.
struct Storm {
    by_signal: BTreeMap<&'static str, Times>,
    /// The longest gaps within [`SPAN`] after each death.
    after: Times,
    /// Of moments without a death: as for a death, and as after one.
    calm: [Times; 2],
    /// From when the supervisor knew of a death until the next worker served, by its own count.
    told: Times,
    counts: Counts,
    /// Octets of the supervisor's own memory and its fds, before and after.
    supervisor: [(u64, usize); 2],
}

/// Deaths with a worker on standby and without. False: frames or descriptors were lost, or something leaked.
pub fn storm(paper: &mut Paper, deaths: u32, manner: Manner) -> Result<bool> {
    let mut kept = true;
    for (name, options) in [("with standby", &[][..]), ("without standby", &["--no-standby"])] {
        let storm = strike(options, deaths, manner)?;
        kept &= storm.counts.are_exact() && !storm.leaks();
        storm.print(paper, name);
    }
    Ok(kept)
}

fn strike(options: &[&str], deaths: u32, manner: Manner) -> Result<Storm> {
    let standby = options.is_empty();
    let switch = Switch::with(options)?;
    if manner.pinned {
        pin(switch.supervisor_pid()?)?;
    }
    let traffic = Traffic::start(switch.socket(), manner);
    traffic.await_flow()?;
    let mut storm = Storm {
        by_signal: BTreeMap::new(),
        after: Times::default(),
        calm: Default::default(),
        told: Times::default(),
        counts: Counts::default(),
        supervisor: [(0, 0); 2],
    };
    // Memory that allocators keep after a first death is no leak.
    switch.kill_worker("KILL")?;
    settle(&switch, standby)?;
    let supervisor = switch.supervisor_pid()?;
    let footprint = || Ok::<_, sv3_tests::failure::Failure>((private_memory(supervisor)?, fds(supervisor)?.len()));
    storm.supervisor[0] = footprint()?;
    for _ in 0..CALM {
        std::thread::sleep(SPAN);
        let from = Instant::now();
        std::thread::sleep(SPAN);
        let [calm, calm_after] = &mut storm.calm;
        calm.push(traffic.longest_gap(from, from + BLINK));
        calm_after.push(traffic.longest_gap(from, from + SPAN));
    }
    for (death, signal) in (0..deaths).zip(SIGNALS.into_iter().cycle()) {
        std::thread::sleep(LIFE);
        settle(&switch, standby)?;
        let worker = switch.worker_pid()?;
        std::thread::sleep(Duration::from_millis(5));
        let killed = Instant::now();
        sv3_tests::switch::send(worker, signal)?;
        std::thread::sleep(SPAN);
        traffic.await_flow()?;
        storm.by_signal.entry(signal).or_default().push(traffic.longest_gap(killed, killed + BLINK));
        storm.after.push(traffic.longest_gap(killed, killed + SPAN));
        if death % 100 == 99 {
            progress(&format!("{} of {deaths} deaths", death + 1));
        }
    }
    settle(&switch, standby)?;
    storm.supervisor[1] = footprint()?;
    storm.counts = traffic.finish()?;
    storm.told = told(&switch)?;
    Ok(storm)
}

/// All take-overs, as the switch reports them.
pub fn told(switch: &Switch) -> Result<Times> {
    let mut times = Times::default();
    for event in switch.events()?.iter().filter(|event| event["event"] == "restart") {
        times.push(Duration::from_micros(event["gap_us"].as_u64().unwrap_or_default()));
    }
    Ok(times)
}

/// Keeps a supervisor and its children on the first processor; what the spawner starts stays there as well.
fn pin(supervisor: u32) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
    for pid in children.split_whitespace().chain([supervisor.to_string().as_str()]) {
        sched_setaffinity(Pid::from_raw(pid.parse()?), &cpus)?;
    }
    Ok(())
}

/// Waits until a worker serves, and one is on standby if there is to be one.
fn settle(switch: &Switch, standby: bool) -> Result<()> {
    switch.await_status("a worker and its standby", |status| {
        status.worker.pid.is_some() && (!standby || status.worker.standby_pid.is_some())
    })
}

impl Storm {
    fn leaks(&self) -> bool {
        let [(before, fds_before), (after, fds_after)] = self.supervisor;
        after.saturating_sub(before) > 1 << 20 || fds_after > fds_before
    }

    fn all(&self) -> Times {
        let mut all = Times::default();
        self.by_signal.values().for_each(|times| all.extend(times));
        all
    }

    fn print(&self, paper: &mut Paper, name: &str) {
        let Counts { sent, lost, duplicates, damaged, stuck } = self.counts;
        let [(before, fds_before), (after, fds_after)] = self.supervisor;
        paper.line(&format!("{name}: the gap that guests see"));
        paper.line(HEAD);
        for (signal, times) in &self.by_signal {
            paper.line(&times.row(signal));
        }
        paper.line(&self.all().row("all deaths"));
        paper.line(&self.calm[0].row("no death"));
        paper.line(&self.told.row("take-over"));
        let ms = SPAN.as_millis();
        paper.line(&self.after.row(&format!("{ms} ms after")));
        paper.line(&self.calm[1].row("no death"));
        paper.line(&format!("  frames      {sent} sent, {lost} lost, {damaged} damaged, {duplicates} came twice"));
        paper.line(&format!("  descriptors {stuck} stuck"));
        paper.line(&format!(
            "  supervisor  {} KiB and {fds_before} fds before, {} KiB and {fds_after} fds after",
            before >> 10,
            after >> 10
        ));
        let by_signal = self.by_signal.iter().map(|(signal, times)| (signal.to_string(), times.json()));
        paper.keep(
            &name.replace(' ', "_"),
            json!({
                "gap": self.all().json(),
                "gap_by_signal": by_signal.collect::<serde_json::Map<_, _>>(),
                "no_death": self.calm[0].json(),
                "take_over": self.told.json(),
                "longest_in_50_ms": self.after.json(),
                "no_death_in_50_ms": self.calm[1].json(),
                "frames": { "sent": sent, "lost": lost, "damaged": damaged, "duplicates": duplicates },
                "stuck_descriptors": stuck,
                "supervisor": {
                    "before": { "octets": before, "fds": fds_before },
                    "after": { "octets": after, "fds": fds_after },
                },
            }),
        );
    }
}
