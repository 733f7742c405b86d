//! What a queue of any kind is asked, whichever way its frames go.

use sv3::ipc::RingFault;
use sv3::ledger::PortCounters;

use super::counting::Counting;

/// A queue of some kind.
pub trait Kind {
    /// Frames pass: it is started and enabled, and not broken.
    fn runs(&self) -> bool;

    /// Why it does not run though it is started.
    fn fault(&self) -> Option<RingFault>;

    /// It broke, and does not run any more.
    fn break_with(&mut self, fault: RingFault);

    /// The virtio features that say what its frames' headers may ask for.
    fn features(&self) -> u64;

    /// Octets of the net header in front of each frame (virtio 1.3, 5.1.6.1).
    fn header_len(&self) -> usize;

    /// Asks for a kick when frames come. True: some are there already, do not sleep.
    fn arm(&mut self) -> bool;

    /// Asks for no kicks while it is polled.
    fn disarm(&mut self);

    /// Makes visible what was completed or delivered, writes down in `counters` how far queue `index` is, and signals the guest if it
    /// wants that.
    fn publish(&mut self, counters: &PortCounters, index: u16, counting: Counting);

    /// What it cost to publish it the last time ([`super::cost`]): known too late to end a burst for it.
    fn publish_cost(&self) -> u64;
}
