//! Which processors a thread runs on.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Binds this thread, and the threads that it starts later, to these processors. Before confinement.
pub fn bind(cpus: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    let known = cpus.iter().try_for_each(|cpu| set.set(*cpu));
    let bound = known.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|errno| {
        format!(
            "--cpus: cannot run on any of the processors {cpus:?}: {errno}; `taskset -cp $$` tells which may be used"
        )
    })
}
