//! What cards count, in the state that outlives a worker.

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardState, Statistic};

/// Adds to a statistic.
pub fn count(state: &CardState, statistic: Statistic, by: u64) {
    if let Some(cell) = state.statistics.get(statistic as usize) {
        cell.fetch_add(by, Relaxed);
    }
}
