//! Where frames come from: what a burst asks of a queue on which the guest transmits, whatever its kind.

use sv3::ipc::RingFault;

use super::batch::{Batch, Taken};
use super::sink::Stay;
use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;

/// A transmit queue, for one burst.
///
/// A burst *takes* frames first, which changes nothing visible. It *completes* the frames that are dealt with, and
/// [`super::endpoint::Endpoint::publish`] gives their buffers back. A frame that was taken and not completed can be
/// taken again.
pub trait Source<'m> {
    /// Frames of it may stay where they are until a card has read them: [`Source::stay`] and [`Source::hold`] are used.
    const HOLDS: bool = false;

    /// Takes frames, as many as there are places and as `budget` allows. Returns the cost ([`super::cost`]). The
    /// budget also limits the cost to deliver them.
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault>;

    /// The first octets of a taken frame in its slices, read once. What is in front of the frame is a net header of
    /// [`super::kind::Kind::header_len`] octets.
    #[inline(always)]
    fn head(&self, taken: &Taken, slices: &[GuestSlice<'m>]) -> FrameHead {
        let _ = taken;
        FrameHead::read(slices)
    }

    /// Completes these frames: the first ones that were taken.
    fn complete(&mut self, done: &[Taken]);

    /// Whether a card may read the frames where they are.
    fn stay(&self) -> Stay {
        Stay::OFF
    }

    /// Completes these frames, or holds them, after they were delivered.
    fn hold(&mut self, done: &[Taken], stay: &Stay) {
        let _ = stay;
        self.complete(done);
    }
}
