//! The watch over the serving worker: that it makes progress and that no client blocks it. Chaos mode also kills it
//! from here.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::workers::Workers;
use crate::workers::chaos::Chaos;
use crate::workers::cpu_time::Moment;
use crate::workers::watchdog::{Trouble, Watchdog};

/// After the worker has been busy with a command for this long, the supervisor looks for a client that blocks it. Also
/// the time between two looks.
const STALL_LOOK: Duration = Duration::from_millis(20);

/// The state of the watch.
pub struct Watch {
    /// Watches that the worker makes progress.
    pub dog: Watchdog,
    /// The thread that hung, if the worker was killed for that.
    pub hung: Option<usize>,
    /// When the supervisor last looked for a client that blocks the worker.
    stall_look: Option<Instant>,
    /// At that look, a client was disconnected that blocked the worker or was about to.
    stalled: bool,
    chaos: Option<Chaos>,
}

/// What the supervisor knows when it looks for a client that blocks the worker.
pub struct StallLook {
    /// The worker makes no progress at the moment.
    pub held_up: bool,
    /// A client that was disconnected at the last look, or a port that was stopped, may have blocked it already.
    pub stalled_before: bool,
}

impl Watch {
    /// No worker is watched yet.
    pub fn new(threads: u16, chaos: Option<Duration>) -> Watch {
        let dog = Watchdog::new(threads.into());
        Watch { dog, hung: None, stall_look: None, stalled: false, chaos: chaos.map(Chaos::new) }
    }

    /// The worker is dead: begins anew for the next one.
    pub fn begin_anew(&mut self, threads: u16) {
        (self.dog, self.hung, self.stalled) = (Watchdog::new(threads.into()), None, false);
    }

    /// Whether chaos mode kills workers.
    pub fn is_chaotic(&self) -> bool {
        self.chaos.is_some()
    }

    /// When chaos mode kills next.
    pub fn next_kill(&self) -> Option<Instant> {
        self.chaos.as_ref().map(|chaos| chaos.next)
    }
}

impl Workers {
    /// When to look next for a client that blocks the worker, if at all. While frames pass, the watchdog's deadline
    /// counts.
    pub fn stall_due(&self) -> Option<Instant> {
        let asked = self.serving.as_ref()?.waits_since()?;
        Some(self.watch.stall_look.map_or(asked, |last| last.max(asked)) + STALL_LOOK)
    }

    /// Begins a look for a client that blocks the worker. Must be called before the watchdog looks.
    pub fn begin_stall_look(&mut self, now: Instant) -> StallLook {
        let waits = self.stall_due().is_some_and(|due| due <= now);
        self.watch.stall_look = Some(now);
        let area = self.serving.as_ref().and_then(|worker| self.area(worker.area));
        let held_up = waits || area.is_some_and(|area| self.watch.dog.stands_still(area));
        StallLook { held_up, stalled_before: std::mem::take(&mut self.watch.stalled) }
    }

    /// Ends the look: kills a worker that such a client blocks.
    pub fn end_stall_look(&mut self, look: &StallLook, found: bool) {
        match self.serving.as_mut().filter(|_| look.held_up && (found || look.stalled_before)) {
            Some(worker) => worker.kill("it waited for a full call eventfd, or for a file that was made to block"),
            None => self.watch.stalled = found,
        }
    }

    /// Kills a worker that hangs or is stuck.
    pub fn look_after(&mut self) {
        let Some(worker) = &mut self.serving else { return };
        let Some(area) = self.ledger.workers.get(usize::from(worker.area)) else { return };
        // A worker that was killed already keeps its first reason.
        match self.watch.dog.look(area, Moment::of(worker.pid)).filter(|_| worker.kill_reason().is_none()) {
            Some(Trouble::Hangs(thread)) => {
                self.watch.hung = Some(thread);
                let which = if self.config.threads > 1 { format!("its thread {thread}") } else { "it".to_string() };
                worker.kill(&format!("{which} hangs: it is awake and runs, but made no progress in half a second"));
            }
            Some(Trouble::Stuck) => worker.kill("it is stuck: awake, but it has not run and made no progress in 10 s"),
            None => {}
        }
    }

    /// Kills the worker for chaos mode.
    pub fn kill_at_random(&mut self) {
        // Without a worker, the kill waits for the next one.
        let (Some(worker), Some(chaos)) = (&self.serving, &mut self.watch.chaos) else { return };
        chaos.plan();
        if let Some(pid) = worker.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills workers that are late with a command. Returns a killed worker whose death the kernel does not report in
    /// time: it is handled as dead.
    pub fn expire_late(&mut self, now: Instant) -> Option<Pid> {
        let mut gone = None;
        for worker in self.both_mut().filter(|worker| worker.due().is_some_and(|due| due <= now)) {
            match worker.kill_reason() {
                Some(_) => gone = worker.pid.or(gone),
                None => worker.is_overdue(now),
            }
        }
        gone.inspect(|pid| self.children.bury(*pid))
    }
}
