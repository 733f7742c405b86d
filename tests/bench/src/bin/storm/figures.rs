//! Many times as three: the median, the 99th of a hundred, the longest.

use std::time::Duration;

use serde_json::{Value, json};

/// Times that were measured.
#[derive(Clone, Default)]
pub struct Times(Vec<Duration>);

/// The head of a table of [`Times::row`]s.
pub const HEAD: &str = "               number     p50     p99     max   (ms)";

impl Times {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// All of another collection too.
    pub fn extend(&mut self, other: &Times) {
        self.0.extend(&other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that a part (0 to 1) of all do not exceed: the nearest of those that were measured, rounded up.
    pub fn at(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() as f64 * part).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// A row of a table.
    pub fn row(&self, name: &str) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| ms(self.at(part)));
        format!("  {name:<11} {:>7} {p50:>7.3} {p99:>7.3} {max:>7.3}", self.count())
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| ms(self.at(part)));
        json!({ "number": self.count(), "p50_ms": p50, "p99_ms": p99, "max_ms": max })
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut times = Times::default();
        assert_eq!(times.at(0.5), Duration::ZERO);
        for ms in (1..=200).rev() {
            times.push(Duration::from_millis(ms));
        }
        assert_eq!([0.5, 0.99, 1.0].map(|part| times.at(part).as_millis()), [100, 198, 200]);
    }
}
