//! The two queues of a queue pair, as threads lease them.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::traffic_rules::TrafficRules;
use super::vring::Vring;
use super::wait_budget::WaitBudget;
use crate::sync::lease::Lease;

/// A queue on which the guest transmits. One thread takes frames from it for the life of the port.
#[derive(Default)]
pub struct TransmitQueue {
    /// The queue itself.
    pub endpoint: Endpoint,
    /// How long it may still be paused.
    pub wait_budget: WaitBudget,
    /// Its thread has paused it, and it was not stopped since then.
    pub is_paused: bool,
    /// What its frames are held to; `None`: nothing. The control thread changes it.
    pub rules: Option<Arc<TrafficRules>>,
}

/// A queue on which the guest receives. Any thread delivers to it.
#[derive(Default)]
pub struct ReceiveQueue {
    /// The queue itself.
    pub endpoint: Endpoint,
    /// Its position after a futile wait for its buffers.
    pub futile_at: Option<u16>,
    /// Which frames it gets; `None`: those of ports that know no VLANs. The control thread changes it.
    pub rules: Option<Arc<TrafficRules>>,
}

/// The lease of a transmit queue.
pub type TransmitLease = Lease<TransmitQueue>;
/// The lease of a receive queue.
pub type ReceiveLease = Lease<ReceiveQueue>;

/// The lease of a queue of either direction, for the control thread.
pub enum QueueLease {
    /// The guest transmits.
    Transmit(TransmitLease),
    /// The guest receives.
    Receive(ReceiveLease),
}

impl QueueLease {
    /// The queue itself.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        match self {
            QueueLease::Transmit(queue) => &mut queue.endpoint,
            QueueLease::Receive(queue) => &mut queue.endpoint,
        }
    }

    /// The vring, if it is one. `None`: the port is of another kind.
    pub fn vring(&mut self) -> Option<&mut Vring> {
        self.endpoint().vring()
    }

    /// Ends its pause, since it is stopped. True: it was paused.
    pub fn unpause(&mut self) -> bool {
        match self {
            QueueLease::Transmit(queue) => std::mem::take(&mut queue.is_paused),
            QueueLease::Receive(_) => false,
        }
    }

    /// Resets all state but the rules. `endpoint` is of the port's kind.
    pub fn reset(&mut self, endpoint: Endpoint) {
        let rules = self.rules().take();
        match self {
            QueueLease::Transmit(queue) => **queue = TransmitQueue { endpoint, rules, ..TransmitQueue::default() },
            QueueLease::Receive(queue) => **queue = ReceiveQueue { endpoint, rules, ..ReceiveQueue::default() },
        }
    }

    /// The rules of its port.
    pub fn rules(&mut self) -> &mut Option<Arc<TrafficRules>> {
        match self {
            QueueLease::Transmit(queue) => &mut queue.rules,
            QueueLease::Receive(queue) => &mut queue.rules,
        }
    }
}
