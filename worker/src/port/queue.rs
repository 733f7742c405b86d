//! The two queues of a queue pair, as threads lease them.

use super::endpoint::Endpoint;
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
    /// Its thread has paused it, and it was not stopped since.
    pub is_paused: bool,
}

/// A queue on which the guest receives. Any thread delivers to it.
#[derive(Default)]
pub struct ReceiveQueue {
    /// The queue itself.
    pub endpoint: Endpoint,
    /// Where it stood when a sender waited for its buffers in vain.
    pub futile_at: Option<u16>,
}

/// A transmit queue of a place that stays for ever.
pub type TransmitLease = Lease<TransmitQueue>;
/// A receive queue of a place that stays for ever.
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

    /// The vring that it is; `None`: its port is of another kind.
    pub fn vring(&mut self) -> Option<&mut Vring> {
        self.endpoint().vring()
    }

    /// It is stopped, so it is paused no more. True: it was.
    pub fn unpause(&mut self) -> bool {
        match self {
            QueueLease::Transmit(queue) => std::mem::take(&mut queue.is_paused),
            QueueLease::Receive(_) => false,
        }
    }

    /// Forgets everything, for the next port in the place; `endpoint` is of its kind.
    pub fn reset(&mut self, endpoint: Endpoint) {
        match self {
            QueueLease::Transmit(queue) => **queue = TransmitQueue { endpoint, ..TransmitQueue::default() },
            QueueLease::Receive(queue) => **queue = ReceiveQueue { endpoint, ..ReceiveQueue::default() },
        }
    }
}
