//! Contestants that are measured by turns and are not the switches of [`crate::arena`].

use std::time::Instant;

use sv3_tests::distance::{Distance, distance};
use sv3_tests::failure::{Failure, Result};

use crate::options::Options;
use crate::place::{GUESTS, SWITCH};
use crate::report::{Case, Sample};

/// Most rounds, for processors whose distance never stays the same.
const MOST_ROUNDS: usize = 2;

/// One of them, and what measures it: the case's figures.
pub struct Player<'a> {
    /// As tables call it; ours begin with `sv3`.
    pub name: &'a str,
    /// One round.
    pub measure: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Player<'a> {
    /// A contestant.
    pub fn new(name: &'a str, measure: impl FnMut() -> Result<Vec<f64>> + 'a) -> Player<'a> {
        Player { name, measure: Box::new(measure) }
    }
}

/// Measures all of them in turn until enough rounds had the processors at the same distance, and prints the table.
pub fn by_turns(options: &Options, mut case: Case, mut players: Vec<Player<'_>>) -> Result<Case> {
    case.entries = players.iter().map(|player| (player.name.to_string(), Vec::new())).collect();
    for round in 0..options.rounds * MOST_ROUNDS {
        // No one is always the first.
        for place in 0..players.len() {
            let at = (place + round) % players.len();
            let (Some(player), Some((name, samples))) = (players.get_mut(at), case.entries.get_mut(at)) else {
                continue;
            };
            let before = distance(SWITCH, GUESTS)?;
            let figures = (player.measure)().map_err(|failure| Failure::new(format!("{name}: {failure}")))?;
            let distance = (distance(SWITCH, GUESTS)? == before).then_some(before);
            samples.push(Sample { figures, distance });
        }
        if [Distance::Near, Distance::Far].into_iter().any(|distance| case.rounds(distance) >= options.rounds) {
            break;
        }
    }
    print!("{}", case.table());
    Ok(case)
}

/// Processor time of processes or threads over a period.
pub struct Effort {
    before: f64,
    begin: Instant,
}

impl Effort {
    /// From now on.
    pub fn of(threads: &[u32]) -> Result<Effort> {
        Ok(Effort { before: ran(threads)?, begin: Instant::now() })
    }

    /// Seconds of processor time since then, and seconds.
    pub fn so_far(&self, threads: &[u32]) -> Result<(f64, f64)> {
        Ok((ran(threads)? - self.before, self.begin.elapsed().as_secs_f64()))
    }
}

/// Seconds that threads have run.
fn ran(threads: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for thread in threads {
        let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
        let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
        sum += nanoseconds / 1e9;
    }
    Ok(sum)
}

/// All threads of processes.
pub fn threads_of(processes: &[u32]) -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for process in processes {
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            threads.push(task?.file_name().to_string_lossy().parse()?);
        }
    }
    Ok(threads)
}
