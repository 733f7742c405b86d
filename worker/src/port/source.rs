//! Where frames come from: what a burst asks of a queue that its guest transmits on, of whatever kind.

use sv3::ipc::RingFault;

use super::batch::{Batch, Taken};

/// A transmit queue, for one burst.
///
/// Frames are *taken* first, which changes nothing that anybody sees; those that are dealt with are *completed*, and
/// [`super::endpoint::Endpoint::publish`] gives their buffers back. A frame that was taken and not completed is there
/// to be taken again.
pub trait Source<'m> {
    /// Takes as many frames as there are places, and as `budget` allows; what that cost ([`super::cost`]). What it will
    /// cost to deliver them is limited by the budget as well.
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault>;

    /// These frames are done: the first ones that were taken.
    fn complete(&mut self, done: &[Taken]);
}
