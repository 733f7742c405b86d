//! Forwarding: all ports and the forwarding table; one frame in, none or some frames out. Each thread has its own view.

#[cfg(test)]
use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::ledger::{Ledger, ThreadState};

use super::fdb::Fdb;
use super::leases::Leases;
use crate::port::view::View;

/// What a thread forwards with.
pub struct Forwarder {
    /// All ports.
    pub view: View,
    pub(super) fdb: Fdb<'static>,
    /// What the thread is at.
    pub(super) thread: &'static ThreadState,
    pub(super) leases: Leases,
    /// Seconds, brought up to date by the loop.
    pub now_s: u64,
    /// The same in nanoseconds.
    pub now_ns: u64,
}

impl Forwarder {
    /// A thread's. The forwarding table is the one that the ledger holds.
    pub fn new(ledger: &'static Ledger, thread: &'static ThreadState, view: View, leases: Leases) -> Forwarder {
        Forwarder { view, fdb: Fdb::new(ledger), thread, leases, now_s: 0, now_ns: 0 }
    }

    /// Notes that an address was seen on a port.
    #[cfg(test)]
    pub fn learn(&self, mac: MacAddr, port: u16) {
        self.fdb.learn(mac, port, self.now_s);
    }

    /// Forgets the addresses of a port.
    pub fn forget(&self, slot: u16) {
        self.fdb.forget(slot);
    }

    /// Begins to serve: what the last worker did not come to count is counted.
    pub fn recount(&self) {
        self.fdb.recount();
    }

    /// A queue that broke. Each is told of once.
    pub fn next_fault(&mut self) -> Option<(QueueId, RingFault)> {
        self.leases.next_fault()
    }

    /// A queue broke, which does not run any more.
    pub fn note_fault(&mut self, queue: QueueId, fault: RingFault) {
        self.leases.note_fault(queue, fault);
    }
}
