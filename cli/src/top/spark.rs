//! The last minute as a row of characters.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much time a row shows.
const SHOWN: Duration = Duration::from_secs(60);
/// Most rates that are kept: those of a minute at the shortest interval.
const KEPT: usize = 700;

/// Rates of the last minute.
#[derive(Clone, Debug, Default)]
pub struct Minute {
    /// From when, until when, how much a second; oldest first.
    rates: VecDeque<(Instant, Instant, f64)>,
}

impl Minute {
    /// Adds the rate of a time.
    pub fn add(&mut self, from: Instant, to: Instant, rate: f64) {
        self.rates.push_back((from, to, rate));
        while self.rates.len() > KEPT || self.rates.front().is_some_and(|(_, end, _)| to - *end > SHOWN) {
            self.rates.pop_front();
        }
    }

    /// The minute before `now` in so many characters, the last one at the right. The highest one is the highest rate
    /// in the row; a blank means that nothing is known.
    pub fn row(&self, now: Instant, width: usize, has_utf8: bool) -> String {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let levels = if has_utf8 { BLOCKS } else { ASCII };
        let cells: Vec<Option<f64>> = (0..width).map(|at| self.mean(now, at, width)).collect();
        let most = cells.iter().flatten().fold(0.0, |most: f64, rate| most.max(*rate));
        let level = |rate: f64| {
            // Any rate above 0 differs from 0.
            let step = if rate > 0.0 { (rate / most * 7.0).ceil().clamp(1.0, 7.0) } else { 0.0 };
            levels.get(step as usize).copied().unwrap_or(' ')
        };
        cells.into_iter().map(|cell| cell.map_or(' ', level)).collect()
    }

    /// The mean rate in one of `count` equal parts of the minute before `now`.
    fn mean(&self, now: Instant, part: usize, count: usize) -> Option<f64> {
        let length = SHOWN.as_secs_f64() / count as f64;
        // Seconds before now.
        let (begin, end) =
            (SHOWN.as_secs_f64() - length * part as f64, SHOWN.as_secs_f64() - length * (part + 1) as f64);
        let before = |time: Instant| now.saturating_duration_since(time).as_secs_f64();
        let (mut sum, mut known) = (0.0, 0.0);
        for (from, to, rate) in &self.rates {
            let overlap = before(*from).min(begin) - before(*to).max(end);
            if overlap > 0.0 {
                (sum, known) = (sum + overlap * rate, known + overlap);
            }
        }
        (known > 0.0).then(|| sum / known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(rates: &[f64]) -> (Minute, Instant) {
        let start = Instant::now();
        let mut minute = Minute::default();
        for (at, rate) in rates.iter().enumerate() {
            let from = start + Duration::from_secs(at as u64);
            minute.add(from, from + Duration::from_secs(1), *rate);
        }
        (minute, start + Duration::from_secs(rates.len() as u64))
    }

    #[test]
    fn the_last_minute_ends_at_the_right() {
        let (minute, now) = minute(&[0.0, 0.1, 5.0, 10.0]);
        let row = minute.row(now, 60, true);
        assert_eq!(row, " ".repeat(56) + "▁▂▅█");
        assert_eq!(minute.row(now, 60, false).trim_start(), "_.=#");
        let later = now + Duration::from_secs(58);
        assert_eq!(minute.row(later, 60, false).trim_end(), "=#");
        assert_eq!(minute.row(now, 1, false), "#");
        assert_eq!((minute.row(now, 0, true), Minute::default().row(now, 3, true)), (String::new(), "   ".to_string()));
    }

    #[test]
    fn a_row_of_few_characters_shows_means_and_little_is_kept() {
        let (minute, now) = minute(&[[8.0; 30], [2.0; 30], [4.0; 30]].concat());
        assert_eq!(minute.row(now, 2, false), "=#");
        assert!(minute.rates.len() <= 62, "{}", minute.rates.len());
        let mut many = Minute::default();
        (0..5000).for_each(|_| many.add(now, now, f64::MAX));
        assert_eq!(many.rates.len(), KEPT);
    }
}
