//! What the worker asks of a queue of any kind and direction.

use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;

use super::counting::Counting;

/// What the loop does with a queue on which the guest transmits, while it has no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenEmpty {
    /// It polls the queue for a while, since that costs less than a kick. Then it asks for a kick ([`Kind::arm`]).
    Lingers,
    /// It forgets the queue until an event comes, or until this time in nanoseconds of CLOCK_MONOTONIC.
    Rests(Option<u64>),
    /// It looks again in its next turn: there may be more.
    LooksAgain,
}

/// A queue of some kind.
pub trait Kind {
    /// Whether frames pass: it is started, enabled and not broken.
    fn runs(&self) -> bool;

    /// Why it does not run although it is started.
    fn fault(&self) -> Option<RingFault>;

    /// Notes that it broke. It no longer runs.
    fn break_with(&mut self, fault: RingFault);

    /// The virtio features that its frames' headers may use.
    fn features(&self) -> u64;

    /// Octets of the net header in front of each frame (virtio 1.3, 5.1.6.1).
    fn header_len(&self) -> usize;

    /// The first two octets of the net header of a frame whose checksum this source has verified, as a number; 0: a source
    /// that verifies nothing, or whose word does not count (virtio 1.3, 5.1.6.2.1).
    #[inline]
    fn verified(&self) -> u16 {
        0
    }

    /// Asks for a kick when frames come. True: frames are already there, so the ring must not be parked.
    fn arm(&mut self) -> bool;

    /// Asks for no kicks while the ring is polled.
    fn disarm(&mut self);

    /// What the loop does while there are no frames.
    #[inline]
    fn when_empty(&self) -> WhenEmpty {
        WhenEmpty::Lingers
    }

    /// Makes completed and delivered frames visible, writes the position of queue `index` into `counters`, and
    /// signals the guest if it asks for that.
    fn publish(&mut self, counters: &PortCounters, index: u16, counting: Counting);

    /// Whether the last burst found that there is nothing more, so that the next event tells of more.
    fn is_drained(&self) -> bool {
        false
    }

    /// The most that one burst from it may cost ([`super::cost`]). `others_wait`: rings are busy as well. A source whose
    /// frames cost a syscall each saves little by a long burst, and others wait for its end.
    fn most_of_burst(&self, others_wait: bool) -> u64 {
        let _ = others_wait;
        u64::MAX
    }

    /// What a frame that is delivered to it costs beside its octets and [`super::cost::DELIVERY`].
    #[inline]
    fn frame_cost(&self) -> u64 {
        0
    }

    /// The cost of the last publication ([`super::cost`]). A burst cannot know it in time to end before it.
    fn publish_cost(&self) -> u64;
}
