//! Bursts of a ring whose frames a card may read where they are: compiled apart, so that other rings pay nothing for it.

use sv3::ids::QueueId;
use sv3::ipc::RingFault;

use super::{Burst, End, Sender, Served};
use crate::forward::forwarder::Forwarder;
use crate::port::kind::Kind;
use crate::port::vring::staying::each_held_source;
use crate::port::{Port, TransmitQueue};
use crate::process::crash_points::{CrashPoint, pass};

impl Burst {
    /// See [`Burst::serve`]. What the card has read meanwhile is completed first.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_held(
        &mut self,
        forwarder: &mut Forwarder,
        (port, id): (&'static Port, QueueId),
        queue: &mut TransmitQueue,
        budget: u64,
        may_pause: bool,
    ) -> Result<Served, RingFault> {
        let TransmitQueue { endpoint, wait_budget, rules, .. } = queue;
        if forwarder.release(endpoint) > 0 {
            endpoint.publish(port.counters(), id.index, forwarder.view.counting);
            pass(CrashPoint::Done);
        }
        let sender = Sender::of((port, id), endpoint, rules.as_deref(), budget, may_pause);
        if !forwarder.begin_observing() {
            return Ok(Served { end: End::Contended, ..Served::default() });
        }
        let now_ns = forwarder.now_ns;
        let served = each_held_source!(
            endpoint.vring(), now_ns, source => self.run(forwarder, source, &sender, wait_budget), Ok(Served::default())
        );
        forwarder.end_observing();
        let mut served = served?;
        if served.frames > 0 {
            endpoint.publish(port.counters(), id.index, forwarder.view.counting);
            served.cost += endpoint.publish_cost();
            pass(CrashPoint::Done);
        }
        Ok(served)
    }
}
