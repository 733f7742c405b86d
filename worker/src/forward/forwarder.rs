//! Forwarding: all ports and the forwarding table. One frame comes in, none or several go out. Each thread has its
//! own view.

use sv3::frame::MacAddr;
use sv3::ids::QueueId;
use sv3::ipc::RingFault;
use sv3::ledger::{Ledger, ThreadState};

use super::fdb::Fdb;
use super::leases::Leases;
use crate::port::view::View;

/// What one thread needs to forward frames.
pub struct Forwarder {
    /// All ports.
    pub view: View,
    pub(super) fdb: Fdb<'static>,
    /// The ledger's state of this thread.
    pub(super) thread: &'static ThreadState,
    pub(super) leases: Leases,
    /// Current time in seconds. The loop updates it.
    pub now_s: u64,
    /// Current time in nanoseconds.
    pub now_ns: u64,
    /// Something was noted for the control thread.
    pub(super) has_noted: bool,
}

impl Forwarder {
    /// The forwarder of one thread. It uses the forwarding table of the ledger.
    pub fn new(ledger: &'static Ledger, thread: &'static ThreadState, view: View, leases: Leases) -> Forwarder {
        Forwarder { view, fdb: Fdb::new(ledger), thread, leases, now_s: 0, now_ns: 0, has_noted: false }
    }

    /// Notes that an address was seen on a port.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn learn(&self, mac: MacAddr, port: u16) {
        self.fdb.learn(mac, port, self.now_s, self.view.ports);
    }

    /// The port that an address was last seen on.
    #[cfg(test)]
    pub fn find(&self, mac: MacAddr) -> Option<u16> {
        self.fdb.find(mac, self.now_s)
    }

    /// Forgets the addresses of a port.
    pub fn forget(&self, slot: u16) {
        self.fdb.forget(slot);
    }

    /// Forgets the addresses of all other ports than these.
    pub fn retain(&self, keep: impl Fn(u16) -> bool) {
        self.fdb.retain(keep);
    }

    /// The addresses of these ports.
    pub fn addresses(&self, of: impl Fn(u16) -> bool) -> impl Iterator<Item = MacAddr> {
        self.fdb.addresses(self.now_s, of)
    }

    /// Marks the addresses of these ports, to be announced to the network. True: there are some.
    pub fn mark_all(&self, of: impl Fn(u16) -> bool) -> bool {
        self.fdb.mark_all(self.now_s, of)
    }

    /// Whether something was noted for the control thread since the last call: a port's notes
    /// ([`crate::port::rules`]), or a mark.
    pub fn take_noted(&mut self) -> bool {
        std::mem::take(&mut self.has_noted)
    }

    /// Counts the entries of the forwarding table again, before the worker serves: the last worker may have died
    /// before it counted.
    pub fn recount(&self) {
        self.fdb.recount();
    }

    /// Leases the thread's captures and mirrors for a burst, if there are some. False: they are being changed.
    #[inline]
    #[must_use]
    pub fn begin_observing(&mut self) -> bool {
        if !self.view.ports.observers.is_on() || self.leases.observers.is_some() {
            return true;
        }
        self.leases.observers = self.view.ports.observers.lease(self.view.number);
        self.leases.observers.is_some()
    }

    /// Ends that, and shows readers of captures what was recorded.
    #[inline]
    pub fn end_observing(&mut self) {
        if let Some(mut observers) = self.leases.observers.take() {
            observers.publish();
        }
    }

    /// The next queue that broke. Each is reported once.
    pub fn next_fault(&mut self) -> Option<(QueueId, RingFault)> {
        self.leases.next_fault()
    }

    /// Notes that a queue broke. It no longer runs.
    pub fn note_fault(&mut self, queue: QueueId, fault: RingFault) {
        self.leases.note_fault(queue, fault);
    }
}
