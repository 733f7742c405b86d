//! A switch with silent guests takes no processor time and little memory.

use std::time::{Duration, Instant};

use sv3_tests::failure::Result;
use sv3_tests::frames::{mac, noise};
use sv3_tests::guest::Guest;
use sv3_tests::patience::until;
use sv3_tests::switch::{Switch, activity, rss};

/// For how long nothing may happen.
const QUIET: Duration = Duration::from_secs(2);
/// After so long without traffic, earlier work is over, such as the supervisor's watch over an awake worker.
const SETTLED: Duration = Duration::from_millis(700);
/// Octets of memory of a guest.
const GUEST: u64 = 512 << 20;
/// Octets of memory that a process may have in use.
const LIMIT: u64 = 8 << 20;

fn with_two_guests() -> Result<(Switch, Guest, Guest)> {
    let switch = Switch::start()?;
    let [mut a, mut b] = [(), ()].map(|()| Guest::config().memory(GUEST).connect(switch.socket()));
    for n in 0..100 {
        let (there, back) = (noise(mac(2), mac(1), 1514, n), noise(mac(1), mac(2), 60, n));
        a.send(&there);
        assert_eq!(b.receive_frame(), there);
        b.send(&back);
        assert_eq!(a.receive_frame(), back);
    }
    Ok((switch, a, b))
}

#[test]
fn two_idle_guests_cost_no_processor() -> Result<()> {
    let (switch, a, b) = with_two_guests()?;
    let pids = [switch.supervisor_pid()?, switch.worker_pid()?];
    let look = || -> Result<_> { Ok([activity(pids[0])?, activity(pids[1])?]) };
    // Earlier work has ended: a standby is ready, the polling after the last frame is over, the last request is
    // answered.
    switch.await_status("a worker on standby", |status| status.worker.standby_pid.is_some())?;
    let mut last = look()?;
    let mut since = Instant::now();
    until("both processes to sleep", || {
        let now = look()?;
        if now != std::mem::replace(&mut last, now) {
            since = Instant::now();
        }
        Ok((since.elapsed() > SETTLED).then_some(()))
    })?;
    assert!(last.iter().all(|[sleeps, _, _]| *sleeps > 0), "both have slept: {last:?}");
    let start = Instant::now();
    while start.elapsed() < QUIET {
        let now = look()?;
        assert_eq!(now, last, "after {:?}: sleeps, preemptions, ticks of supervisor and worker", start.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop((a, b));
    Ok(())
}

#[test]
fn two_large_guests_take_little_memory() -> Result<()> {
    let (switch, a, b) = with_two_guests()?;
    for (name, pid) in [("supervisor", switch.supervisor_pid()?), ("worker", switch.worker_pid()?)] {
        let octets = rss(pid)?;
        assert!(octets < LIMIT, "the {name} has {} KiB in memory", octets / 1024);
    }
    drop((a, b));
    Ok(())
}
