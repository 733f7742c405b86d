//! A burst from one polled queue, and what came of it.

use std::sync::atomic::Ordering::Relaxed;

use sv3::ids::QueueId;

use super::Poller;
use crate::forward::burst::{End, Served};
use crate::port::cost::FILE_READ;
use crate::port::kind::{Kind, WhenEmpty};
use crate::port::sink::BufferWait;

/// What it costs to read a file often and find no whole frame ([`crate::port::cost`]).
const LOOK_AGAIN: u64 = 4 * FILE_READ;

/// The result of serving a queue.
pub(super) enum Outcome {
    /// There was no frame.
    Idle,
    /// There is no frame before the next event, or this time in nanoseconds.
    Rests(Option<u64>),
    /// Frames were taken; or none, because another thread has what the first frame needs.
    Served {
        /// How many frames were taken.
        frames: usize,
        /// Their cost.
        cost: u64,
    },
    /// Frames were taken, and the next frame waits for a buffer.
    Waits {
        /// How many frames were taken.
        frames: usize,
        /// Their cost.
        cost: u64,
        /// The buffer that the next frame waits for.
        wait: BufferWait,
        /// For how many nanoseconds at most.
        longest: u64,
    },
    /// Frames were taken, and there are no more before the next event.
    Drained,
    /// The sender has sent as much as it may until then.
    Held {
        /// How many frames were taken.
        frames: usize,
        /// Their cost.
        cost: u64,
        /// Until when, in nanoseconds.
        until: u64,
    },
    /// The queue does not run, or has just stopped.
    Stopped,
}

impl Outcome {
    /// Whether there was a frame, or may have been one.
    pub(super) fn worked(&self) -> bool {
        match self {
            Outcome::Idle | Outcome::Rests(_) | Outcome::Stopped => false,
            Outcome::Served { .. } | Outcome::Drained => true,
            Outcome::Waits { frames, .. } | Outcome::Held { frames, .. } => *frames > 0,
        }
    }
}

impl Poller {
    /// Takes a burst from a queue.
    pub(super) fn serve(&mut self, id: QueueId, budget: u64) -> Outcome {
        let Some(port) = self.threads.ports.get(id.slot) else { return Outcome::Stopped };
        let Some(leased) = port.transmit(id.pair()) else { return Outcome::Stopped };
        // A command is changing the queue.
        let Some(mut queue) = leased.lease(self.number as u32) else { return Outcome::Served { frames: 0, cost: 0 } };
        if !queue.endpoint.runs() {
            return Outcome::Stopped;
        }
        self.work_for(Some(id));
        let may_pause = !self.pauses.is_full();
        let budget = budget.min(queue.endpoint.most_of_burst(self.rings_wait));
        let result = self.burst.serve(&mut self.forwarder, (port, id), &mut queue, budget, may_pause);
        self.state.port.store(0, Relaxed);
        match result {
            Ok(Served { frames, cost, end }) => {
                queue.is_paused = matches!(end, End::Waits(..));
                if frames > 0 {
                    self.state.trace_burst(self.now_ns, id, frames as u16);
                }
                match end {
                    End::Waits(wait, longest) => Outcome::Waits { frames, cost, wait, longest },
                    End::Held(until) => Outcome::Held { frames, cost, until },
                    End::Done if frames == 0 => match queue.endpoint.when_empty() {
                        WhenEmpty::Lingers => Outcome::Idle,
                        WhenEmpty::Rests(until) => Outcome::Rests(until),
                        WhenEmpty::LooksAgain => Outcome::Served { frames, cost: LOOK_AGAIN },
                    },
                    End::Done if queue.endpoint.is_drained() => Outcome::Drained,
                    End::Done | End::Contended => Outcome::Served { frames, cost },
                }
            }
            Err(fault) => {
                queue.endpoint.break_with(fault);
                self.forwarder.note_fault(id, fault);
                Outcome::Stopped
            }
        }
    }
}
