//! How one thread sees all ports.

use sv3::ids::QueueId;
use sv3::ledger::PortCounters;

use super::counting::Counting;
use super::ports::{Port, Ports};
use super::queue::{ReceiveLease, TransmitLease};

/// A thread's view of all ports.
#[derive(Clone, Copy)]
pub struct View {
    /// All ports.
    pub ports: &'static Ports,
    /// The thread's number, with which it leases queues.
    pub number: u32,
    /// How the thread writes counters.
    pub counting: Counting,
}

/// The result of a try to lease.
pub enum Found<T> {
    /// The thread has the lease.
    Leased(T),
    /// Another thread has the lease.
    Busy,
    /// There is no such queue.
    Nowhere,
}

impl<T> Found<T> {
    fn of(lease: Option<Option<T>>) -> Found<T> {
        match lease {
            Some(Some(lease)) => Found::Leased(lease),
            Some(None) => Found::Busy,
            None => Found::Nowhere,
        }
    }

    /// The lease, if the thread got it.
    pub fn leased(self) -> Option<T> {
        match self {
            Found::Leased(lease) => Some(lease),
            _ => None,
        }
    }
}

impl View {
    /// The port of a slot, if the slot was ever used.
    #[inline]
    pub fn port(&self, slot: u16) -> Option<&'static Port> {
        self.ports.get(slot)
    }

    /// The counters of a port, if its slot was ever used.
    #[inline]
    pub fn counters(&self, slot: u16) -> Option<&'static PortCounters> {
        Some(self.port(slot)?.counters())
    }

    /// Leases a receive queue.
    #[inline]
    pub fn receive(&self, queue: QueueId) -> Found<ReceiveLease> {
        let leased = self.port(queue.slot).and_then(|port| port.receive(queue.pair()));
        Found::of(leased.map(|leased| leased.lease(self.number)))
    }

    /// Leases a transmit queue.
    #[inline]
    pub fn transmit(&self, queue: QueueId) -> Found<TransmitLease> {
        let leased = self.port(queue.slot).and_then(|port| port.transmit(queue.pair()));
        Found::of(leased.map(|leased| leased.lease(self.number)))
    }
}
