//! Frames from a vring on which the guest transmits (virtio 1.3, 5.1.6.2).

use sv3::ids::Direction;
use sv3::ipc::RingFault;

use super::chain::Walker;
use super::virtqueue::{Chain, Virtqueue};
use crate::memory::frame_head::HEAD_LEN;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::slice::GuestSlice;
use crate::port::batch::{Batch, MAX_SLICES, Taken};
use crate::port::cost::{DELIVERY, DESCRIPTOR, FRAME};
use crate::port::source::Source;

/// A vring of one kind and its guest's memory, for one burst.
pub struct VringSource<'q, 'm, Q> {
    pub(super) queue: &'q mut Q,
    walker: Walker<'m>,
}

impl<'q, 'm, Q: Virtqueue> VringSource<'q, 'm, Q> {
    /// The source for a virtqueue whose buffers lie in `memory`.
    #[inline]
    pub fn new(queue: &'q mut Q, memory: &'m GuestMemory, features: u64) -> VringSource<'q, 'm, Q> {
        VringSource { queue, walker: Walker { memory, features, direction: Direction::Transmit } }
    }
}

/// See [`crate::port::endpoint`].
macro_rules! each_source {
    ($vring:expr, $source:ident => $do:expr, $nothing:expr) => {
        match $vring {
            $crate::port::vring::Vring { queue: Some(queue), memory, features, .. } => {
                $crate::port::vring::queue::either!(queue, queue => {
                    let $source = &mut $crate::port::vring::transmit::VringSource::new(queue, memory, *features);
                    $do
                })
            }
            _ => $nothing,
        }
    };
}
pub(crate) use each_source;

impl<'m, Q: Virtqueue> Source<'m> for VringSource<'_, 'm, Q> {
    #[inline(always)]
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let ready = self.queue.prepare(batch.places.len() as u16)?;
        self.take_from((self.queue.position(), ready), batch, budget)
    }

    #[inline]
    fn complete(&mut self, done: &[Taken]) {
        self.queue.complete_all(done.iter().map(|taken| (chain(taken), 0)));
    }
}

impl<'m, Q: Virtqueue> VringSource<'_, 'm, Q> {
    /// Takes up to `ready` chains from the cursor on.
    #[inline(always)]
    pub(super) fn take_from(
        &mut self,
        (mut cursor, ready): (u16, u16),
        batch: &mut Batch<'_, 'm>,
        budget: u64,
    ) -> Result<u64, RingFault> {
        let VringSource { queue, walker } = self;
        let places = batch.places.get_mut(..ready.into()).unwrap_or_default();
        let slices = &mut batch.slices;
        // `spent`: the cost so far, and what it will cost to deliver these frames.
        let (mut count, mut cost, mut spent) = (0, 0, 0);
        loop {
            let (most, mut at) = (places.len() - count, slices.len());
            let mut free = places.iter_mut().skip(count).zip(slices.room());
            let plain = queue.take_plain(&mut cursor, walker, most, |chain, slice| {
                let Some((taken, place)) = free.next().filter(|_| spent < budget) else { return false };
                *place = slice;
                prefetch_head(&slice);
                spent += FRAME + DESCRIPTOR + DELIVERY + slice.len() as u64;
                note(taken, &chain, at, 1);
                at += 1;
                true
            });
            slices.grow(plain);
            count += plain;
            cost += (FRAME + DESCRIPTOR) * plain as u64;
            let Some(taken) = places.get_mut(count) else { break };
            if slices.spare() < MAX_SLICES || spent >= budget {
                break;
            }
            let from = slices.len();
            let chain = match queue.take(&mut cursor, walker, slices) {
                Ok(Some(chain)) => chain,
                // A fault waits until the frames before it are served.
                Ok(None) | Err(_) if count > 0 => break,
                Ok(None) => return Ok(0),
                Err(fault) => return Err(fault),
            };
            note(taken, &chain, from, slices.len() - from);
            let costs = FRAME + DESCRIPTOR * std::mem::take(&mut slices.walked);
            cost += costs;
            spent += costs + chain.len.map_or(0, |len| DELIVERY + len as u64);
            if let Some(first) = slices.from(from).first() {
                prefetch_head(first);
            }
            count += 1;
        }
        batch.count = count;
        Ok(cost)
    }
}

/// The chain of a taken frame.
#[inline(always)]
pub(super) fn chain(taken: &Taken) -> Chain {
    Chain { id: taken.id, descriptors: taken.parts, len: taken.len() }
}

#[inline(always)]
fn note(taken: &mut Taken, chain: &Chain, from: usize, pieces: usize) {
    (taken.id, taken.parts) = (chain.id, chain.descriptors);
    taken.lies(chain.len, from, pieces);
}

/// Prefetches the net header and the frame's first octets, which may lie in the next cache line.
#[inline]
fn prefetch_head(slice: &GuestSlice<'_>) {
    slice.prefetch(0);
    slice.prefetch(HEAD_LEN - 1);
}
