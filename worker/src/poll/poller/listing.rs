//! Which queues a thread polls: those that are listed. A queue that is parked, and one that is gone, is not.

use sv3::ids::QueueId;

use super::super::fair_share::Credit;
use super::super::pause::Resumed;
use super::{Polled, Poller};
use crate::port::kind::{Kind, WhenEmpty};
use crate::process::clock;

impl Poller {
    /// Parks all queues that got no frames meanwhile.
    pub(super) fn park_all(&mut self) {
        let mut at = 0;
        while let Some(Polled { queue, .. }) = self.polled.get(at).copied() {
            match self.park(queue) {
                true => self.unlist(at),
                false => at += 1,
            }
        }
        while let Some(resumed) = self.pauses.arm(&self.forwarder.view, self.now_ns) {
            self.resume(resumed);
        }
    }

    /// Parks a queue until it is kicked. False: frames came meanwhile.
    pub(super) fn park(&mut self, queue: QueueId) -> bool {
        let Some(mut queue) = self.forwarder.view.transmit(queue).leased() else { return false };
        let has_frames = queue.endpoint.arm();
        if has_frames {
            queue.endpoint.disarm();
        }
        !has_frames
    }

    /// Begins to poll a queue, if it runs and is not polled already.
    pub fn poll(&mut self, id: QueueId) {
        let Some(pairs) = self.listed.get_mut(usize::from(id.slot)) else { return };
        let Some(pair) = 1u32.checked_shl(u32::from(id.pair())).filter(|pair| *pairs & pair == 0) else { return };
        let mut lingers = true;
        // A queue that a command is changing is listed as well: the next turn looks again.
        if let Some(mut queue) = self.forwarder.view.transmit(id).leased() {
            if !queue.endpoint.runs() {
                return;
            }
            queue.endpoint.disarm();
            // A ring may rest, for a card that reads it.
            lingers = queue.endpoint.when_empty() == WhenEmpty::Lingers || queue.endpoint.holds();
        }
        *pairs |= pair;
        let (busy_ns, credit) = (clock::now_ns(), Credit::default());
        self.polled.push(Polled { queue: id, busy_ns, credit, remaining: None, lingers });
    }

    /// The same for a queue that was started, stopped or changed. Ends its pause, if it is paused.
    pub fn rouse(&mut self, queue: QueueId) {
        match self.pauses.release(queue, &self.forwarder.view, self.now_ns) {
            Some(resumed) => self.resume(resumed),
            None => self.poll(queue),
        }
    }

    /// Tries all paused queues again: a command may have changed something for them.
    pub fn resume_all(&mut self) {
        while let Some(resumed) = self.pauses.next(&self.forwarder.view, self.now_ns) {
            self.resume(resumed);
        }
    }

    pub(super) fn resume(&mut self, (entry, remaining): Resumed<Polled>) {
        self.polled.push(Polled { busy_ns: self.now_ns, remaining, ..entry });
    }

    /// Removes an entry from the list.
    pub(super) fn unlist(&mut self, at: usize) {
        let Polled { queue, .. } = self.polled.swap_remove(at);
        if let Some(pairs) = self.listed.get_mut(usize::from(queue.slot)) {
            *pairs &= !(1 << queue.pair());
        }
    }
}
