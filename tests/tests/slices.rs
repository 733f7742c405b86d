//! On busy processors, threads that guests wait for run first (docs/understand/takeover.md): they have a short slice,
//! unless the user chose a scheduling class. This needs no privilege.

use std::fs;

use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Home, Switch};

/// In nanoseconds (src/timeslice.rs).
const SHORT: u64 = 100_000;
/// `SCHED_OTHER`.
const USUAL: u64 = 0;
/// `SCHED_BATCH`.
const BATCH: u64 = 3;

/// Of each thread of supervisor, worker and standby: scheduling class and slice in nanoseconds.
fn slices(switch: &Switch) -> Result<Vec<(u64, u64)>> {
    let worker =
        until("a worker on standby", || Ok(Some(switch.status()?.worker).filter(|all| all.standby_pid.is_some())))?;
    let mut slices = Vec::new();
    for pid in [Some(switch.supervisor_pid()?), worker.pid, worker.standby_pid].into_iter().flatten() {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("sched"))?;
            let field = |name: &str| {
                let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
                let value = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
                value.ok_or_else(|| Failure::new(format!("no {name} of a thread of {pid}: {text}")))
            };
            slices.push((field("policy")?, field("se.slice")?));
        }
    }
    Ok(slices)
}

/// Older kernels ignore the request.
fn kernel_grants_slices() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(12)))
}

#[test]
fn threads_that_guests_wait_for_have_a_short_slice_even_after_deaths() -> Result<()> {
    if !kernel_grants_slices()? {
        return Ok(());
    }
    let switch = Switch::with(&["--threads", "2"])?;
    let _guest = Guest::connect(switch.socket());
    for death in 0..2 {
        let slices = slices(&switch)?;
        assert!(slices.len() >= 5 && slices.iter().all(|has| *has == (USUAL, SHORT)), "{slices:?}, {death} deaths");
        switch.kill_worker("KILL")?;
    }
    Ok(())
}

#[test]
fn a_scheduling_class_that_the_user_chose_is_kept() -> Result<()> {
    if !kernel_grants_slices()? {
        return Ok(());
    }
    let switch = Home::new()?.start_behind(&["chrt", "--batch", "0"].map(String::from), &[])?;
    let slices = slices(&switch)?;
    assert!(slices.iter().all(|(class, slice)| *class == BATCH && *slice != SHORT), "{slices:?}");
    Ok(())
}
