//! Costs in nanoseconds, and their sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sv3_tests::distance::Distance;
use sv3_tests::failure::{Failure, Result};

/// All costs.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A burst that has one receiver, beside its frames.
    pub burst: f64,
    /// Another receiver in a burst.
    pub receiver: f64,
    /// A frame of 64 octets in a long burst.
    pub frame: f64,
    /// Each octet more.
    pub octet: f64,
    /// A lease that the thread had last.
    pub lease: f64,
    /// The extra cost of a lease that another thread had, on a near or a far processor.
    pub handover: Apart,
    /// Half of a cache line's way there and back.
    pub line: Apart,
    /// Between two tries to get a lease.
    pub pause: f64,
    /// A look at a ring that is polled and empty, among a thousand of them.
    pub look: f64,
    /// A question to the kernel whether there are kicks, among a thousand fds.
    pub kernel: f64,
}

/// Something that depends on whether two processors share a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Apart {
    /// They do.
    pub near: f64,
    /// They do not.
    pub far: f64,
}

impl Apart {
    /// At that distance.
    pub fn at(&mut self, distance: Distance) -> &mut f64 {
        match distance {
            Distance::Near => &mut self.near,
            Distance::Far => &mut self.far,
        }
    }
}

impl Costs {
    /// As measured in the run of docs/measured/scaling.md.
    pub const MEASURED: Costs = Costs {
        burst: 450.0,
        receiver: 500.0,
        frame: 110.0,
        octet: 0.025,
        lease: 6.0,
        handover: Apart { near: 130.0, far: 350.0 },
        line: Apart { near: 42.0, far: 195.0 },
        pause: 420.0,
        look: 10.7,
        kernel: 230.0,
    };

    /// A frame of so many octets in a long burst.
    pub fn of_frame(&self, octets: usize) -> f64 {
        self.frame + self.octet * octets.saturating_sub(64) as f64
    }

    /// With what `scripts/bench bursts threads --csv FILE` has found for a burst, a receiver and a frame.
    pub fn with_bench(mut self, csv: &Path, distance: Distance) -> Result<Costs> {
        let rows = rows(csv)?;
        let fit = |octets: &str| {
            let bursts = rows.iter().filter(|row| row.scenario == "bursts" && row.distance == Some(distance));
            let mut by_size: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
            for row in bursts.filter(|row| row.load.starts_with(octets) && row.figure == "Mframes/s") {
                let size = row.switch.rsplit(' ').next().and_then(|size| size.parse().ok());
                by_size.entry(size.unwrap_or(1)).or_default().push(1e3 / row.value);
            }
            let points = by_size.into_iter().map(|(size, times)| (1.0 / f64::from(size), median(times)));
            line(&points.collect::<Vec<_>>())
        };
        let missing = || Failure::new(format!("{} has no `bursts` of 64 B and 1518 B, {distance:?}", csv.display()));
        let (small, burst) = fit("64 B").ok_or_else(missing)?;
        let (large, _) = fit("1518 B").ok_or_else(missing)?;
        (self.burst, self.frame, self.octet) = (burst, small, ((large - small) / (1518.0 - 64.0)).max(0.0));
        Ok(self)
    }
}

/// What the benchmark's scenario `threads` has found: the pattern, how many threads, and Mframes/s.
#[derive(Clone, Debug)]
pub struct Point {
    /// Words of the pattern.
    pub load: String,
    /// Threads.
    pub threads: usize,
    /// How far the processors were apart.
    pub distance: Distance,
    /// Rounds, and the median of their rates in Mframes/s.
    pub rate: (usize, f64),
}

/// The points in a file of `scripts/bench threads --csv FILE` where guests and switch had turns.
pub fn points(csv: &Path) -> Result<Vec<Point>> {
    let mut groups: BTreeMap<(String, usize, Distance), Vec<f64>> = BTreeMap::new();
    for row in rows(csv)? {
        let threads = match row.switch.as_str() {
            "sv3, 1 thread" => 1,
            "sv3, 2 threads" => 2,
            _ => continue,
        };
        let wanted = row.scenario == "threads" && row.figure == "Mframes/s" && row.load.ends_with("in turns");
        if let Some(distance) = row.distance.filter(|_| wanted) {
            groups.entry((row.load, threads, distance)).or_default().push(row.value);
        }
    }
    let point = |((load, threads, distance), rates): ((String, usize, Distance), Vec<f64>)| Point {
        load,
        threads,
        distance,
        rate: (rates.len(), median(rates)),
    };
    Ok(groups.into_iter().map(point).collect())
}

/// A line of the benchmark's file.
struct Row {
    scenario: String,
    load: String,
    switch: String,
    distance: Option<Distance>,
    figure: String,
    value: f64,
}

fn rows(csv: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(csv).map_err(|error| Failure::new(format!("{}: {error}", csv.display())))?;
    let parse = |line: &str| {
        let [scenario, load, _, switch, _, distance, figure, value] = fields(line).try_into().ok()?;
        let distance = match distance.as_str() {
            "near" => Some(Distance::Near),
            "far" => Some(Distance::Far),
            _ => None,
        };
        Some(Row { scenario, load, switch, distance, figure, value: value.parse().ok()? })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// Fields between commas, some of them in quotes; no quotes within quotes.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().into_iter().for_each(|field| field.push(other)),
        }
    }
    fields
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The line through points by least squares: its value at 0 and its slope.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let sum = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
    let (x, y, xx, xy) = (sum(|p| p.0), sum(|p| p.1), sum(|p| p.0 * p.0), sum(|p| p.0 * p.1));
    let width = n * xx - x * x;
    (points.len() > 1 && width > 0.0).then(|| {
        let slope = (n * xy - x * y) / width;
        ((y - slope * x) / n, slope)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_frame_and_of_a_burst_are_told_apart() {
        let points: Vec<_> = [1.0, 2.0, 4.0, 64.0].map(|size| (1.0 / size, 80.0 + 300.0 / size)).into();
        let (frame, burst) = line(&points).unwrap();
        assert!((frame - 80.0).abs() < 1e-6 && (burst - 300.0).abs() < 1e-6);
        assert_eq!(line(&points[..1]), None);
    }

    #[test]
    fn commas_within_quotes_do_not_divide() {
        assert_eq!(fields("\"a, b\",2,near"), ["a, b", "2", "near"]);
    }
}
