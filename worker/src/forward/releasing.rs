//! Chains of a ring that a card has read meanwhile ([`crate::port::vring::held`]): the thread of the ring asks the card
//! before each burst.

use super::forwarder::Forwarder;
use crate::nic::fault::Fault;
use crate::port::card::CardQueue;
use crate::port::endpoint::Endpoint;
use crate::port::kind::Kind;
use crate::port::view::Found;
use crate::port::vring::Vring;

impl Forwarder {
    /// Completes chains of a ring that a card has read. Returns how many. They are not published.
    pub fn release(&mut self, endpoint: &mut Endpoint) -> usize {
        let Some(vring) = endpoint.vring() else { return 0 };
        let Some(queue) = vring.held.as_ref().and_then(|held| held.queue()) else { return 0 };
        let Found::Leased(mut reader) = self.view.receive(queue) else { return 0 };
        // Otherwise the control thread has stopped the card, and is about to let go of the chains.
        let Some(card) = reader.endpoint.card() else { return 0 };
        let released = released(vring, card, self.now_ns);
        released.unwrap_or_else(|fault| {
            if reader.endpoint.fault().is_none() {
                self.leases.note_fault(queue, fault.into());
            }
            reader.endpoint.break_with(fault.into());
            0
        })
    }
}

/// A card that stands still is asked for its frames back. The card is asked first: a thread that did not run for long finds
/// that the card is done.
fn released(vring: &mut Vring, card: &mut CardQueue, now_ns: u64) -> Result<usize, Fault> {
    let count = vring.release(&card.progress()?, now_ns);
    if count > 0 || !vring.held.as_mut().is_some_and(|held| held.rests(now_ns)) {
        return Ok(count);
    }
    card.recall()?;
    Ok(vring.release(&card.progress()?, now_ns))
}
