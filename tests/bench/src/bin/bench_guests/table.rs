//! The samples as a table for people and as JSON for programs.

use serde_json::{Value, json};
use sv3_tests::vm::has_kvm;

use crate::bridge::has_vhost_net;
use crate::contender::Contender;
use crate::sample::Sample;
use crate::workload::Workload;

/// The samples of one switch under one workload, put together.
struct Row {
    contender: Contender,
    rounds: usize,
    min: f64,
    median: f64,
    max: f64,
    /// Medians of the processor time for a piece of work, in the workload's unit.
    switch: f64,
    devices: f64,
    guests: f64,
    /// Median of the processors that had nothing to do.
    idle: f64,
    /// Median of the TCP segments that were sent again for each GiB.
    resent: f64,
    /// How many times better sv3's median is than this one.
    behind: Option<f64>,
}

/// Tables, one a workload, and what they do not tell.
pub fn text(samples: &[Sample]) -> String {
    let mut text = String::new();
    for workload in Workload::ALL {
        let rows = rows(samples, workload);
        if rows.is_empty() {
            continue;
        }
        let (work, unit, _) = workload.work();
        let title = format!("{}, {}", workload.words(), workload.unit());
        text += &format!("{title:<66}|  {unit} of processor for a {work}\n");
        text += "  switch                    rounds      min   median      max  sv3/it  ";
        text += "|  switch devices  guests  idle resent\n";
        rows.iter().for_each(|row| text += &row.line());
        text += "\n";
    }
    text + &remarks()
}

/// One object: what it was measured with, and a list of rows.
pub fn json(samples: &[Sample]) -> Value {
    let rows = |workload: Workload| rows(samples, workload).into_iter().map(move |row| row.json(workload));
    json!({
        "accelerator": accelerator(),
        "vhost_net": has_vhost_net(),
        "processors": processors(),
        "results": Workload::ALL.into_iter().flat_map(rows).collect::<Vec<_>>(),
    })
}

fn rows(samples: &[Sample], workload: Workload) -> Vec<Row> {
    let of_workload: Vec<&Sample> = samples.iter().filter(|sample| sample.workload == workload.name()).collect();
    let row = |contender| Row::of(&of_workload, contender, workload);
    let mut rows: Vec<Row> = Contender::ALL.into_iter().filter_map(row).collect();
    let ours = rows.iter().find(|row| row.contender == Contender::Sv3).map(|row| row.median);
    for row in &mut rows {
        row.behind = ours.map(|ours| if workload.is_time() { row.median / ours } else { ours / row.median });
    }
    rows
}

impl Row {
    fn of(samples: &[&Sample], contender: Contender, workload: Workload) -> Option<Row> {
        let samples: Vec<&Sample> =
            samples.iter().copied().filter(|sample| sample.contender == contender.name()).collect();
        let sorted = |field: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(|sample| field(sample)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |field| sorted(field).get(samples.len() / 2).copied();
        let (values, (_, _, scale)) = (sorted(|sample| sample.value), workload.work());
        Some(Row {
            contender,
            rounds: values.len(),
            min: *values.first()?,
            median: median(|sample| sample.value)?,
            max: *values.last()?,
            switch: median(|sample| sample.switch)? * scale,
            devices: median(|sample| sample.devices)? * scale,
            guests: median(|sample| sample.guests)? * scale,
            idle: median(|sample| sample.idle)?,
            resent: median(|sample| sample.resent)?,
            behind: None,
        })
    }

    fn line(&self) -> String {
        let Row { rounds, min, median, max, switch, devices, guests, idle, resent, .. } = self;
        // Rates of some Gbit/s want a fraction, thousands of transactions do not.
        let digits = if *median < 100.0 { 2 } else { 0 };
        let behind = self.behind.map_or(String::new(), |behind| format!("{behind:.2}"));
        let switch = if self.contender == Contender::Bridge { "-".into() } else { format!("{switch:.1}") };
        format!(
            "  {:<25} {rounds:>6} {min:>8.digits$} {median:>8.digits$} {max:>8.digits$} {behind:>7}  \
             | {switch:>7} {devices:>7.1} {guests:>7.1} {idle:>5.2} {resent:>6.0}\n",
            self.contender.words()
        )
    }

    fn json(&self, workload: Workload) -> Value {
        let (work, unit, _) = workload.work();
        json!({
            "workload": workload.name(), "unit": workload.unit(), "switch": self.contender.name(),
            "rounds": self.rounds,
            "min": self.min, "median": self.median, "max": self.max, "sv3_is_better_by": self.behind,
            "processor_time": {
                "unit": format!("{unit}/{work}"), "switch": self.switch, "devices": self.devices, "guests": self.guests,
            },
            "idle_processors": self.idle, "resent_segments_per_gib": self.resent,
        })
    }
}

fn remarks() -> String {
    let mut text = String::from(
        "sv3/it: how many times better sv3 is by the medians. Processor time: of the switch's processes, of QEMU's\n\
         device threads (the kernel's bridge works in them), of the guests' own processors; idle: processors without\n\
         work; resent: TCP segments for a GiB that were sent again.\n",
    );
    if !has_kvm() {
        text += &format!(
            "Emulated guests (TCG) on {} processors: where idle is near 0, the rate is what emulation leaves, and\n\
             switches that cost nothing at all would not reach much more; the processor time beside it is what they\n\
             cost.\n",
            processors()
        );
    }
    text
}

fn accelerator() -> &'static str {
    if has_kvm() { "kvm" } else { "tcg" }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
