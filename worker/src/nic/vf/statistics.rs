//! Counters of virtual functions wrap and are not cleared by reading. So the last reading of each is kept in the state,
//! behind the statistics: a worker goes on where another has ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sv3::card::{CardState, STATISTICS, Statistic};

use super::family::Counter;
use crate::nic::bar::Bar;
use crate::nic::fault::Fault;
use crate::nic::statistics::count;
use crate::nic::wait;

/// Where the last readings are in the state's statistics.
const LAST: usize = 48;
const _: () = assert!(Statistic::ALL.len() <= LAST && LAST + 16 <= STATISTICS);

fn cells<'a>(
    counters: &'a [Counter],
    state: &'a CardState,
) -> impl Iterator<Item = (&'a Counter, &'a AtomicU64)> + use<'a> {
    counters.iter().zip(state.statistics.iter().skip(LAST))
}

fn value(bar: &impl Bar, counter: &Counter) -> Result<u64, Fault> {
    let Some(high) = counter.high else {
        return wait::read(bar, counter.at).map(u64::from);
    };
    // The low word may overflow between two readings, but not twice.
    let before = wait::read(bar, high)?;
    let low = bar.read(counter.at);
    let after = wait::read(bar, high)?;
    let low = if before == after { low } else { bar.read(counter.at) };
    Ok(u64::from(after & 0xf) << 32 | u64::from(low))
}

/// What was counted so far is not ours.
pub fn begin(bar: &impl Bar, counters: &[Counter], state: &CardState) -> Result<(), Fault> {
    for (counter, last) in cells(counters, state) {
        last.store(value(bar, counter)?, Relaxed);
    }
    Ok(())
}

/// Adds what was counted since the last reading.
pub fn read(bar: &impl Bar, counters: &[Counter], state: &CardState) -> Result<(), Fault> {
    for (counter, last) in cells(counters, state) {
        let now = value(bar, counter)?;
        let bits = if counter.high.is_some() { 36 } else { 32 };
        let grown = now.wrapping_sub(last.swap(now, Relaxed)) & ((1 << bits) - 1);
        count(state, counter.statistic, grown);
    }
    Ok(())
}
