//! The watch over the worker that serves: that it gets on, that no client blocks it, and that chaos mode kills it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::workers::Workers;
use crate::workers::chaos::Chaos;
use crate::workers::cpu_time::Moment;
use crate::workers::watchdog::{Trouble, Watchdog};

/// How long the worker may be at a command until one looks what holds it up, and the time between two looks.
const STALL_LOOK: Duration = Duration::from_millis(20);

/// What is watched.
pub struct Watch {
    /// Whether it gets on.
    pub dog: Watchdog,
    /// The worker was killed because this thread of it hung.
    pub hung: Option<usize>,
    /// When it was last looked whether a client blocks the worker.
    stall_look: Option<Instant>,
    /// A client was sent away then that blocks the worker, or is about to.
    stalled: bool,
    chaos: Option<Chaos>,
}

/// What a look for a client that blocks the worker is to find out.
pub struct StallLook {
    /// The worker gets nowhere at the moment.
    pub held_up: bool,
    /// A client that was sent away at the last look may have blocked it already.
    pub stalled_before: bool,
}

impl Watch {
    /// No worker is watched yet.
    pub fn new(threads: u16, chaos: Option<Duration>) -> Watch {
        let dog = Watchdog::new(threads.into());
        Watch { dog, hung: None, stall_look: None, stalled: false, chaos: chaos.map(Chaos::new) }
    }

    /// The worker is dead: another one is watched next.
    pub fn begin_anew(&mut self, threads: u16) {
        (self.dog, self.hung, self.stalled) = (Watchdog::new(threads.into()), None, false);
    }

    /// Workers are killed at random.
    pub fn is_chaotic(&self) -> bool {
        self.chaos.is_some()
    }

    /// When chaos mode kills next.
    pub fn next_kill(&self) -> Option<Instant> {
        self.chaos.as_ref().map(|chaos| chaos.next)
    }
}

impl Workers {
    /// When to look next for a client that blocks the worker, if at all. While frames pass that goes by the
    /// watchdog's time.
    pub fn stall_due(&self) -> Option<Instant> {
        let asked = self.serving.as_ref()?.waits_since()?;
        Some(self.watch.stall_look.map_or(asked, |last| last.max(asked)) + STALL_LOOK)
    }

    /// Begins a look for a client that blocks the worker. To be called before the watchdog has looked.
    pub fn begin_stall_look(&mut self, now: Instant) -> StallLook {
        let waits = self.stall_due().is_some_and(|due| due <= now);
        self.watch.stall_look = Some(now);
        let area = self.serving.as_ref().and_then(|worker| self.area(worker.area));
        let held_up = waits || area.is_some_and(|area| self.watch.dog.stands_still(area));
        StallLook { held_up, stalled_before: std::mem::take(&mut self.watch.stalled) }
    }

    /// Ends it: a worker that such a client holds up is replaced.
    pub fn end_stall_look(&mut self, look: &StallLook, found: bool) {
        match self.serving.as_mut().filter(|_| look.held_up && (found || look.stalled_before)) {
            Some(worker) => worker.kill("a client's call eventfd was full, and a signal blocked it"),
            None => self.watch.stalled = found,
        }
    }

    /// Kills a worker that hangs or is stuck.
    pub fn look_after(&mut self) {
        let Some(worker) = &mut self.serving else { return };
        let Some(area) = self.ledger.workers.get(usize::from(worker.area)) else { return };
        // One that was killed for another reason has that one.
        match self.watch.dog.look(area, Moment::of(worker.pid)).filter(|_| worker.kill_reason().is_none()) {
            Some(Trouble::Hangs(thread)) => {
                self.watch.hung = Some(thread);
                let which = if self.config.threads > 1 { format!("thread {thread} of it") } else { "it".to_string() };
                worker.kill(&format!("{which} hangs: awake and running, and no progress in half a second"));
            }
            Some(Trouble::Stuck) => worker.kill("it is stuck: awake, not running, and no progress in 10 s"),
            None => {}
        }
    }

    /// Kills a worker because chaos mode wants it dead.
    pub fn kill_at_random(&mut self) {
        // Without a worker it waits for the next one.
        let (Some(worker), Some(chaos)) = (&self.serving, &mut self.watch.chaos) else { return };
        chaos.plan();
        if let Some(pid) = worker.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills workers that are late with what they were told. Returns one that was killed and that the kernel does not
    /// say is dead: it is taken for dead.
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
