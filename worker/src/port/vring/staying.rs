//! Frames from a vring that a card may read where they are ([`super::held`]).

use sv3::ipc::RingFault;

use super::held::Held;
use super::transmit::{VringSource, chain};
use super::virtqueue::Virtqueue;
use crate::port::batch::{Batch, Taken};
use crate::port::sink::Stay;
use crate::port::source::Source;

/// A vring and what a card still reads of it, for one burst.
pub struct HeldSource<'q, 'm, Q> {
    /// The vring.
    pub ring: VringSource<'q, 'm, Q>,
    /// What the card reads.
    pub held: &'q mut Held,
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

/// One expression for the source of either kind of ring. `$nothing`: the ring has none.
macro_rules! each_held_source {
    ($vring:expr, $now_ns:expr, $source:ident => $do:expr, $nothing:expr) => {
        match $vring {
            Some($crate::port::vring::Vring { queue: Some(queue), held: Some(held), memory, features, .. }) => {
                $crate::port::vring::queue::either!(queue, queue => {
                    let ring = $crate::port::vring::transmit::VringSource::new(queue, memory, *features);
                    let $source = &mut $crate::port::vring::staying::HeldSource { ring, held, now_ns: $now_ns };
                    $do
                })
            }
            _ => $nothing,
        }
    };
}
pub(crate) use each_held_source;

impl<'m, Q: Virtqueue> Source<'m> for HeldSource<'_, 'm, Q> {
    const HOLDS: bool = true;

    /// Takes chains behind those that are held.
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let most = batch.places.len().min(self.held.spare()) as u16;
        let (cursor, ready) = match self.held.cursor() {
            None => (self.ring.queue.position(), self.ring.queue.prepare(most)?),
            Some(cursor) => (cursor, self.ring.queue.ready_at(cursor, most)?),
        };
        self.ring.take_from((cursor, ready), batch, budget)
    }

    fn complete(&mut self, done: &[Taken]) {
        self.ring.complete(done);
    }

    fn stay(&self) -> Stay {
        Stay { on: true, may: !self.held.is_closed(self.now_ns), behind: self.held.queue(), mark: None }
    }

    fn hold(&mut self, done: &[Taken], stay: &Stay) {
        if stay.mark.is_none() && self.held.is_empty() {
            return self.complete(done);
        }
        let queue = &self.ring.queue;
        let first = self.held.cursor().unwrap_or(queue.position());
        let cursor = done.iter().fold(first, |cursor, taken| queue.behind(cursor, &chain(taken)));
        self.held.hold(done.iter().map(chain), stay.mark, cursor, self.now_ns);
    }
}
