//! Tables for people, lines for programs.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sv3_tests::distance::Distance;
use sv3_tests::failure::Result;

use crate::switch::Kind;

/// A figure that is measured in each round.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is, and its unit.
    pub name: &'static str,
    /// Digits behind the point.
    pub digits: usize,
}

/// What was measured in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// By the case's figures.
    pub figures: Vec<f64>,
    /// The distance of the two processors, if it stayed the same.
    pub distance: Option<Distance>,
}

/// A load, and the results of all switches.
pub struct Case {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// The load within the scenario.
    pub load: String,
    /// The conditions: rings, pages.
    pub conditions: String,
    /// What is measured. The first is what is compared.
    pub figures: &'static [Figure],
    /// The samples of all switches, by round; sv3's first.
    pub entries: Vec<(String, Vec<Sample>)>,
}

impl Case {
    /// The table of the rounds at the distance that most of them had.
    pub fn table(&self) -> String {
        let mut text = format!("\n{} {}, {}", self.scenario, self.load, self.conditions);
        let Some(distance) = self.usual_distance() else {
            return text + "\n  the distance of the processors never stayed the same: nothing to compare\n";
        };
        let near = if distance == Distance::Near { "share a cache" } else { "share no cache" };
        let _ = writeln!(text, "; processors that {near}");
        let Some((first, others)) = self.figures.split_first() else { return text };
        let _ = write!(text, "  {:<22} {:>6} {:>8} {:>8} {:>8}", first.name, "rounds", "min", "median", "max");
        let ours = self.entries.first().filter(|(name, _)| name.starts_with(Kind::Sv3.name()));
        if ours.is_some() {
            let _ = write!(text, " {:>9}", "sv3/this");
        }
        for figure in others {
            let _ = write!(text, "  {}", figure.name);
        }
        let ours = ours.map(|(_, samples)| median(&column(samples, 0, distance)));
        for (name, samples) in &self.entries {
            let values = column(samples, 0, distance);
            let (min, max) = (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
            let (middle, digits) = (median(&values), first.digits);
            let _ = write!(
                text,
                "\n  {name:<22} {:>6} {min:>8.digits$} {middle:>8.digits$} {max:>8.digits$}",
                values.len()
            );
            if let Some(ours) = ours {
                let _ = write!(text, " {:>9.2}", ours / middle);
            }
            for (at, figure) in others.iter().enumerate() {
                let value = median(&column(samples, at + 1, distance));
                let (width, digits) = (figure.name.len(), figure.digits);
                let _ = write!(text, "  {value:>width$.digits$}");
            }
        }
        text + "\n"
    }

    /// The distance at which most rounds were.
    pub fn usual_distance(&self) -> Option<Distance> {
        let count = |distance| {
            let samples = self.entries.iter().flat_map(|(_, samples)| samples);
            samples.filter(|sample| sample.distance == Some(distance)).count()
        };
        let (near, far) = (count(Distance::Near), count(Distance::Far));
        match near + far {
            0 => None,
            _ if near >= far => Some(Distance::Near),
            _ => Some(Distance::Far),
        }
    }

    /// The fewest rounds that any switch has at a distance.
    pub fn rounds(&self, distance: Distance) -> usize {
        let counts = self.entries.iter().map(|(_, samples)| column(samples, 0, distance).len());
        counts.min().unwrap_or(0)
    }

    /// A JSON object for each sample.
    fn lines(&self) -> impl Iterator<Item = Value> {
        self.entries.iter().flat_map(move |(name, samples)| {
            samples.iter().enumerate().map(move |(round, sample)| {
                let names = self.figures.iter().map(|figure| figure.name.to_string());
                let values = sample.figures.iter().map(|value| json!(value));
                let figures = names.zip(values).collect::<serde_json::Map<_, _>>();
                let distance = sample.distance.map(|distance| format!("{distance:?}").to_lowercase());
                json!({
                    "scenario": self.scenario, "load": self.load, "conditions": self.conditions, "switch": name,
                    "round": round + 1, "distance": distance, "figures": figures,
                })
            })
        })
    }
}

/// Writes all samples, one JSON object a line.
pub fn write_json(cases: &[Case], path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for line in cases.iter().flat_map(Case::lines) {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// Writes all samples, one figure a line.
pub fn write_csv(cases: &[Case], path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    writeln!(file, "scenario,load,conditions,switch,round,distance,figure,value")?;
    for line in cases.iter().flat_map(Case::lines) {
        let text = |key: &str| line[key].as_str().unwrap_or("moved").to_string();
        let keys = ["scenario", "load", "conditions", "switch"].map(|key| format!("\"{}\"", text(key))).join(",");
        for (figure, value) in line["figures"].as_object().into_iter().flatten() {
            writeln!(file, "{keys},{},{},\"{figure}\",{value}", line["round"], text("distance"))?;
        }
    }
    Ok(())
}

/// The values of a figure at a distance, in order.
pub fn column(samples: &[Sample], at: usize, distance: Distance) -> Vec<f64> {
    let samples = samples.iter().filter(|sample| sample.distance == Some(distance));
    let mut values: Vec<f64> = samples.filter_map(|sample| sample.figures.get(at).copied()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The one in the middle of values that are in order.
pub fn median(values: &[f64]) -> f64 {
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
