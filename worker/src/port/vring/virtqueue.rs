//! What bursts and deliveries ask of a virtqueue, split or packed.
//!
//! The worker *takes* chains from a cursor on, which begins at the queue's position. It *completes* them in the same
//! order, which moves the position. It *publishes* them together. A chain that is taken and not completed has changed
//! nothing.

use sv3::ipc::RingFault;

use super::chain::Walker;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;

/// What is known of a chain when it is completed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain {
    /// Split: index of the first descriptor. Packed: the buffer id.
    pub id: u16,
    /// Packed: the number of its descriptors.
    pub descriptors: u16,
    /// Octets of its buffers. `None`: it breaks the specification.
    pub len: Option<usize>,
}

/// What the data path asks of a ring.
pub trait Virtqueue {
    /// The next chain to take: the vring base.
    fn position(&self) -> u16;

    /// Looks for available chains and prefetches them. Returns how many there are at most, up to `batch`.
    fn prepare(&mut self, batch: u16) -> Result<u16, RingFault>;

    /// How many chains of one descriptor are available, up to `most`; or fewer, if it is not cheap to know.
    fn ready(&mut self, most: u16) -> u16;

    /// Takes the chain at `cursor`, if there is one, and moves the cursor behind it. Its slices are appended to `out`.
    fn take<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        out: &mut SliceList<'_, 'm>,
    ) -> Result<Option<Chain>, RingFault>;

    /// How many chains there are from a cursor on, which lies behind the position; at most `batch`.
    fn ready_at(&mut self, cursor: u16, batch: u16) -> Result<u16, RingFault>;

    /// The cursor behind a chain that was taken at `cursor`.
    fn behind(&self, cursor: u16, chain: &Chain) -> u16;

    /// Takes up to `most` plain chains: chains of one buffer in the region of the last look-up. Stops when `each`
    /// returns false. Returns how many were taken. Looks no further than the last look did.
    fn take_plain<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        most: usize,
        each: impl FnMut(Chain, GuestSlice<'m>) -> bool,
    ) -> usize;

    /// Whether `chains` more chains can be completed before [`Virtqueue::make_room`]; at most
    /// [`sv3::ledger::JOURNAL_LEN`].
    fn has_room(&self, chains: usize) -> bool;

    /// Makes completed chains visible, so that more can be completed.
    fn make_room(&mut self);

    /// Completes a chain into which `len` octets were written. It is not visible before [`Virtqueue::publish`].
    fn complete(&mut self, chain: &Chain, len: u32);

    /// Completes many chains. There is room for them.
    fn complete_all(&mut self, chains: impl Iterator<Item = (Chain, u32)>) {
        chains.for_each(|(chain, len)| self.complete(&chain, len));
    }

    /// Takes and completes up to `most` plain chains. `each` says how many octets it wrote; it ends the loop with
    /// `None`. Returns how many were completed. There is room for them.
    fn fill_plain<'m>(
        &mut self,
        walker: &Walker<'m>,
        most: usize,
        each: impl FnMut(GuestSlice<'m>) -> Option<u32>,
    ) -> usize;

    /// Makes completed chains visible. True: the driver asks for a signal.
    fn publish(&mut self) -> bool;

    /// Asks for a kick when the driver makes something available. True: something is already available, so the ring
    /// must not be parked.
    fn arm(&mut self) -> bool {
        self.arm_at(self.position())
    }

    /// Asks for a kick when the driver makes the chain at `cursor` available. True: [`Virtqueue::is_ready`] already.
    fn arm_at(&mut self, cursor: u16) -> bool;

    /// Whether there is a chain at `cursor`. The cursor may lie up to the ring's length ahead; if the ring has passed
    /// it, the answer is true.
    fn is_ready(&self, cursor: u16) -> bool;

    /// Asks for no kicks while the ring is polled.
    fn disarm(&mut self);
}
